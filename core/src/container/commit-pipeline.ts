import { assert } from "@tributary/common/assert";
import type { Clock } from "@tributary/common/clock";
import { TributaryError } from "@tributary/common/errors";
import { inPhase, type PhaseListener } from "@tributary/common/phases";
import type { Log } from "@tributary/common/ports/log";
import type { FrameKind, WalPosition } from "./counting.ts";
import type { FrameBuffers } from "./frame-buffers.ts";
import type { Answer } from "./frame-builder.ts";
import type { Operation } from "./operations.ts";
import { encodeFrame } from "./wal-frame.ts";

/** A frame that was sent and is not durable yet. */
export interface SentFrame {
  readonly position: WalPosition;
  readonly operations: readonly Operation[];
  readonly answers: Answer[];
  readonly bytes: Uint8Array;
  readonly sentAtMs: number;
  landed: boolean;
}

/**
 * The frames of one attempt on their way into the log, each at its predicted sequence (rule C4). A frame counts as durable only
 * when it and all before it have landed: behind a frame that was refused, a later one may still land and must never be
 * acknowledged. The first append that fails, in whatever way, ends the attempt.
 */
export class CommitPipeline {
  readonly inFlight: SentFrame[] = [];
  bytesInFlight = 0;
  /** Moving average of the time from sending to durable. */
  latencyMs = 0;
  #last: WalPosition;
  #ended = false;
  readonly #container: number;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #phases: PhaseListener;
  readonly #timeoutMs: number;
  readonly #buffers: FrameBuffers;
  readonly #onDurable: (frame: SentFrame) => void;
  readonly #onEnded: (error: unknown) => void;

  constructor(
    /** The durable fence of the attempt. */
    fence: WalPosition,
    container: number,
    ports: { log: Log; clock: Clock; phases: PhaseListener; timeoutMs: number; buffers: FrameBuffers },
    handlers: { onDurable: (frame: SentFrame) => void; onEnded: (error: unknown) => void },
  ) {
    this.#last = fence;
    this.#container = container;
    this.#log = ports.log;
    this.#clock = ports.clock;
    this.#phases = ports.phases;
    this.#timeoutMs = ports.timeoutMs;
    this.#buffers = ports.buffers;
    this.#onDurable = handlers.onDurable;
    this.#onEnded = handlers.onEnded;
  }

  /** Number of the next frame. */
  get nextNumber(): number {
    return this.#last.number + 1;
  }

  get ended(): boolean {
    return this.#ended;
  }

  send(kind: FrameKind, operations: readonly Operation[], answers: Answer[]): void {
    assert(!this.#ended, "nothing is sent in an attempt that ended");
    const { epoch, attempt, hash: previousHash } = this.#last;
    const number = this.nextNumber;
    const head = { kind, container: this.#container, epoch, attempt, number, previousHash };
    const { bytes, hash } = encodeFrame(head, operations, (length) => this.#buffers.take(length));
    const position = { seq: this.#last.seq + 1, epoch, attempt, number, hash };
    this.#last = position;
    const frame: SentFrame = { position, operations, answers, bytes, sentAtMs: this.#clock.monotonicMs(), landed: false };
    this.inFlight.push(frame);
    this.bytesInFlight += bytes.length;
    const cancelTimeout = this.#clock.setTimer(this.#timeoutMs, () =>
      this.end(new TributaryError("LOG_RESULT_UNKNOWN", `no result of the append of WAL record ${position.seq} in time`)),
    );
    inPhase(this.#phases, "commit", () => this.#log.append(bytes, position.seq - 1)).then(
      (seq) => {
        cancelTimeout();
        if (this.#ended) return;
        if (seq !== position.seq)
          return this.end(new TributaryError("LOG_RESULT_UNKNOWN", `a record landed at ${seq}, not ${position.seq}`));
        frame.landed = true;
        this.#settle();
      },
      (error: unknown) => {
        cancelTimeout();
        this.end(error);
      },
    );
  }

  /** Ends the attempt: whatever lands from now on is found by reading the log. */
  end(error: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#onEnded(error);
  }

  #settle(): void {
    for (let frame = this.inFlight[0]; frame?.landed && !this.#ended; frame = this.inFlight[0]) {
      this.inFlight.shift();
      this.bytesInFlight -= frame.bytes.length;
      this.#buffers.giveBack(frame.bytes);
      const tookMs = this.#clock.monotonicMs() - frame.sentAtMs;
      this.latencyMs = this.latencyMs === 0 ? tookMs : this.latencyMs * 0.8 + tookMs * 0.2;
      this.#onDurable(frame);
    }
  }
}
