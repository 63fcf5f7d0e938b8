import { createHash } from "node:crypto";
import { assert } from "@tributary/common/assert";
import { type Clock, sleep } from "@tributary/common/clock";
import { TributaryError, toTributaryError } from "@tributary/common/errors";
import type { Block } from "@tributary/common/format/block";
import type { Logger } from "@tributary/common/logger";
import { bytesToHex, formatStreamName, type Id, newId, WRITER_ID_BYTES } from "@tributary/common/names";
import { inPhase, type PhaseListener } from "@tributary/common/phases";
import type { Log } from "@tributary/common/ports/log";
import type { ObjectStore } from "@tributary/common/ports/object-store";
import type { Random } from "@tributary/common/random";
import type { AppendRequest, ReadEvent, ReadLevel } from "@tributary/common/stream-service";
import type { AppendAnswer, LevelsAnswer, LevelsRequest } from "@tributary/common/uplink-protocol";
import { claimEpoch, refuseDeposed } from "../tier/claim.ts";
import { Flusher } from "../tier/flusher.ts";
import { LakeHistory } from "../tier/lake-history.ts";
import { quarantineName } from "../tier/object-names.ts";
import { TierReader } from "../tier/tier-reader.ts";
import { flushUnrecorded } from "../tier/unrecorded-flush.ts";
import { Committer, memoryFull } from "./committer.ts";
import type {
  Container,
  ContainerAppendResult,
  ContainerPage,
  ContainerStatus,
  ContainerStream,
  ContainerStreamState,
  WentBack,
} from "./container.ts";
import { WAL_START, type WalPosition } from "./counting.ts";
import type { Durable, StreamEnd } from "./durable.ts";
import { EventReader, type PageBounds } from "./event-reader.ts";
import { blockItemBytes, type OwnResult, ownItemBytes, type QueueItem } from "./frame-builder.ts";
import { frameHash } from "./frame-hash.ts";
import { generationOf } from "./generation.ts";
import { recoverOrRaise } from "./going-back.ts";
import { NONCE_BYTES, nonceAt, positionAt } from "./nonces.ts";
import { headerBytesMax, type Operation } from "./operations.ts";
import { CONTAINER_DEFAULTS, type ContainerOptions } from "./options.ts";
import { LogHole } from "./recovery.ts";
import { type StreamState, segmentPosition, writerEntry, writerKey } from "./state.ts";
import { Waiters } from "./waiters.ts";
import { FRAME_OVERHEAD_BYTES } from "./wal-frame.ts";

export interface ContainerSetup {
  readonly id: number;
  /** Won by compare-and-set; greater than that of every owner before. */
  readonly epoch: number;
  /** Both stay the caller's to close. */
  readonly log: Log;
  readonly objects: ObjectStore;
  readonly clock: Clock;
  readonly random: Random;
  readonly options?: Partial<ContainerOptions>;
  readonly phases?: PhaseListener;
  readonly logger?: Logger;
}

interface Running {
  readonly durable: Durable;
  readonly committer: Committer;
  readonly flusher: Flusher;
}

const NO_PHASES: PhaseListener = { begin() {}, end() {} };

export function createContainer(setup: ContainerSetup): Container {
  return new WalContainer(setup);
}

/** The owner before may truncate records while we read them; then the log is read anew. */
const RECOVERY_TRIES_MAX = 5;
const LOSSES_SHOWN_MAX = 100;

class WalContainer implements Container {
  readonly id: number;
  readonly #setup: ContainerSetup;
  readonly #options: ContainerOptions;
  readonly #tier: TierReader;
  readonly #events: EventReader;
  readonly #waiters = { committed: new Waiters(), tiered: new Waiters() } satisfies Record<ReadLevel, Waiters>;
  readonly #tieredListeners = new Set<(container: number) => void>();
  readonly #failedListeners = new Set<(error: TributaryError) => void>();
  readonly #phases: PhaseListener;
  #running: Running | undefined;
  /** Why it does not serve. */
  #refusal: TributaryError | undefined;
  #closing = false;
  readonly #nonce: Id;
  #walFirst = 1;
  #lastReplayMs = 0;
  #wentBack: WentBack | undefined;

