/** What a gateway may take on its disk, and what it does when that is used up. */
export interface QuotaPolicy {
  readonly diskBytesMax: number;
  readonly whenFull: "reject" | "drop-oldest";
}

/** Shares of the cap. The room above `high` is for what the log's own housekeeping needs. */
const SHARE = { high: 0.95, rejectUntil: 0.9, shrinkTo: 0.85 } as const;

export interface QuotaDecision {
  /** New events are refused until the next decision. */
  readonly refuse: boolean;
  /** Raw bytes that may be accepted before the next decision; Infinity: any. */
  readonly allowanceBytes: number;
  /** Make room until the log takes at most this, by what the policy allows for; undefined: there is no need. */
  readonly shrinkToBytes: number | undefined;
}

/**
 * Decides from what the log takes now. Accepted bytes count in full until they are on disk, although they will take less there: the
 * cap is a promise. `reject` refuses from 95 % on until the log is below 90 % again, so that a device does not meet a flapping
 * gateway; once nothing is held any more, space that was freed but is kept for recovery is taken back where it keeps events out, as
 * nothing else would do it. `drop-oldest` makes room from 95 % on, or where `wantedBytes` that were refused need it, and refuses only
 * at the cap itself, while the room is being made.
 */
export function decideQuota(
  policy: QuotaPolicy,
  now: {
    readonly diskBytes: number;
    readonly eventsHeld: number;
    readonly pendingBytes: number;
    readonly refusing: boolean;
    /** Size of events that were refused since. */
    readonly wantedBytes: number;
  },
): QuotaDecision {
  const cap = policy.diskBytesMax;
  const high = cap * SHARE.high;
  const used = now.diskBytes + now.pendingBytes;
  const shrinkTo = (limit: number) => Math.max(0, Math.floor(Math.min(cap * SHARE.shrinkTo, limit - now.wantedBytes)));
  if (policy.whenFull === "reject") {
    const refuse = used >= (now.refusing ? cap * SHARE.rejectUntil : high);
    const lacking = refuse || (used + now.wantedBytes > high && now.wantedBytes <= high);
    return {
      refuse,
      allowanceBytes: refuse ? 0 : high - now.diskBytes,
      shrinkToBytes: lacking && now.eventsHeld === 0 ? shrinkTo(high) : undefined,
    };
  }
  const refuse = used >= cap;
  const crowded = now.diskBytes >= high || now.diskBytes + now.wantedBytes > cap;
  return {
    refuse,
    allowanceBytes: refuse ? 0 : cap - now.diskBytes,
    shrinkToBytes: crowded ? shrinkTo(cap) : undefined,
  };
}
