import { type Clock, sleep } from "@tributary/common/clock";
import { hasCode, toTributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import { type Id, newId } from "@tributary/common/names";
import type { MetaAccess } from "../service/meta-change.ts";
import { decodeNodeRecord, encodeNodeRecord, type NodeRecord, nodeKey } from "./cluster-codec.ts";
import { within } from "./within.ts";

export const NODE_ID_BYTES = 8;
/** Of the formats that this program reads: see PROTOCOL.md. */
const FORMAT_MAX = 1;
const BEATS_PER_LEASE = 3;
/** Of a lease, for an answer: a beat that gets lost is followed by another in time, and one that takes as long as this is in time as well. */
const ANSWER_SHARE = 0.5;
/** While the MetaStore can be read and takes nothing, such as with a full disk, beats go on being tried. */
const UNCERTAIN_MAX = 256;

export interface MembershipOptions {
  readonly name: string;
  readonly version: string;
  readonly leaseMs: number;
}

/**
 * This node's record in the MetaStore, and its lease.
 *
 * A lease is held until `leaseMs` after the last successful beat was sent, by this node's own monotonic clock. Whoever sees a
 * record stand still for longer deletes it at the revision at which it stands. So a node whose beat meets another revision, or
 * none, has been declared dead: it never comes back under its id, but joins anew. Nobody but the node itself writes its record,
 * hence after beats of unknown result the record read is its own, as of one of them.
 */
export class Membership {
  readonly #access: MetaAccess;
  readonly #clock: Clock;
  readonly #options: MembershipOptions;
  readonly #log: Logger;
  #node: Id = "";
  #revision = 0;
  #beat = 0;
  #url = "";
  #draining = false;
  #joined = false;
  /** When the beats were sent of which one may have landed behind the present revision. */
  readonly #uncertain = new Map<number, number>();
  #heldUntilMs = Number.NEGATIVE_INFINITY;
  #heldSinceMs = 0;

  constructor(access: MetaAccess, options: MembershipOptions, log: Logger) {
    this.#access = access;
    this.#clock = access.clock;
    this.#options = options;
    this.#log = log;
  }

  get node(): Id {
    return this.#node;
  }

  get draining(): boolean {
    return this.#draining;
  }

  get beatMs(): number {
    return this.#options.leaseMs / BEATS_PER_LEASE;
  }

  /** Since when the lease has been held without a break. Meaningful while `holds()`. */
  get heldSinceMs(): number {
    return this.#heldSinceMs;
  }

  /** True while nobody else can have declared this node dead. */
  holds(): boolean {
    return this.#joined && this.#isWithinLease();
  }

  #isWithinLease(): boolean {
    return this.#clock.monotonicMs() < this.#heldUntilMs;
  }

  /** What others are to know; they learn it with the next beat. */
  describe(change: { readonly url?: string; readonly draining?: boolean }): void {
    this.#url = change.url ?? this.#url;
    this.#draining = change.draining ?? this.#draining;
  }

  record(): NodeRecord {
    const { name, version, leaseMs } = this.#options;
    return { name, url: this.#url, draining: this.#draining, beat: this.#beat, leaseMs, version, formatMax: FORMAT_MAX };
  }

  get revision(): number {
    return this.#revision;
  }

  /** Takes a new id and a lease. Tries until it has them, or the signal aborts. */
  async join(signal: AbortSignal): Promise<void> {
    this.#joined = false;
    while (!signal.aborted) {
      this.#node = newId(this.#access.random, NODE_ID_BYTES);
      this.#revision = 0;
      this.#beat = 1;
      this.#uncertain.clear();
      this.#heldUntilMs = Number.NEGATIVE_INFINITY;
      if (await this.#create()) {
        this.#joined = true;
        return;
      }
      // Should its record land later: nobody beats for it, so the others soon take it for dead.
      await sleep(this.#clock, this.beatMs, signal);
    }
  }

  async #create(): Promise<boolean> {
    const sentMs = this.#clock.monotonicMs();
    try {
      this.#succeed(sentMs, await this.#within(this.#access.meta.create(nodeKey(this.#node), encodeNodeRecord(this.record()))));
      return true;
    } catch (error) {
      this.#log.warn("this node could not join the cluster at once", { code: toTributaryError(error).code });
      this.#uncertain.set(this.#beat, sentMs);
      return (await this.#adopt()) && this.#isWithinLease();
    }
  }

  /** Renews the lease. "lost": this node was declared dead. "unknown": the next beat will tell. */
  async beat(): Promise<"held" | "unknown" | "lost"> {
    const sentMs = this.#clock.monotonicMs();
    const beat = ++this.#beat;
    const node = this.#node;
    const before = this.#revision;
    const update = this.#access.meta.update(nodeKey(node), encodeNodeRecord(this.record()), before);
    update.then(
      (revision) => {
        // An answer that nobody waits for any more: where the MetaStore is slow there may never be a quicker one.
        if (node === this.#node && this.#uncertain.has(beat)) this.#succeed(sentMs, revision);
      },
      () => {},
    );
    try {
      this.#succeed(sentMs, await this.#within(update));
      return "held";
    } catch (error) {
      if (!hasCode(error, "META_CONFLICT")) {
        this.#noteUncertain(beat, sentMs);
        return "unknown";
      }
    }
    // It met the one before it, whose answer came meanwhile.
    if (this.#revision !== before) return this.beat();
    if (this.#uncertain.size === 0) return "lost";
    if (await this.#adopt()) return this.beat();
    return this.holds() ? "unknown" : "lost";
  }

  /** Finds the own beat that landed without an answer, and counts it. A read may be old and prove nothing. */
  async #adopt(): Promise<boolean> {
    try {
      const entry = await this.#within(this.#access.meta.get(nodeKey(this.#node)));
      if (!entry || entry.revision <= this.#revision) return false;
      const sentMs = this.#uncertain.get(decodeNodeRecord(entry.key, entry.value).beat);
      if (sentMs === undefined) return false;
      // Of all that were sent behind one revision only one can have landed.
      this.#succeed(sentMs, entry.revision);
      return true;
    } catch {
      return false;
    }
  }

  /** Ends the lease at once, so that others need not wait for its end. */
  async leave(): Promise<void> {
    if (!this.#joined) return;
    this.#joined = false;
    try {
      await this.#within(this.#access.meta.delete(nodeKey(this.#node), this.#revision));
    } catch (error) {
      this.#log.info("this node could not sign off; the others will find out by themselves", { code: toTributaryError(error).code });
    }
  }

  /** The oldest is forgotten where there are many: had it landed, a later one would have met it. */
  #noteUncertain(beat: number, sentMs: number): void {
    this.#uncertain.set(beat, sentMs);
    if (this.#uncertain.size <= UNCERTAIN_MAX) return;
    for (const oldest of this.#uncertain.keys()) {
      this.#uncertain.delete(oldest);
      return;
    }
  }

  #succeed(sentMs: number, revision: number): void {
    if (sentMs >= this.#heldUntilMs) this.#heldSinceMs = this.#clock.monotonicMs();
    this.#revision = revision;
    this.#uncertain.clear();
    this.#heldUntilMs = sentMs + this.#options.leaseMs;
  }

  #within<T>(promise: Promise<T>): Promise<T> {
    return within(this.#clock, this.#options.leaseMs * ANSWER_SHARE, promise);
  }
}