  constructor(setup: ContainerSetup) {
    this.id = setup.id;
    this.#setup = setup;
    this.#nonce = newId(setup.random, NONCE_BYTES);
    this.#options = { ...CONTAINER_DEFAULTS, ...setup.options };
    this.#phases = setup.phases ?? NO_PHASES;
    this.#tier = new TierReader(setup.id, setup.objects, this.#options.blockCacheBytesMax);
    this.#events = new EventReader(this.#options.chunkCacheBytesMax);
  }

  async open(): Promise<void> {
    assert(!this.#running && !this.#refusal, "a container is opened once");
    const { log, clock } = this.#setup;
    let started: Committer | undefined;
    try {
      const startedMs = clock.monotonicMs();
      const { durable, committer } = await this.#takeOver();
      started = committer;
      this.#walFirst = (await log.state()).first;
      this.#wentBack = await this.#describeLoss(durable);
      this.#lastReplayMs = clock.monotonicMs() - startedMs;
      if (this.#refusal) throw this.#refusal;
      this.#running = { durable, committer, flusher: this.#createFlusher(durable, committer) };
      // Positions of an earlier generation are those of another log.
      const { position } = durable.checkpoint;
      this.#running.flusher.start(generationOf(position.epoch) === durable.state.generation ? position : WAL_START);
    } catch (error) {
      const refusal = toTributaryError(error);
      await this.#quarantine(refusal);
      this.#refusal ??= notOwned(refusal);
      started?.stop(this.#refusal);
      throw refusal;
    }
  }

  async #takeOver(): Promise<{ durable: Durable; committer: Committer }> {
    const { id: container, epoch, log, objects, clock, logger } = this.#setup;
    const claimed = claimEpoch(objects, container, epoch, this.#nonce);
    const parts = { container, epoch, nonce: this.#nonce, log, objects, tier: this.#tier, nowMs: () => clock.nowMs(), logger };
    for (let tries = 1; ; tries++) {
      try {
        const recovering = recoverOrRaise({ ...parts, claimed, lake: new LakeHistory(container, objects, this.#tier) });
        const [durable] = await Promise.all([recovering, claimed]);
        const committer = this.#createCommitter(durable);
        await committer.start();
        return { durable, committer };
      } catch (error) {
        if (!(error instanceof LogHole)) throw error;
        if (tries >= RECOVERY_TRIES_MAX) throw new TributaryError("STORE_CORRUPT", error.message, {}, { cause: error });
      }
    }
  }

  async #describeLoss({ state }: Durable): Promise<WentBack | undefined> {
    if (state.generation === 0) return undefined;
    const root = (await this.#tier.root(state.generation))?.root;
    return (
      root && {
        raisedAtMs: root.raisedAtMs,
        reason: root.reason,
        streams: new Set(root.ends.map((end) => end.streamId)).size,
        streamsWithKnownLoss: root.losses.length,
        losses: root.losses.slice(0, LOSSES_SHOWN_MAX).map((loss) => {
          const origin = state.streams.get(loss.streamId)?.origin;
          return { ...loss, name: origin ? formatStreamName(origin.name) : "" };
        }),
      }
    );
  }

  #createCommitter(durable: Durable): Committer {
    const { id, epoch, log, clock, random } = this.#setup;
    const writerId = bytesToHex(createHash("sha256").update(`tributary container ${id}`).digest().subarray(0, WRITER_ID_BYTES));
    return new Committer({
      container: id,
      epoch,
      writerId,
      takeOver: { type: "take-over", nonce: this.#nonce, endsGeneration: false },
      durable,
      options: this.#options,
      log,
      clock,
      random,
      phases: this.#phases,
      onAttemptEnded: (error) =>
        this.#setup.logger?.warn("an attempt of a container ended", { container: id, code: error.code, reason: error.message }),
      onApplied: (changed) => {
        for (const [streamId, chain] of changed) {
          this.#waiters.committed.wake(streamId, chain);
          if (!durable.state.streams.has(streamId)) this.#waiters.tiered.wake(streamId, undefined);
        }
        this.#running?.flusher.poke();
      },
      onFatal: (error) => this.#fail(error),
    });
  }

  #createFlusher(durable: Durable, committer: Committer): Flusher {
    const { id, epoch, objects, clock, random } = this.#setup;
    return new Flusher(
      {
        container: id,
        epoch,
        attempt: () => committer.attempt,
        durable: () => durable,
        record: async (checkpoint) => {
          // What is said to be tiered must be in whatever the container goes on from.
          await refuseDeposed(objects, id, epoch);
          const operation: Operation = { type: "tiered", checkpoint };
          const bytes = FRAME_OVERHEAD_BYTES + headerBytesMax(operation);
          return inPhase(
            this.#phases,
            "checkpoint",
            () => new Promise<void>((resolve, reject) => committer.enqueue({ kind: "checkpoint", operation, bytes, resolve, reject })),
          );
        },
        truncateWal: (through) => inPhase(this.#phases, "truncate", () => this.#truncateWal(through)),
        onFlushed: (changed) => {
          committer.madeRoom();
          for (const [streamId, chain] of changed) this.#waiters.tiered.wake(streamId, chain);
        },
        onTiered: () => {
          for (const listener of this.#tieredListeners) listener(id);
        },
        onFatal: (error) => this.#fail(toTributaryError(error)),
      },
      // Appends wait above the bound on what is not flushed: by then a flush must be under way.
      { ...this.#options, flushBytes: Math.min(this.#options.flushBytes, this.#options.unflushedBytesMax / 2) },
      {
        objects,
        clock,
        random,
        phases: this.#phases,
        onProblem: (step, error) =>
          this.#setup.logger?.warn("a flush is held up", { container: id, step, code: error.code, reason: error.message }),
      },
    );
  }

  /**
   * Some time may have passed since the checkpoint. If the log went back meanwhile, another owner has filled it again with what may not be in
   * the tier: then the record that the checkpoint names is not there any more.
   */
  async #truncateWal({ seq, hash }: WalPosition): Promise<void> {
    const { log } = this.#setup;
    const [record] = await log.read(seq, { recordsMax: 1, bytesMax: 1 });
    if (record?.seq !== seq || frameHash(record.data) !== hash) return;
    await log.truncate(seq);
    this.#walFirst = seq + 1;
  }

  async ensureStream(stream: ContainerStream): Promise<void> {
    const { durable } = this.#serving();
    if (durable.state.streams.has(stream.id)) return;
    const { id: streamId, contentType, closed, origin } = stream;
    const { generation } = durable.state;
    const segments = stream.segments.map((segment) => ({ ...segment, generation }));
    const operation: Operation = { type: "register-stream", streamId, segments, contentType, closed, origin };
    await this.#control(headerBytesMax(operation), (decided) => {
      if (decided.gone(streamId)) throw new TributaryError("STREAM_GONE", "the stream was deleted");
      return decided.head(streamId) ? undefined : operation;
    });
  }

  knowsStream(streamId: Id): boolean {
    return this.#running?.durable.state.streams.has(streamId) ?? false;
  }

  registrations(): { streams: ContainerStream[]; deleted: Id[] } {
    const { streams, tombstones } = this.#serving().durable.state;
    return {
      streams: Array.from(streams.values(), ({ id, segments, contentType, closed, origin }) => ({
        id,
        segments: segments.map((segment) => segment.id),
        contentType,
        closed,
        ...(origin && { origin }),
      })),
      deleted: [...tombstones],
    };
  }

  async deleteStream(streamId: Id): Promise<void> {
    this.#serving();
    await this.#control(64, (decided) => (decided.gone(streamId) ? undefined : { type: "delete-stream", streamId }));
  }

  async appendBlock(block: Block): Promise<AppendAnswer> {
    const bytes = blockItemBytes(block);
    return this.#enqueue(bytes, (resolve, reject) => ({ kind: "block", block, bytes, resolve, reject }));
  }

  async append(streamId: Id, request: AppendRequest): Promise<ContainerAppendResult> {
    const bytes = ownItemBytes(request);
    const arrivedAtMs = this.#setup.clock.nowMs();
    const result = await this.#enqueue<OwnResult>(bytes, (resolve, reject) => {
      return { kind: "own", streamId, request, arrivedAtMs, bytes, resolve, reject };
    });
    const nonces = this.#running?.durable.state.streams.get(streamId)?.nonces ?? [];
    return { ...result, ancestry: positionAt(nonces, result.nextChain).ancestry };
  }

  #control(bytes: number, decide: Extract<QueueItem, { kind: "control" }>["decide"]): Promise<void> {
    return this.#enqueue(bytes, (resolve, reject) => ({ kind: "control", decide, bytes, resolve, reject }));
  }

  #enqueue<T>(bytes: number, item: (resolve: (value: T) => void, reject: (error: unknown) => void) => QueueItem): Promise<T> {
    const { committer } = this.#serving();
    if (bytes + FRAME_OVERHEAD_BYTES > committer.frameBytesMax) {
      throw new TributaryError("BATCH_TOO_LARGE", `${bytes} bytes do not fit in one frame of the write-ahead log`);
    }
    if (!committer.takes(bytes)) throw memoryFull();
    return new Promise((resolve, reject) => committer.enqueue(item(resolve, reject)));
  }

  levels(request: LevelsRequest): LevelsAnswer {
    const { state } = this.#serving().durable;
    const entries = request.entries.map((asked): readonly [number, number] => {
      const stream = state.streams.get(asked.streamId);
      const key = writerKey({ writer: request.writer, incarnation: asked.incarnation, lane: asked.lane });
      const entry = stream && writerEntry(stream, segmentPosition(stream, asked.segment), key);
      return entry ? [entry.last, entry.tiered] : [0, 0];
    });
    return { entries };
  }

  async read(streamId: Id, fromChain: number, bounds: PageBounds, level: ReadLevel = "committed"): Promise<ContainerPage> {
    const events: ReadEvent[] = [];
    let chain = fromChain;
    let bytes = 0;
    const end = this.#stream(streamId).chain;
    if (fromChain > end) throw new TributaryError("OFFSET_UNKNOWN", `the stream ends at ${end}`, { nextChain: end });
    while (events.length < bounds.eventsMax && bytes < bounds.bytesMax) {
      // Looked up anew each time: a flush moves extents from memory to the tier between two steps.
      const { durable } = this.#serving();
      if (chain >= durable.endOf(this.#stream(streamId), level).chain) break;
      let extent = durable.unflushed.find(streamId, chain);
      if (!extent) {
        const ref = durable.index.find(streamId, chain);
        assert(ref !== undefined, "a durable event is in memory or in the tier");
        extent = await this.#tier.extent(ref, streamId, chain);
      }
      const before = events.length;
      const nonce = nonceAt(this.#stream(streamId).nonces, chain);
      bytes += this.#events.read(extent, nonce, chain, { eventsMax: bounds.eventsMax, bytesMax: bounds.bytesMax - bytes }, events);
      if (events.length === before) break;
      chain += events.length - before;
    }
    return { events, nextChain: chain };
  }

  async waitForData(streamId: Id, chain: number, signal: AbortSignal, level: ReadLevel = "committed"): Promise<void> {
    const { durable } = this.#running ?? {};
    const stream = durable?.state.streams.get(streamId);
    if (this.#refusal || this.#closing || !durable || !stream) return;
    const end = durable.endOf(stream, level);
    if (end.closed || end.chain > chain) return;
    await this.#waiters[level].wait(streamId, chain, signal);
  }

  endOf(streamId: Id, level: ReadLevel): StreamEnd | undefined {
    const { durable } = this.#serving();
    const stream = durable.state.streams.get(streamId);
    return stream && durable.endOf(stream, level);
  }

  describe(streamId: Id): ContainerStreamState | undefined {
    const stream = this.#serving().durable.state.streams.get(streamId);
    return (
      stream && {
        firstChain: 0,
        nextChain: stream.chain,
        closed: stream.closed,
        segmentLengths: stream.segments.map((segment) => ({ segment: segment.id, length: segment.length })),
        nonces: stream.nonces.slice(),
      }
    );
  }

  status(): ContainerStatus {
    const { durable, committer, flusher } = this.#running ?? {};
    return {
      container: this.id,
      epoch: this.#setup.epoch,
      attempt: committer?.attempt ?? 0,
      walFirst: this.#walFirst,
      walLast: durable?.end ?? 0,
      eventsDurable: durable?.state.events ?? 0,
      eventsTiered: durable?.eventsTiered ?? 0,
      bytesInMemory: (durable?.unflushed.bytes ?? 0) + (committer?.bytesWaiting ?? 0),
      bytesTiered: durable?.index.bytes ?? 0,
      lastReplayMs: this.#lastReplayMs,
      logProblem: committer?.logProblem ?? "",
      tierProblem: flusher?.problem,
      generation: generationOf(this.#setup.epoch),
      wentBack: this.#wentBack,
    };
  }

  onTiered(listener: (container: number) => void): () => void {
    this.#tieredListeners.add(listener);
    return () => this.#tieredListeners.delete(listener);
  }

  onFailed(listener: (error: TributaryError) => void): () => void {
    this.#failedListeners.add(listener);
    return () => this.#failedListeners.delete(listener);
  }

  async close(options?: { readonly withinMs: number }): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    this.#wakeAll();
    const withinMs = options?.withinMs ?? this.#options.closeTimeoutMs;
    const running = this.#refusal || withinMs === 0 ? undefined : this.#running;
    try {
      if (running && !(await this.#finishInTime(running, withinMs))) {
        const container = this.id;
        this.#setup.logger?.warn("a container stopped before all of it was in the tier; the next start goes on from the log", {
          container,
        });
      }
    } finally {
      this.#stop(new TributaryError("SHUTTING_DOWN", "the container is closed"));
    }
  }

  /** Answers what waits, and flushes. False where log or tier do not answer in time: a stop must end also while they are away. */
  #finishInTime({ committer, flusher }: Running, withinMs: number): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const cancel = this.#setup.clock.setTimer(withinMs, () => resolve(false));
      const finish = async () => {
        await committer.idle();
        await flusher.finish();
        return true;
      };
      finish().then(resolve, reject).finally(cancel);
    });
  }

  #stream(streamId: Id): StreamState {
    const stream = this.#serving().durable.state.streams.get(streamId);
    if (!stream) throw new TributaryError("STREAM_UNKNOWN", "the stream is not known here");
    return stream;
  }

  #serving() {
    if (this.#refusal) throw this.#refusal;
    if (this.#closing) throw new TributaryError("SHUTTING_DOWN", "the container is closing");
    if (!this.#running) throw new TributaryError("CONTAINER_NOT_OWNED", "the container is not open yet");
    return this.#running;
  }

  #fail(error: TributaryError): void {
    if (this.#refusal) return;
    this.#stop(notOwned(error));
    this.#setup.logger?.error("a container stopped", { container: this.id, code: error.code, reason: error.message });
    const tell = () => {
      for (const listener of this.#failedListeners) listener(error);
    };
    void this.#quarantine(error);
    if (error.details["wentBack"] === true) void this.#rescue().then(tell);
    else tell();
  }

  /** The log lost what is durable, and nobody else has it: the lake takes it, where whoever opens the container next finds it. */
  async #rescue(): Promise<void> {
    const { id: container, epoch, objects, clock, logger } = this.#setup;
    const { durable, committer } = this.#running ?? {};
    if (!durable || !committer) return;
    const flushed = flushUnrecorded(objects, { container, epoch, attempt: committer.attempt }, durable).then(
      () => undefined,
      (error: unknown) => toTributaryError(error),
    );
    const late = new AbortController();
    const failure = await Promise.race([flushed, sleep(clock, this.#options.closeTimeoutMs, late.signal).then(() => "late" as const)]);
    late.abort();
    if (failure) {
      const code = failure === "late" ? failure : failure.code;
      logger?.error("what the log of a container lost could not be brought into the lake", { container, code });
    }
  }

  #stop(refusal: TributaryError): void {
    this.#refusal ??= refusal;
    this.#running?.flusher.stop();
    this.#running?.committer.stop(this.#refusal);
    this.#wakeAll();
  }

  #wakeAll(): void {
    for (const waiters of Object.values(this.#waiters)) waiters.wakeAll();
  }

  /** Keeps a copy of the record that stopped the container, for whoever has to find out why. Best effort. */
  async #quarantine(error: TributaryError): Promise<void> {
    const seq = error.details["seq"];
    if (error.code !== "FRAME_CORRUPT" || typeof seq !== "number") return;
    try {
      const [record] = await this.#setup.log.read(seq, { recordsMax: 1, bytesMax: 1 });
      if (record?.seq === seq)
        await this.#setup.objects.put(quarantineName(generationOf(this.#setup.epoch), this.id, seq, frameHash(record.data)), record.data);
    } catch {
      // The log or the store is out of order as well; the error tells the sequence.
    }
  }
}

function notOwned(cause: TributaryError): TributaryError {
  if (cause.code === "CONTAINER_NOT_OWNED") return cause;
  return new TributaryError("CONTAINER_NOT_OWNED", `the container stopped: ${cause.message}`, { reason: cause.code }, { cause });
}
