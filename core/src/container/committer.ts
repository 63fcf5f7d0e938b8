import { assert } from "@tributary/common/assert";
import { type Clock, sleep } from "@tributary/common/clock";
import { hasCode, TributaryError, toTributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import { type Id, INCARNATION_BYTES, newId } from "@tributary/common/names";
import type { PhaseListener } from "@tributary/common/phases";
import type { Log } from "@tributary/common/ports/log";
import type { Random } from "@tributary/common/random";
import { CommitPipeline, type SentFrame } from "./commit-pipeline.ts";
import type { WalPosition } from "./counting.ts";
import { DecidedState } from "./decided.ts";
import type { Durable } from "./durable.ts";
import { fence } from "./fence.ts";
import { FrameBuffers } from "./frame-buffers.ts";
import { type Answer, buildFrame, type CheckpointItem, type DecidedItem, type QueueItem } from "./frame-builder.ts";
import type { Operation } from "./operations.ts";
import type { ContainerOptions } from "./options.ts";
import { OwnWriter } from "./own-batch.ts";
import { applyLanded, LogHole } from "./recovery.ts";

/** While a container holds appends, more of them than this are refused. */
const HELD_ITEMS_MAX = 256;
const BACKOFF_MS_MIN = 20;
const BACKOFF_MS_MAX = 2_000;
/** Tries of `start` that fail otherwise than by another writer's record. */
const START_TRIES_MAX = 5;

/** What ends a container for good: another owner, damage that must not be guessed at, or a log that has to be opened anew. */
const FATAL_CODES = ["CONTAINER_NOT_OWNED", "LOG_CLOSED", "FRAME_CORRUPT", "STORE_CORRUPT", "FORMAT_UNSUPPORTED", "INTERNAL"] as const;

export interface CommitterHost {
  readonly container: number;
  readonly epoch: number;
  readonly writerId: Id;
  /** In each fence of this owner. */
  readonly takeOver: Operation;
  readonly durable: Durable;
  readonly options: ContainerOptions;
  readonly log: Log;
  readonly clock: Clock;
  readonly random: Random;
  readonly phases: PhaseListener;
  /** Called when an attempt ends before its time; the next one begins. */
  onAttemptEnded(error: TributaryError): void;
  /** Called after each change of the durable state, with the streams that changed. */
  onApplied(changed: ReadonlyMap<Id, number | undefined>): void;
  onFatal(error: TributaryError): void;
}

/**
 * Turns a queue of requests into frames of one attempt after another. Answers leave only when the frame that they rest on is
 * durable. When an attempt ends, what was decided and is not durable is forgotten; requests whose frames are found to have landed
 * are answered as if nothing had happened, the others are told to come again.
 */
export class Committer {
  readonly #host: CommitterHost;
  readonly #decided: DecidedState;
  readonly #stop = new AbortController();
  #queue: DecidedItem[] = [];
  /** What makes room in memory waits for nobody. */
  #checkpoints: CheckpointItem[] = [];
  #queuedBytes = 0;
  readonly #buffers: FrameBuffers;
  #pipeline: CommitPipeline | undefined;
  #writer: OwnWriter | undefined;
  #attempt = 0;
  #logProblem = "";
  #pumpScheduled = false;
  #cancelPace: (() => void) | undefined;
  /** While the queue waits for the tier: ends its patience. */
  #cancelHold: (() => void) | undefined;
  /** Its patience is over; holds until there is room. */
  #stalled = false;
  #lastSentMs = 0;
  /** Frames of the attempt before whose fate is not known yet, by hash. */
  #lost = new Map<string, SentFrame>();
  #onIdle: (() => void)[] = [];

  constructor(host: CommitterHost) {
    this.#host = host;
    this.#decided = new DecidedState(host.durable.state);
    this.#buffers = new FrameBuffers(host.options.windowFrames, 2 * host.options.frameBytesTarget);
  }

  get attempt(): number {
    return this.#attempt;
  }
  /** Bytes that wait for a frame or for its result. */
  get bytesWaiting(): number {
    return this.#queuedBytes + (this.#pipeline?.bytesInFlight ?? 0);
  }
  get frameBytesMax(): number {
    return Math.min(this.#host.options.frameBytesMax, this.#host.log.recordBytesMax ?? LIMITS.frameBytesMax);
  }
  /** The code with which the log refused or failed last; empty once something became durable after it. */
  get logProblem(): string {
    return this.#logProblem;
  }

  /** The first attempt. @throws LOG_RESULT_UNKNOWN, the fatal codes, LogHole if the owner before truncated what was not read yet */
  async start(): Promise<void> {
    await this.#begin([], START_TRIES_MAX);
  }

  /** Whether there is room for an append of so many bytes: else OVERLOADED. */
  takes(bytes: number): boolean {
    if (this.#stalled && !this.#hasRoom) return false;
    // What is held takes a place of the node's in-flight requests from other containers.
    if (this.#cancelHold && this.#queue.length >= HELD_ITEMS_MAX) return false;
    return this.#queuedBytes + bytes <= this.#host.options.queueBytesMax;
  }

  /** More is in the tier, and no longer in memory. */
  madeRoom(): void {
    this.#endHold();
    this.#schedulePump();
  }

  enqueue(item: QueueItem): void {
    if (item.kind === "checkpoint") this.#checkpoints.push(item);
    else {
      this.#queue.push(item);
      this.#queuedBytes += item.bytes;
    }
    this.#schedulePump();
  }

  /** Resolves once nothing waits any more. */
  idle(): Promise<void> {
    return new Promise((resolve) => {
      this.#onIdle.push(resolve);
      this.#checkIdle();
    });
  }

  stop(error: TributaryError): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    this.#cancelPace?.();
    this.#endHold();
    this.#pipeline?.end(error);
    for (const frame of this.#pipeline?.inFlight ?? []) failAll(frame.answers, unknownResult(error));
    this.#pipeline = undefined;
    this.#giveUp(error);
  }

  #schedulePump(): void {
    if (this.#pumpScheduled) return;
    this.#pumpScheduled = true;
    // Requests of the same turn share a frame.
    queueMicrotask(() => {
      this.#pumpScheduled = false;
      try {
        this.#pump();
      } catch (error) {
        this.#host.onFatal(toTributaryError(error));
      }
    });
  }

  #pump(): void {
    const { windowFrames, attemptFramesMax } = this.#host.options;
    const pipeline = this.#pipeline;
    while (pipeline && !pipeline.ended && this.#hasWork && pipeline.inFlight.length < windowFrames) {
      if (pipeline.nextNumber >= attemptFramesMax) {
        if (pipeline.inFlight.length > 0) return;
        pipeline.end(new TributaryError("OVERLOADED", "the attempt has as many frames as one may have"));
        return;
      }
      const checkpoint = this.#checkpoints.shift();
      if (checkpoint) {
        this.#send(pipeline, [checkpoint]);
        continue;
      }
      if (!this.#hasRoom) {
        this.#hold();
        return;
      }
      this.#endHold();
      if (!this.#paceAllows(pipeline)) return;
      const taken = this.#send(pipeline, this.#queue);
      for (const item of this.#queue.splice(0, taken)) this.#queuedBytes -= item.bytes;
    }
    this.#checkIdle();
  }

  /** The next frame, from the head of the queue. Returns how many items it took. */
  #send(pipeline: CommitPipeline, queue: readonly QueueItem[]): number {
    assert(this.#writer !== undefined, "an attempt has its writer");
    const built = buildFrame(queue, {
      decided: this.#decided,
      writer: this.#writer,
      frame: pipeline.nextNumber,
      bytesTarget: this.#host.options.frameBytesTarget,
      bytesMax: this.frameBytesMax,
    });
    const answers = [...built.answers];
    if (built.operations.length > 0) {
      this.#lastSentMs = this.#host.clock.monotonicMs();
      pipeline.send(built.kind, built.operations, answers);
    } else {
      // Nothing new: what is said rests on the frames before it.
      const before = pipeline.inFlight.at(-1);
      if (before) before.answers.push(...answers);
      else for (const answer of answers) answer.deliver();
    }
    return built.taken;
  }

  get #hasWork(): boolean {
    return this.#queue.length > 0 || this.#checkpoints.length > 0;
  }

  get #hasRoom(): boolean {
    return this.#host.durable.unflushed.bytes + (this.#pipeline?.bytesInFlight ?? 0) < this.#host.options.unflushedBytesMax;
  }

  /** Whoever waits for an answer sends no more meanwhile. */
  #hold(): void {
    this.#cancelHold ??= this.#host.clock.setTimer(this.#host.options.holdMsMax, () => {
      this.#cancelHold = undefined;
      if (this.#hasRoom) return this.#schedulePump();
      this.#stalled = true;
      this.#refuseQueue(memoryFull());
    });
  }

  #endHold(): void {
    this.#cancelHold?.();
    this.#cancelHold = undefined;
    this.#stalled = false;
  }

  /**
   * Small frames are spread over the time that one takes to become durable, so that each carries what arrived meanwhile: on a log
   * with slow disks the batches grow by themselves.
   */
  #paceAllows(pipeline: CommitPipeline): boolean {
    const { windowFrames, frameBytesTarget } = this.#host.options;
    if (pipeline.inFlight.length === 0 || this.#queuedBytes >= frameBytesTarget) return true;
    const waitMs = this.#lastSentMs + pipeline.latencyMs / windowFrames - this.#host.clock.monotonicMs();
    if (waitMs <= 0) return true;
    this.#cancelPace ??= this.#host.clock.setTimer(waitMs, () => {
      this.#cancelPace = undefined;
      this.#schedulePump();
    });
    return false;
  }

  #onDurable(frame: SentFrame): void {
    try {
      const changed = this.#host.durable.apply(frame.position, frame.operations);
      this.#decided.settle(frame.position.number);
      this.#logProblem = "";
      for (const answer of frame.answers) answer.deliver();
      this.#host.onApplied(changed);
      this.#schedulePump();
    } catch (error) {
      this.#host.onFatal(toTributaryError(error));
    }
  }

  #onEnded(pipeline: CommitPipeline, error: unknown): void {
    if (this.#stop.signal.aborted) return;
    const failure = toTributaryError(error);
    this.#logProblem = failure.code;
    this.#host.onAttemptEnded(failure);
    this.#begin(pipeline.inFlight, Number.POSITIVE_INFINITY).catch((error: unknown) => {
      // Behind our own fence nobody of an earlier epoch has anything to truncate.
      const damaged = error instanceof LogHole;
      this.#host.onFatal(damaged ? new TributaryError("STORE_CORRUPT", error.message, {}, { cause: error }) : toTributaryError(error));
    });
  }

  /** Begins the next attempt: throws away what was only decided, adopts what landed, fences (rule C3). */
  async #begin(inFlight: readonly SentFrame[], triesMax: number): Promise<void> {
    const { log, durable, clock, random } = this.#host;
    this.#pipeline = undefined;
    this.#decided.clear();
    this.#lost = new Map(inFlight.map((frame) => [frame.position.hash, frame]));
    let failures = 0;
    let endAtLeast = 0;
    for (let tries = 0; !this.#stop.signal.aborted; tries++) {
      try {
        const { position: known, end } = durable;
        const {
          landed,
          fence: position,
          takeOver,
        } = await this.#inTime((signal) => fence(log, this.#host, { position: known, end, endAtLeast }, signal));
        if (this.#stop.signal.aborted) return;
        for (const record of landed) {
          const changed = applyLanded(durable, record);
          const hash = record.frame?.position.hash ?? "";
          for (const answer of this.#lost.get(hash)?.answers ?? []) answer.deliver();
          this.#lost.delete(hash);
          this.#host.onApplied(changed);
        }
        if (durable.endsGeneration) throw new TributaryError("CONTAINER_NOT_OWNED", "the container goes on in a later generation");
        // With the fence behind them they can never count.
        const again = new TributaryError("OVERLOADED", "the write-ahead log changed hands or failed; nothing was appended");
        for (const frame of this.#lost.values()) failAll(frame.answers, again);
        this.#lost.clear();
        this.#open(position, takeOver);
        return;
      } catch (error) {
        if (hasCode(error, ...FATAL_CODES) || !(error instanceof TributaryError)) throw error;
        if (hasCode(error, "LOG_SEQUENCE_MISMATCH")) endAtLeast = Number(error.details["last"] ?? 0);
        else {
          failures++;
          this.#logProblem = toTributaryError(error).code;
          this.#giveUp(error);
          if (failures >= triesMax) throw error;
        }
        // A deposed owner that still sends loses its race sooner or later: the first retry does not wait.
        const backoffMs = tries === 0 ? 0 : Math.min(BACKOFF_MS_MIN * 2 ** Math.min(tries, 10), BACKOFF_MS_MAX);
        if (backoffMs > 0) await sleep(clock, backoffMs * (0.5 + random.float() / 2), this.#stop.signal);
      }
    }
  }

  #open(position: WalPosition, takeOver: Operation): void {
    const { durable, log, clock, options, random, writerId } = this.#host;
    durable.apply(position, [takeOver]);
    this.#attempt = position.attempt;
    this.#writer = new OwnWriter(writerId, newId(random, INCARNATION_BYTES));
    const pipeline: CommitPipeline = new CommitPipeline(
      position,
      this.#host.container,
      { log, clock, phases: this.#host.phases, timeoutMs: options.appendTimeoutMs, buffers: this.#buffers },
      { onDurable: (frame) => this.#onDurable(frame), onEnded: (error) => this.#onEnded(pipeline, error) },
    );
    this.#pipeline = pipeline;
    this.#schedulePump();
  }

  /** A log that never answers must not hold those who wait for ever. */
  #inTime<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const late = new AbortController();
    return new Promise((resolve, reject) => {
      const cancel = this.#host.clock.setTimer(this.#host.options.fenceTimeoutMs, () => {
        late.abort();
        reject(new TributaryError("LOG_RESULT_UNKNOWN", "the write-ahead log does not answer"));
      });
      work(late.signal).then(resolve, reject).finally(cancel);
    });
  }

  /** Nobody waits through an outage of the log: whoever asked is told, and asks again. */
  #giveUp(error: TributaryError): void {
    for (const frame of this.#lost.values()) failAll(frame.answers, unknownResult(error));
    this.#lost.clear();
    // They were not even decided.
    const refusal = error.retryable && !error.sideEffects ? error : new TributaryError("OVERLOADED", error.message, {}, { cause: error });
    this.#endHold();
    this.#refuseQueue(refusal);
    for (const item of this.#checkpoints.splice(0)) item.reject(refusal);
    this.#checkIdle();
  }

  #refuseQueue(refusal: TributaryError): void {
    const queue = this.#queue;
    this.#queue = [];
    this.#queuedBytes = 0;
    for (const item of queue) item.reject(refusal);
    this.#checkIdle();
  }

  #checkIdle(): void {
    if (this.#hasWork || this.#lost.size > 0 || (this.#pipeline?.inFlight.length ?? 0) > 0) return;
    this.#buffers.clear();
    const listeners = this.#onIdle;
    this.#onIdle = [];
    for (const listener of listeners) listener();
  }
}

export function memoryFull(): TributaryError {
  return new TributaryError("OVERLOADED", "the container's memory is full until its log and its tier have taken more");
}

function failAll(answers: readonly Answer[], error: TributaryError): void {
  for (const answer of answers) answer.fail(error);
}

function unknownResult(error: TributaryError): TributaryError {
  return new TributaryError("LOG_RESULT_UNKNOWN", `the append may have landed: ${error.message}`, {}, { cause: error });
}
