import { assert } from "@tributary/common/assert";
import type { Clock } from "@tributary/common/clock";
import { TributaryError, toTributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import { type Id, type Lane, newId, STREAM_ID_BYTES, type StreamName, streamName } from "@tributary/common/names";
import { inPhase, type PhaseListener } from "@tributary/common/phases";
import type { Random } from "@tributary/common/random";
import type { EventPack } from "@tributary/common/stream-service";
import { DIGEST_UNKNOWN } from "../store/edge-state.ts";
import type { CommitResult, EdgeStore, OpenedEdge, StateChange } from "../store/edge-store.ts";
import { lingerMs, reopenDelayMs } from "./commit-pacing.ts";
import { type AckTarget, type Admission, admissionError, type Ingest, type NewStreamOptions, type StreamHandle } from "./ingest.ts";
import { OpenBatch } from "./open-batch.ts";
import type { QuotaDecision } from "./quota.ts";
import { type StreamState, StreamTable } from "./stream-table.ts";

export interface GroupCommitOptions {
  readonly store: Pick<EdgeStore, "commit" | "reopen">;
  readonly opened: OpenedEdge;
  readonly clock: Clock;
  readonly random: Random;
  readonly phases: PhaseListener;
  readonly streamsMax: number;
  /** Longest wait of a batch for more events. */
  readonly lingerMsMax: number;
  readonly observer: GroupCommitObserver;
}

/** Told about what happened, after everyone who waited was answered. */
export interface GroupCommitObserver {
  committed(result: CommitResult): void;
  /** Everything pending failed with this error; the log is being reopened. */
  failed(error: TributaryError): void;
  /** The log could not be opened again; tried again later. */
  reopenFailed(error: TributaryError): void;
  reopened(opened: OpenedEdge): void;
  /** Events of this size were refused because of the disk quota. */
  overQuota(bytes: number): void;
}

export interface IngestCounters {
  eventsAccepted: number;
  eventsDurable: number;
  eventsFailed: number;
  payloadBytesDurable: number;
  storedBytes: number;
  commits: number;
  commitFailures: number;
  reopens: number;
}

/** All that a gateway takes in is sent in this lane. */
const LANE: Lane = "live";
/** What an event takes beside its payload, about: empty events take space too. */
const EVENT_OVERHEAD_BYTES = 16;

interface InFlight {
  readonly batch: OpenBatch;
  outcome: CommitResult | TributaryError | undefined;
}

/**
 * Group commit: one batch fills while at most two are on their way to the disk. See Ingest for what it promises.
 *
 *   running ──a commit fails──▶ recovering ──reopened──▶ running;  any ──close──▶ stopping
 */
export class GroupCommit implements Ingest {
  readonly counters: IngestCounters = {
    eventsAccepted: 0,
    eventsDurable: 0,
    eventsFailed: 0,
    payloadBytesDurable: 0,
    storedBytes: 0,
    commits: 0,
    commitFailures: 0,
    reopens: 0,
  };
  readonly table: StreamTable;
  readonly #options: GroupCommitOptions;
  readonly #inFlight: InFlight[] = [];
  readonly #touched = new Set<AckTarget>();
  readonly #onLinger: () => void;
  #incarnation: Id;
  #phase: "running" | "recovering" | "stopping" = "running";
  #open: OpenBatch;
  #durableSerial = 0;
  #lingerOver = false;
  #cancelLinger: (() => void) | undefined;
  #lastPayloadBytes = 0;
  /** Bytes accepted and not yet durable, before compression. */
  #pendingBytes = 0;
  #quota: QuotaDecision = { refuse: false, allowanceBytes: Number.POSITIVE_INFINITY, shrinkToBytes: undefined };
  #quotaRejects = false;
  #trouble: TributaryError | undefined;
  #failuresInRow = 0;
  #cancelReopen: (() => void) | undefined;
  #roomCallbacks: (() => void)[] = [];
  #keyScratch = new Uint32Array(1024);
  #idle: (() => void)[] = [];

  constructor(options: GroupCommitOptions) {
    this.#options = options;
    this.table = new StreamTable(options.opened.state);
    this.#incarnation = options.opened.incarnation;
    this.#open = new OpenBatch(1, { events: 0, payloadBytes: 0 });
    this.#onLinger = () => {
      this.#cancelLinger = undefined;
      this.#lingerOver = true;
      this.#pump();
    };
  }

  /** Why the log cannot be written now; undefined while it can. */
  get trouble(): TributaryError | undefined {
    return this.#trouble;
  }

  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /** True if what was accepted into the batch with this serial is not durable yet. */
  isPending(batchSerial: number): boolean {
    return batchSerial > this.#durableSerial;
  }

  /** A new decision about the disk quota; `rejects` says whether refused events are told so or have to wait. */
  applyQuota(decision: QuotaDecision, rejects: boolean): void {
    this.#quota = decision;
    this.#quotaRejects = rejects;
    this.#makeRoomKnown();
  }

  stream(name: StreamName): StreamState | undefined {
    return this.table.find(name);
  }

  createStream(name: StreamName, options: NewStreamOptions): StreamState {
    const existing = this.table.find(name);
    if (existing) return existing;
    const valid = streamName(name.scope, name.stream);
    if (this.#phase === "stopping") throw admissionError("stopping");
    if (this.#phase === "recovering") throw this.#trouble ?? admissionError("full");
    if (this.#quota.refuse) throw admissionError(this.#quotaRejects ? "quota" : "full");
    if (this.table.size >= this.#options.streamsMax) {
      throw new TributaryError("TOO_MANY_STREAMS", `a gateway keeps at most ${this.#options.streamsMax} streams`);
    }
    if (this.table.wasNumbered(name)) this.#renew();
    // Not bounded by the batch: creations are bounded by the number of streams.
    this.#putChange({
      type: "create-stream",
      id: newId(this.#options.random, STREAM_ID_BYTES),
      name: valid,
      contentType: options.contentType,
      segments: options.segments,
      createdAtMs: this.#options.clock.nowMs(),
      closed: options.closed,
    });
    const created = this.table.find(name);
    assert(created !== undefined, "a stream accepted is in the table");
    return created;
  }

  append(
    handle: StreamHandle,
    key: string,
    timeMs: number,
    source: Uint8Array,
    start: number,
    end: number,
    target: AckTarget | undefined,
    token: number,
    change?: StateChange,
  ): Admission {
    const stream = handle as StreamState;
    const bytes = end - start;
    if (bytes > LIMITS.eventBytesMax) return "too-large";
    const admission = this.#admit(stream, 1, bytes);
    if (admission !== "accepted") return admission;
    const batch = this.#open;
    let keyIndex = batch.findKey(key);
    if (keyIndex < 0) {
      if (isKeyTooLong(key)) return "too-large";
      keyIndex = batch.addKey(key);
    }
    if (batch.count === 0) this.#startLinger();
    batch.addEvent(stream, keyIndex, timeMs, source, start, end);
    this.#pendingBytes += bytes + EVENT_OVERHEAD_BYTES;
    this.counters.eventsAccepted++;
    if (change !== undefined) this.#putChange(change);
    if (target !== undefined) batch.addAck(target, token);
    return "accepted";
  }

  appendPack(
    handle: StreamHandle,
    pack: EventPack,
    arrivalMs: number,
    target: AckTarget | undefined,
    token: number,
    changes: readonly StateChange[] = [],
  ): Admission {
    const stream = handle as StreamState;
    const bytes = pack.payload.length;
    if (pack.count > LIMITS.requestEventsMax || bytes > LIMITS.requestBytesMax) return "too-large";
    assert(pack.count === 0 ? bytes === 0 : pack.ends[pack.count - 1] === bytes, "the last event of a pack ends with it");
    for (let i = 0, before = 0; i < pack.count; i++) {
      const end = pack.ends[i] as number;
      assert(end >= before, "the ends of a pack ascend");
      if (end - before > LIMITS.eventBytesMax) return "too-large";
      before = end;
    }
    const { keys } = pack;
    if (typeof keys === "object" ? keys.some(isKeyTooLong) : isKeyTooLong(keys ?? "")) return "too-large";
    const admission = this.#admit(stream, pack.count, bytes);
    if (admission !== "accepted") return admission;
    const batch = this.#open;
    this.#startLinger();
    if (pack.count > 0) batch.addPack(stream, pack, this.#keyIndexes(batch, keys), arrivalMs);
    this.#pendingBytes += bytes + pack.count * EVENT_OVERHEAD_BYTES;
    this.counters.eventsAccepted += pack.count;
    for (const change of changes) this.#putChange(change);
    if (target !== undefined) batch.addAck(target, token);
    return "accepted";
  }

  change(change: StateChange, target: AckTarget | undefined, token: number): Admission {
    if (this.#phase !== "running") return this.#phase === "stopping" ? "stopping" : "full";
    if (this.#open.changes.length >= LIMITS.batchEventsMax && !this.#turnOver()) return "full";
    this.#putChange(change);
    if (target !== undefined) this.#open.addAck(target, token);
    return "accepted";
  }

  barrier(target: AckTarget, token: number): void {
    const last = this.#open.empty ? this.#inFlight.at(-1)?.batch : this.#open;
    if (last) {
      last.addAck(target, token);
      return;
    }
    // Also of a gateway that stops: what the caller asks about may be what failed.
    const error = this.#trouble;
    queueMicrotask(() => {
      if (error) target.failed(token, error);
      else target.committed(token);
      target.flush();
    });
  }

  holdsPacketId(clientId: string, packetId: number): boolean {
    return this.table.packetIds(clientId)?.has(packetId) ?? false;
  }

  isRepetition(clientId: string, packetId: number, digest: number): boolean {
    const held = this.table.packetIds(clientId)?.get(packetId);
    return held === digest || held === DIGEST_UNKNOWN;
  }

  hasPacketIds(clientId: string): boolean {
    return this.table.packetIds(clientId) !== undefined;
  }

  onRoom(callback: () => void): void {
    this.#roomCallbacks.push(callback);
  }

  /**
   * Something other than a commit found the log closed: it is opened again as after a failed commit. With commits on their way
   * nothing has to be done, for they will fail.
   */
  logClosed(error: TributaryError): void {
    if (this.#phase !== "running" || this.#inFlight.length > 0) return;
    this.#beginRecovery(error);
    this.#afterFailure();
  }

  /** Refuses what is new, commits what was accepted, answers it, and resolves then. */
  async close(): Promise<void> {
    if (this.#phase === "running") {
      this.#phase = "stopping";
      this.#lingerOver = true;
      this.#pump();
    } else this.#phase = "stopping";
    this.#cancelReopen?.();
    this.#callRoom();
    while (this.#inFlight.length > 0 || !this.#open.empty) await new Promise<void>((resolve) => this.#idle.push(resolve));
    this.table.wakeAll();
  }

  /** Decides whether `events` more with `bytes` fit; on "accepted" the open batch has room for them. */
  #admit(stream: StreamState, events: number, bytes: number): Admission {
    if (!stream.open) return stream.gone ? "gone" : "closed";
    if (this.#phase !== "running") return this.#phase === "stopping" ? "stopping" : "full";
    if (this.#pendingBytes + bytes > this.#quota.allowanceBytes) {
      this.#options.observer.overQuota(bytes);
      // What is pending may be all that keeps it out: then it fits once that is committed and weighed.
      return this.#quotaRejects && (this.#quota.refuse || this.#pendingBytes === 0) ? "quota" : "full";
    }
    const batch = this.#open;
    if (batch.count === 0) return "accepted";
    const full = batch.count + events > LIMITS.batchEventsMax || batch.payloadBytes + bytes > LIMITS.batchRawBytesTarget;
    return !full || this.#turnOver() ? "accepted" : "full";
  }

  /**
   * The open batch begins a new incarnation. What was accepted before goes with the present one, also while both commits are busy.
   * @throws OVERLOADED
   */
  #renew(): void {
    if (this.#open.count > 0) {
      if (this.#inFlight.length >= 2 * LIMITS.commitsInFlightMax) throw admissionError("full");
      this.#dispatch();
    }
    this.#open.renews = true;
    this.table.renumber();
  }

  #putChange(change: StateChange): void {
    const batch = this.#open;
    this.#startLinger();
    batch.changes.push(change);
    this.table.accept(change, batch.serial);
  }

  #keyIndexes(batch: OpenBatch, keys: EventPack["keys"]): ArrayLike<number> {
    const list = typeof keys === "object" ? keys : [keys ?? ""];
    if (list.length > this.#keyScratch.length) this.#keyScratch = new Uint32Array(list.length * 2);
    for (let i = 0; i < list.length; i++) {
      const key = list[i] as string;
      const found = batch.findKey(key);
      this.#keyScratch[i] = found >= 0 ? found : batch.addKey(key);
    }
    return this.#keyScratch.subarray(0, list.length);
  }

  #startLinger(): void {
    if (this.#cancelLinger !== undefined || this.#lingerOver) return;
    this.#cancelLinger = this.#options.clock.setTimer(lingerMs(this.#lastPayloadBytes, this.#options.lingerMsMax), this.#onLinger);
  }

  /** Commits the open batch now if a commit is free; false if both are busy. */
  #turnOver(): boolean {
    if (this.#inFlight.length >= LIMITS.commitsInFlightMax) return false;
    this.#dispatch();
    return true;
  }

  /** Commits the open batch if it is due, and lets those go on who found it full. */
  #pump(): void {
    if (this.#phase === "recovering") return;
    if (this.#lingerOver && !this.#open.empty && this.#inFlight.length < LIMITS.commitsInFlightMax) this.#dispatch();
    if (this.#phase === "running") this.#makeRoomKnown();
  }

  #dispatch(): void {
    const batch = this.#open;
    this.#cancelLinger?.();
    this.#cancelLinger = undefined;
    this.#lingerOver = this.#phase === "stopping";
    this.#lastPayloadBytes = batch.payloadBytes;
    this.#open = new OpenBatch(batch.serial + 1, capacityAfter(batch));
    const flight: InFlight = { batch, outcome: undefined };
    this.#inFlight.push(flight);
    inPhase(this.#options.phases, "commit", () => this.#options.store.commit(batch.seal(LANE))).then(
      (result) => this.#settle(flight, result),
      (error: unknown) => this.#settle(flight, toTributaryError(error)),
    );
  }

  /** Answers are given in the order of the commits, whatever the order in which they come in. */
  #settle(flight: InFlight, outcome: CommitResult | TributaryError): void {
    flight.outcome = outcome;
    for (let head = this.#inFlight[0]; head?.outcome !== undefined; head = this.#inFlight[0]) {
      this.#inFlight.shift();
      if (head.outcome instanceof TributaryError || this.#trouble !== undefined) this.#failBatch(head.batch, head.outcome);
      else this.#commitBatch(head.batch, head.outcome);
    }
    if (this.#trouble !== undefined && this.#inFlight.length === 0) this.#afterFailure();
    else this.#pump();
    if (this.#inFlight.length === 0 && this.#open.empty) for (const resolve of this.#idle.splice(0)) resolve();
  }

  #commitBatch(batch: OpenBatch, result: CommitResult): void {
    this.#durableSerial = batch.serial;
    this.#failuresInRow = 0;
    this.#pendingBytes -= batch.payloadBytes + batch.count * EVENT_OVERHEAD_BYTES;
    this.counters.commits++;
    this.counters.eventsDurable += batch.count;
    this.counters.payloadBytesDurable += batch.payloadBytes;
    this.counters.storedBytes += result.storedBytes;
    if (batch.renews) {
      this.#incarnation = result.incarnation;
      this.table.renumbered();
    }
    this.table.durable(batch.streams, batch.streamCounts, batch.changes, this.#incarnation, LANE);
    batch.answer(undefined, this.#touched);
    this.#options.observer.committed(result);
  }

  #failBatch(batch: OpenBatch, outcome: CommitResult | TributaryError): void {
    if (this.#trouble === undefined) {
      assert(outcome instanceof TributaryError, "a batch fails for a reason");
      this.counters.commitFailures++;
      this.#beginRecovery(outcome);
    }
    this.#pendingBytes -= batch.payloadBytes + batch.count * EVENT_OVERHEAD_BYTES;
    this.counters.eventsFailed += batch.count;
    batch.answer(this.#trouble, this.#touched);
  }

  #beginRecovery(error: TributaryError): void {
    this.#trouble = error;
    if (this.#phase === "running") this.#phase = "recovering";
    this.#options.observer.failed(error);
  }

  /** Nothing is on its way any more: what was not yet sent fails as well, since its numbers follow those that failed. */
  #afterFailure(): void {
    const batch = this.#open;
    const trouble = this.#trouble;
    assert(trouble !== undefined, "a failure has a reason");
    this.#cancelLinger?.();
    this.#cancelLinger = undefined;
    this.#lingerOver = false;
    this.#open = new OpenBatch(batch.serial + 1, { events: 0, payloadBytes: 0 });
    if (!batch.empty) this.#failBatch(batch, trouble);
    if (this.#phase === "recovering") this.#scheduleReopen();
  }

  #scheduleReopen(): void {
    this.#cancelReopen = this.#options.clock.setTimer(reopenDelayMs(this.#failuresInRow++), () => {
      this.#options.store.reopen().then(
        (opened) => this.#reopened(opened),
        (error: unknown) => {
          if (this.#phase !== "recovering") return;
          this.#trouble = toTributaryError(error);
          this.#options.observer.reopenFailed(this.#trouble);
          this.#scheduleReopen();
        },
      );
    });
  }

  #reopened(opened: OpenedEdge): void {
    if (this.#phase !== "recovering") return;
    this.#phase = "running";
    this.#trouble = undefined;
    this.#durableSerial = this.#open.serial - 1;
    this.counters.reopens++;
    this.table.reset(opened.state);
    this.#incarnation = opened.incarnation;
    this.#options.observer.reopened(opened);
    this.#makeRoomKnown();
  }

  /** Lets those who were refused go on, one after the other, as long as there is room. */
  #makeRoomKnown(): void {
    if (this.#roomCallbacks.length === 0 || !this.#hasRoom()) return;
    const waiting = this.#roomCallbacks;
    this.#roomCallbacks = [];
    let at = 0;
    while (at < waiting.length && this.#hasRoom()) (waiting[at++] as () => void)();
    // Those still waiting stand before those who just found it full again.
    if (at < waiting.length) this.#roomCallbacks = waiting.slice(at).concat(this.#roomCallbacks);
  }

  #callRoom(): void {
    for (const callback of this.#roomCallbacks.splice(0)) callback();
  }

  #hasRoom(): boolean {
    if (this.#phase !== "running" || this.#quota.refuse || this.#pendingBytes >= this.#quota.allowanceBytes) return false;
    const batch = this.#open;
    const full = batch.count >= LIMITS.batchEventsMax || batch.payloadBytes >= LIMITS.batchRawBytesTarget;
    return !full || this.#inFlight.length < LIMITS.commitsInFlightMax;
  }
}

function isKeyTooLong(key: string): boolean {
  // A character takes at most three bytes: most keys need no encoding to be measured.
  return key.length * 3 > LIMITS.routingKeyBytesMax && Buffer.byteLength(key) > LIMITS.routingKeyBytesMax;
}

function capacityAfter(batch: OpenBatch) {
  const grow = (size: number) => size + (size >>> 2);
  return {
    events: Math.min(grow(batch.count), LIMITS.batchEventsMax),
    payloadBytes: Math.min(grow(batch.payloadBytes), LIMITS.batchRawBytesTarget),
  };
}
