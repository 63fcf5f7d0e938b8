import type { StreamInfo } from "@tributary/common/stream-service";
import type { Copy, EdgeLogs } from "../check/edge-logs.ts";
import { checkKeySpace } from "../check/key-space.ts";
import { runOf } from "../check/plain.ts";
import { StreamVerifier } from "../check/stream-verifier.ts";
import { checkSubmissions, type Excuse, Gaps, type StreamRead } from "../check/submissions.ts";
import type { Ledger, Loss, Seen, Submission } from "./ledger.ts";
import { UNDER_WAY_MS_MAX } from "./stream-fates.ts";

export type { Excuse } from "../check/submissions.ts";

export interface CompleteRead {
  readonly info: StreamInfo;
  readonly records: readonly Seen[];
}

export interface CheckerFacts {
  readonly ledger: Ledger;
  /** What the gateways' logs were given. */
  readonly logs: EdgeLogs;
  /** When the read began. */
  readonly beganMs: number;
  /** Records that the counting frames have of a stream. */
  readonly countOf: (streamId: string) => number;
  /** The same, before it began: a request that somebody gave up long ago may land at any time. */
  readonly countBefore: (streamId: string) => number;
  /** The counting frames have the record now: no log lost it. */
  readonly isCurrent: (streamId: string, record: Seen) => boolean;
  /** A gateway was cloned or set back: its incarnations are no chain any more. */
  readonly branched: boolean;
  /** Streams of the core that hold or held an event. */
  readonly holdersOf: (id: number) => readonly string[];
  /** Streams of the core that have or had a gap record of it. */
  readonly declaredIn: (copy: Copy) => readonly string[];
  /** Damage keeps the stream from being read. */
  readonly isUnreadable: (streamId: string) => boolean;
  /** What else than the loss or the drop of its own record in the log excuses an event. */
  readonly excuse: (submission: Submission) => Excuse;
  /** It may have met a server that knew no more why it is forbidden: it was under way as the stream was deleted, or a log went back. */
  readonly mayBeTaken: (submission: Submission) => boolean;
  /** A stream that is deleted held it. */
  readonly wasDeleted: (id: number) => boolean;
  /** A closed stream other than this one held the event. */
  readonly wasClosed: (id: number, streamId: string) => boolean;
  /** When a stream was given an event once more that the core's logs had lost. */
  readonly cameAgainMs: (id: number, streamId: string) => number | undefined;
  /** The stream of the core is deleted or closed. */
  readonly hasEnded: (streamId: string) => boolean;
}

/** What losses allow for an event, beside that the records which they took are missing. */
export function excuseOf(losses: readonly Loss[], submission: Submission): Excuse {
  let [missing, doubled] = [false, false];
  for (const loss of losses) {
    // What the core's logs lost is not there to be doubled.
    if (loss.writer !== submission.writer || loss.writer === "core") continue;
    // Sent again after it, since the answer got lost: the server cannot know it any more.
    if (submission.firstMs <= loss.atMs && submission.lastMs >= loss.atMs) doubled = true;
  }
  return { missing, doubled };
}

/** Judges the end of a story by the invariants 1 to 4, from plain records alone. */
export function checkReads(reads: readonly CompleteRead[], facts: CheckerFacts): void {
  const { ledger, logs, beganMs, excuse, declaredIn, isUnreadable, mayBeTaken, wasDeleted, wasClosed, cameAgainMs, hasEnded } = facts;
  for (const submission of ledger.submissions) submission.refused ||= submission.forbidden && !mayBeTaken(submission);
  const streams = reads.map(({ info, records }): StreamRead => ({ stream: `${info.name.scope}/${info.name.stream}`, ...info, records }));
  const gaps = new Gaps(streams);
  for (const read of reads) {
    checkKeySpace(read.info.name.stream, read.info.segments, ledger.violate);
    checkNumbers(read, gaps, facts);
  }
  checkSubmissions(streams, {
    submissions: ledger.submissions,
    logs,
    beganMs,
    excuse: (of) => excuse(of as Submission),
    isDeclaredUnread: (copy) => declaredIn(copy).some(isUnreadable),
    wasDeleted,
    wasClosed,
    cameAgainMs,
    underWayMsMax: UNDER_WAY_MS_MAX,
    hasEnded,
    violate: ledger.violate,
  });
}

/**
 * Ordinals and numbers without holes. Without a gap record only those may be missing that the writer itself never knew after a loss, or
 * that another stream has, or declares lost: one that was deleted or closed, and continued in this one; or of which the gap record may have
 * gone with it.
 */
function checkNumbers({ info, records }: CompleteRead, gaps: Gaps, facts: CheckerFacts): void {
  const { ledger, logs, countOf, countBefore, isCurrent, branched, holdersOf, declaredIn, excuse } = facts;
  const verifier = new StreamVerifier({ branched });
  /** The gateways' streams that were continued in this one. */
  const origins = new Map<string, Set<string>>();
  for (const record of records) {
    verifier.add(record);
    const run = runOf(record);
    const copy = logs.find(record.id, run, record.number, info.id);
    if (copy) origins.set(run, (origins.get(run) ?? new Set()).add(copy.localId));
  }
  const isExplained = (copy: Copy) => {
    const { id, record, localId } = copy;
    if (record.forgotten || [...holdersOf(id), ...declaredIn(copy)].some((streamId) => streamId !== info.id)) return true;
    if (gaps.declare(copy, logs.mappedOf(localId))) return true;
    const submission = ledger.submissions[id];
    return submission !== undefined && excuse(submission).missing;
  };
  const report = verifier.finish(1, (run, from, to) => {
    // Where only gap records are there, they do not say of which of the gateway's streams they are.
    const localIds = [...(origins.get(run) ?? logs.streamsOf(run))];
    let explained = 0;
    for (let number = from; number <= to; number++) {
      if (localIds.some((localId) => logs.numbered(run, localId, number).some(isExplained))) explained++;
    }
    return explained;
  });
  for (const { invariant, kind, detail } of report.violations) {
    ledger.violate(invariant, `${kind} by number`, `${info.name.stream}: ${detail}`);
  }
  const lost = records.find((record) => !isCurrent(info.id, record));
  if (lost) ledger.violate(5, "read what was lost", `${info.name.stream}: ordinal ${lost.ordinal} of ${lost.segment} under ${lost.nonce}`);
  const expected = countOf(info.id);
  // What landed while it was read may be missing at the ends of segments.
  const atLeast = Math.min(countBefore(info.id), expected);
  if (records.length < atLeast || records.length > expected) {
    ledger.violate(1, "incomplete read", `${info.name.stream}: ${records.length} records were read, the counting frames hold ${expected}`);
  }
}
