import { assert } from "@tributary/common/assert";
import { hasCode, TributaryError, toTributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import type { Id } from "@tributary/common/names";
import type { Log } from "@tributary/common/ports/log";
import { type Checkpoint, decodeCheckpoint, encodeCheckpoint } from "./checkpoint-record.ts";
import { type EncodedCommit, encodeCommit } from "./commit-record.ts";
import { DiskUse } from "./disk-use.ts";
import { planDrop } from "./drop-oldest.ts";
import { applyChange, type EdgeState, forgetStream, forgettableStreams, snapshotEdgeState } from "./edge-state.ts";
import type { CommitBatch, CommitResult, DropReport, EdgeUsage, FreeReport, LocalPage, ReachedNumber, UplinkUnit } from "./edge-store.ts";
import { GapLedger } from "./gap-ledger.ts";
import { encodeIncarnation } from "./incarnation-record.ts";
import { extendEras } from "./local-eras.ts";
import { LocalReader } from "./local-reader.ts";
import { type DamageListener, decodeEntry } from "./log-cursor.ts";
import type { NumberBook } from "./number-book.ts";
import { type Recovered, replayCost } from "./recovery.ts";
import { Slots } from "./slots.ts";
import { Uplink } from "./uplink.ts";
import { UplinkFold } from "./uplink-fold.ts";

/** A checkpoint is written when recovery would otherwise have to read this many times the checkpoint's own bytes. */
const CHECKPOINT_FACTOR = 8;
/** The same for what it takes before compression: writing it costs time, too. */
const CHECKPOINT_RAW_FACTOR = 4;
/** Checkpoints whose sequences are remembered, for local reads; of more, every second one is forgotten. */
const CHECKPOINTS_REMEMBERED_MAX = 1024;
/** Bytes between two looks at the disk. */
const DISK_CHECK_BYTES = 1024 * 1024;

export interface SessionOptions {
  readonly log: Log;
  readonly recovered: Recovered;
  readonly writer: Id;
  readonly incarnation: Id;
  readonly drawIncarnation: () => Id;
  readonly lastUnit: number;
  readonly checkpointBytesMin: number;
  readonly onDamage: DamageListener;
  readonly breathe: () => Promise<void>;
  readonly recordsQuarantined: () => number;
  /** Gives up the disk's reserve, if there is one, so that a drop can be written; and takes it back. */
  readonly releaseReserve: () => boolean;
  readonly restoreReserve: () => void;
}

/**
 * The store from an incarnation's record in the log to the first failure; a commit may begin another incarnation. State is folded as
 * commits are called, so that what is pipelined behind them builds on it; when one fails, the session is over and what is durable is
 * read again.
 */
export class EdgeSession {
  readonly #options: SessionOptions;
  readonly #log: Log;
  readonly #state: EdgeState;
  readonly #numbers: NumberBook;
  readonly #targets = new Map<Id, Id>();
  readonly #uplink: Uplink;
  readonly #reader: LocalReader;
  readonly #positions: Recovered["positions"];
  readonly #disk: DiskUse;
  readonly #commits = new Slots(LIMITS.commitsInFlightMax);
  readonly #uplinkTurn = new Slots(1);
  /** Streams of which the record that first maps them is not durable yet. */
  readonly #beingMapped = new Set<Id>();
  #incarnation: Id;
  /** Sequence of the last record handed to the log, and of the last durable one. */
  #lastSeq: number;
  #durableSeq: number;
  /** Events in all commits, handed to the log or durable. */
  #events: number;
  #durableEvents: number;
  #checkpoint: { readonly seq: number; readonly freed: number } | undefined;
  #checkpoints: readonly number[];
  #checkpointInterval: number;
  /** Cost of a replay since the last checkpoint. */
  #grown: number;
  /** Bytes freed since the last checkpoint, and between the one before and that one: these it keeps. */
  #freedBytes = 0;
  #keptBytes = 0;
  #truncated: number;
  #truncating: Promise<void> = Promise.resolve();
  #failure: TributaryError | undefined;
  #closed = false;

  /** `recovered.log.last` is the session's incarnation record, durable. */
  constructor(options: SessionOptions) {
    const { log, recovered } = options;
    this.#options = options;
    this.#log = log;
    this.#incarnation = options.incarnation;
    this.#state = recovered.state;
    this.#numbers = recovered.numbers;
    for (const { id, mapping } of this.#state.streams.values()) if (mapping) this.#targets.set(mapping.id, id);
    this.#lastSeq = recovered.log.last;
    this.#durableSeq = recovered.log.last;
    this.#events = recovered.events;
    this.#durableEvents = recovered.events;
    this.#checkpoint = recovered.checkpoint;
    this.#checkpoints = recovered.checkpoints;
    this.#checkpointInterval = options.checkpointBytesMin;
    this.#grown = recovered.grown;
    this.#truncated = recovered.log.first - 1;
    this.#disk = new DiskUse(log, DISK_CHECK_BYTES);
    this.#uplink = new Uplink({
      log,
      writer: options.writer,
      state: this.#state,
      isBeingMapped: (id) => this.#beingMapped.has(id),
      freed: recovered.fold,
      gaps: recovered.gaps,
      end: () => this.#durableSeq,
      onDamage: options.onDamage,
      breathe: options.breathe,
      lastUnit: options.lastUnit,
    });
    this.#reader = new LocalReader({
      log,
      state: this.#state,
      positions: recovered.positions,
      gaps: () => this.#uplink.gaps,
      checkpoints: () => this.#checkpoints,
      end: () => this.#durableSeq,
      truncated: () => this.#truncated,
      onDamage: options.onDamage,
    });
    this.#positions = recovered.positions;
  }

  get state(): EdgeState {
    return this.#state;
  }

  get lastUnit(): number {
    return this.#uplink.lastUnit;
  }

  /** Carries out what a checkpoint said before a crash could come in between. */
  async finishTruncation(throughSeq: number): Promise<void> {
    await this.#disk.refresh();
    if (throughSeq > this.#truncated) await this.#truncate(throughSeq);
  }

  commit(batch: CommitBatch): Promise<CommitResult> {
    return this.#commits.use(async () => {
      this.#assertLive();
      try {
        // What is freed of a stream was told to the core's stream that it leaves: sent again to the next one, after a crash, it would come
        // behind what follows it (invariant 2).
        if (this.#leaves(batch)) this.#checkpointLater();
        const begun = batch.renews ? this.#renew() : undefined;
        const encoded = this.#encode(batch);
        const seq = this.#lastSeq + 1;
        const events = this.#events;
        const incarnation = this.#incarnation;
        const appended = this.#append(encoded.bytes);
        if (this.#grown >= this.#checkpointInterval) this.#checkpointLater();
        // Where both fail, the first one says why.
        if (begun) await Promise.all([begun, appended]);
        await appended;
        this.#durableEvents = events;
        for (const change of batch.changes) if (change.type === "map-stream") this.#beingMapped.delete(change.id);
        return { seq, incarnation, storedBytes: encoded.bytes.length, usage: this.#usage() };
      } catch (error) {
        throw this.#fail(error);
      }
    });
  }

  uplinkNext(bytesMax: number): Promise<UplinkUnit[]> {
    return this.#inTurn(() => this.#uplink.next(bytesMax));
  }

  uplinkRewind(reached: readonly ReachedNumber[]): Promise<void> {
    return this.#inTurn(async () => {
      this.#uplink.rewind();
      const known = reached.flatMap((at) => {
        const localId = this.#targets.get(at.streamId);
        return localId === undefined ? [] : [{ ...at, localId }];
      });
      if (!known.some((at) => this.#uplink.freed.lacking(at))) return;
      // Everything behind the newest checkpoint's freed position is still in the log, as for a recovery.
      const checkpoint = await this.#readCheckpoint();
      if (checkpoint) this.#uplink.restart(UplinkFold.restore(checkpoint.fold), new GapLedger(checkpoint.gaps));
      for (const at of known) this.#uplink.giveUp(at);
    });
  }

  uplinkFree(throughUnit: number): Promise<FreeReport> {
    return this.#inTurn(async () => {
      const { logBytes, ...report } = this.#uplink.free(throughUnit);
      this.#freedBytes += logBytes;
      if (this.#freedBytes >= this.#checkpointInterval) await this.#writeCheckpoint();
      // Much was freed at once: a second one lets go of what the first still keeps.
      if (this.#keptBytes >= 2 * this.#checkpointInterval) await this.#writeCheckpoint();
      return report;
    });
  }

  async readLocal(streamId: Id, fromOrdinal: number, bounds: { eventsMax: number; bytesMax: number }): Promise<LocalPage> {
    this.#assertLive();
    try {
      return await this.#reader.read(streamId, fromOrdinal, bounds);
    } catch (error) {
      throw this.#fail(error);
    }
  }

  dropOldest(bytesTarget: number): Promise<DropReport> {
    return this.#inTurn(async () => {
      const bytesBefore = await this.#disk.refresh();
      let bytes = await this.#reclaim(bytesBefore, bytesTarget);
      let eventsDropped = 0;
      while (bytes > bytesTarget) {
        const plan = await planDrop(this.#uplink, bytes - bytesTarget, this.#durableSeq);
        if (plan.freed.position === this.#uplink.freed.position) break;
        await this.#dropThrough(plan.freed, plan.gaps);
        this.#uplink.restart(plan.freed, plan.gaps);
        eventsDropped += plan.eventsDropped;
        const left = await this.#disk.refresh();
        // An engine that gives nothing back would be emptied for nothing.
        if (left >= bytes) break;
        bytes = left;
      }
      return { eventsDropped, bytesFreed: Math.max(0, bytesBefore - bytes) };
    });
  }

  reclaim(bytesTarget: number): Promise<DropReport> {
    return this.#inTurn(async () => {
      const bytesBefore = await this.#disk.refresh();
      const bytes = await this.#reclaim(bytesBefore, bytesTarget);
      return { eventsDropped: 0, bytesFreed: Math.max(0, bytesBefore - bytes) };
    });
  }

  async usage(): Promise<EdgeUsage> {
    this.#assertLive();
    await this.#disk.refresh();
    return this.#usage();
  }

  /** Waits for what is in flight, then closes the log. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    // In this order, as a drop takes them.
    await this.#uplinkTurn.useAll(() => this.#commits.useAll(async () => undefined));
    await this.#truncating.catch(() => undefined); // Whoever asked for it was told.
    await this.#log.close();
  }

  /** Begins another incarnation. Its record stands before that of the commit which asked for it, and is durable before or with it (rule W1). */
  #renew(): Promise<void> {
    const incarnation = this.#options.drawIncarnation();
    const bytes = encodeIncarnation({
      seq: this.#lastSeq + 1,
      checkpoint: this.#checkpoint?.seq ?? 0,
      writer: this.#options.writer,
      incarnation,
      parent: this.#incarnation,
      parentLasts: this.#numbers.lasts(),
      forgotten: [],
    });
    this.#incarnation = incarnation;
    this.#numbers.clear();
    const begun = this.#append(bytes);
    // Whoever asked for it waits for it. Should encoding fail in between, that is told instead.
    begun.catch(() => undefined);
    return begun;
  }

  #encode(batch: CommitBatch): EncodedCommit {
    for (const change of batch.changes) {
      if (change.type === "map-stream" && !this.#state.streams.get(change.id)?.mapping) this.#beingMapped.add(change.id);
      applyChange(this.#state, change);
      if (change.type === "map-stream") this.#setTarget(change.id, change.mapping.id);
    }
    const encoded = encodeCommit(batch, {
      seq: this.#lastSeq + 1,
      checkpoint: this.#checkpoint?.seq ?? 0,
      writer: this.#options.writer,
      incarnation: this.#incarnation,
      eventsBefore: this.#events,
      ledger: this.#numbers,
      stream: (id) => {
        const stream = this.#state.streams.get(id);
        return (
          stream && { segments: stream.mapping?.segments ?? stream.segments, mapping: stream.mapping, nextOrdinal: stream.nextOrdinal }
        );
      },
    });
    for (const { localId, first, last, shift } of encoded.streams) {
      const stream = this.#state.streams.get(localId);
      if (!stream) continue;
      stream.nextOrdinal = last + shift + 1;
      const run = { ordinal: first + shift, count: last - first + 1, incarnation: this.#incarnation, lane: batch.lane, first };
      extendEras(stream.eras, run, this.#state.streams.size);
    }
    this.#numbers.advance(batch.lane, encoded.streams);
    this.#numbers.advanceSegments(batch.lane, encoded.segmentTails);
    this.#positions.committed(this.#lastSeq + 1, encoded.streams);
    this.#events += batch.columns.count;
    return encoded;
  }

  /** A stream goes on in another one of the core. */
  #leaves({ changes }: CommitBatch): boolean {
    return changes.some((change) => {
      if (change.type !== "map-stream") return false;
      const before = this.#state.streams.get(change.id)?.mapping;
      return before !== undefined && before.id !== change.mapping.id;
    });
  }

  /** Two streams under one id would give their events the same numbers there, and the core would take one for the other. */
  #setTarget(localId: Id, target: Id): void {
    const owner = this.#targets.get(target);
    assert(owner === undefined || owner === localId || !this.#state.streams.has(owner), "no two streams are mapped to one id");
    this.#targets.set(target, localId);
  }

  /** Hands a record to the log at once; resolves when it is durable. */
  async #append(bytes: Uint8Array): Promise<void> {
    const expectedLast = this.#lastSeq;
    const seq = ++this.#lastSeq;
    this.#grown += replayCost(bytes.length);
    await this.#log.append(bytes, expectedLast);
    this.#durableSeq = Math.max(this.#durableSeq, seq);
    this.#disk.wrote(bytes.length);
  }

  #checkpointLater(): void {
    this.#writeCheckpoint().catch((error) => this.#fail(error));
  }

  /** Two checkpoints are kept, so that one damaged record does not cost the state: what the one before needs stays. */
  async #writeCheckpoint(): Promise<void> {
    const truncateThrough = Math.max(this.#truncated, this.#checkpoint?.freed ?? 0);
    await this.#append(this.#encodeCheckpoint(this.#uplink.freed, this.#uplink.gaps, truncateThrough));
    await this.#truncate(truncateThrough);
  }

  /** undefined if there is none that can be read. */
  async #readCheckpoint(): Promise<Checkpoint | undefined> {
    const seq = this.#checkpoint?.seq;
    if (seq === undefined) return undefined;
    const [record] = await this.#log.read(seq, { recordsMax: 1, bytesMax: 1 });
    const entry = record?.seq === seq ? decodeEntry(record) : undefined;
    return entry?.kind === "checkpoint" ? decodeCheckpoint(entry.raw) : undefined;
  }

  #encodeCheckpoint(freed: UplinkFold, gaps: GapLedger, truncateThrough: number): Uint8Array {
    this.#forgetStreams(freed);
    const seq = this.#lastSeq + 1;
    const previous = this.#checkpoint?.seq ?? 0;
    const { bytes, metaRawBytes } = encodeCheckpoint(seq, previous, {
      writer: this.#options.writer,
      incarnation: this.#incarnation,
      events: this.#events,
      numbers: this.#numbers.lasts(),
      state: snapshotEdgeState(this.#state),
      fold: freed.snapshot(),
      gaps: gaps.snapshot(),
      truncateThrough,
      checkpoints: this.#checkpoints,
    });
    this.#checkpoint = { seq, freed: freed.position };
    this.#checkpoints = remember(this.#checkpoints, seq, truncateThrough);
    this.#grown = 0;
    this.#keptBytes = this.#freedBytes;
    this.#freedBytes = 0;
    this.#checkpointInterval = Math.max(
      this.#options.checkpointBytesMin,
      CHECKPOINT_FACTOR * bytes.length,
      CHECKPOINT_RAW_FACTOR * metaRawBytes,
    );
    return bytes;
  }

  /** Deleted streams would make every checkpoint longer. No record behind it names those of which nothing is held. */
  #forgetStreams(freed: UplinkFold): void {
    for (const id of forgettableStreams(this.#state, false)) {
      const target = this.#state.streams.get(id)?.mapping?.id;
      if (target !== undefined && this.#targets.get(target) === id) this.#targets.delete(target);
      forgetStream(this.#state, id);
      this.#numbers.forget(id);
      this.#positions.forget(id);
      this.#uplink.forget(id);
      freed.forget(id);
    }
  }

  /** What was freed but is kept for recovery goes. Returns what the log takes then. */
  async #reclaim(bytes: number, bytesTarget: number): Promise<number> {
    if (bytes <= bytesTarget || this.#uplink.freed.position <= this.#truncated) return bytes;
    await this.#dropThrough(this.#uplink.freed, this.#uplink.gaps);
    return this.#disk.refresh();
  }

  /** The checkpoint says both what is given up and that the records may go; once it is durable, they go. */
  async #dropThrough(freed: UplinkFold, gaps: GapLedger): Promise<void> {
    await this.#commits.useAll(async () => {
      this.#assertLive();
      const encode = () => this.#encodeCheckpoint(freed, gaps, freed.position);
      const before = { lastSeq: this.#lastSeq, checkpoint: this.#checkpoint, checkpoints: this.#checkpoints };
      try {
        await this.#append(encode());
      } catch (error) {
        if (!hasCode(error, "STORAGE_FULL") || this.#failure || !this.#options.releaseReserve()) throw error;
        this.#lastSeq = before.lastSeq;
        this.#checkpoint = before.checkpoint;
        this.#checkpoints = before.checkpoints;
        await this.#append(encode());
      }
    });
    await this.#truncate(freed.position);
    this.#options.restoreReserve();
  }

  /** Removes records; one call after the other, and a full disk leaves them for the next time. */
  #truncate(throughSeq: number): Promise<void> {
    if (throughSeq <= this.#truncated) return this.#truncating;
    this.#truncated = throughSeq;
    this.#truncating = this.#truncating.then(async () => {
      try {
        await this.#log.truncate(throughSeq);
      } catch (error) {
        if (!hasCode(error, "STORAGE_FULL")) throw error;
      }
      await this.#disk.refresh();
    });
    return this.#truncating;
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    return this.#uplinkTurn.use(async () => {
      this.#assertLive();
      try {
        return await work();
      } catch (error) {
        throw this.#fail(error);
      }
    });
  }

  #usage(): EdgeUsage {
    return {
      diskBytes: this.#disk.bytes,
      eventsHeld: this.#durableEvents - this.#uplink.freed.events,
      eventsUnsent: this.#durableEvents - this.#uplink.eventsSent,
      eventsSkipped: this.#uplink.eventsSkipped,
      recordsQuarantined: this.#options.recordsQuarantined(),
    };
  }

  #assertLive(): void {
    if (this.#failure || this.#closed) throw closedError();
  }

  /**
   * The first failure ends the session and is told as it is; those behind it only say that it is over, unless they may have had
   * effects: a commit on its way may land in spite of what failed beside it.
   */
  #fail(error: unknown): TributaryError {
    const failure = toTributaryError(error);
    if (this.#failure || this.#closed) return failure.sideEffects ? failure : closedError();
    this.#failure = failure;
    return failure;
  }
}

function closedError(): TributaryError {
  return new TributaryError("LOG_CLOSED", "the edge log is closed, or has to be opened again after a failure");
}

function remember(checkpoints: readonly number[], seq: number, truncateThrough: number): number[] {
  const kept = checkpoints.filter((known) => known > truncateThrough);
  const thinned = kept.length < CHECKPOINTS_REMEMBERED_MAX ? kept : kept.filter((_, i) => i % 2 === 1);
  return [...thinned, seq];
}
