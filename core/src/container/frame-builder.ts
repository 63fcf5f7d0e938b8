import { sameContentType } from "@tributary/common/content-type";
import { TributaryError, toTributaryError } from "@tributary/common/errors";
import type { Block, Slice } from "@tributary/common/format/block";
import { LIMITS } from "@tributary/common/limits";
import type { Id } from "@tributary/common/names";
import type { AppendRequest } from "@tributary/common/stream-service";
import { type AppendAnswer, SLICE_STATUS, type SliceStatus } from "@tributary/common/uplink-protocol";
import type { ContainerAppendResult } from "./container.ts";
import { FRAME_KIND, type FrameKind } from "./counting.ts";
import type { DecidedState } from "./decided.ts";
import { headerBytesMax, type Operation, type SliceDecision } from "./operations.ts";
import { chainBehind, type Mark, OwnBatch, type OwnWriter } from "./own-batch.ts";
import { judgeProducer } from "./producer-rules.ts";
import { decideSlice } from "./slice-decision.ts";
import { FRAME_OVERHEAD_BYTES } from "./wal-frame.ts";

interface Waiting {
  /** Bytes that it may take in a frame at most. */
  readonly bytes: number;
  reject(error: unknown): void;
}

/** What its take-overs are is known once it is durable. */
export type OwnResult = Omit<ContainerAppendResult, "ancestry">;

interface BlockItem extends Waiting {
  readonly kind: "block";
  readonly block: Block;
  resolve(answer: AppendAnswer): void;
}

interface OwnItem extends Waiting {
  readonly kind: "own";
  readonly streamId: Id;
  readonly request: AppendRequest;
  readonly arrivedAtMs: number;
  resolve(result: OwnResult): void;
}

/** An operation on whole streams; `decide` returns nothing where nothing is left to do. */
interface ControlItem extends Waiting {
  readonly kind: "control";
  decide(decided: DecidedState): Operation | undefined;
  resolve(): void;
}

export interface CheckpointItem extends Waiting {
  readonly kind: "checkpoint";
  readonly operation: Operation;
  resolve(): void;
}

/** What is decided in the order in which it came. */
export type DecidedItem = BlockItem | OwnItem | ControlItem;
export type QueueItem = DecidedItem | CheckpointItem;

/** What is said once everything decided so far is durable (rule W3); `fail` if that will never be, or cannot be known. */
export interface Answer {
  deliver(): void;
  fail(error: unknown): void;
}

export interface BuiltFrame {
  readonly kind: FrameKind;
  /** Empty where nothing new was decided. */
  readonly operations: readonly Operation[];
  readonly answers: readonly Answer[];
  /** How many items of the queue it took. */
  readonly taken: number;
}

/**
 * Takes items from the head of the queue, decides them in their order and lays the operations out for one frame. Items that
 * only repeat what is known leave no operation but wait, like the others, for what was decided before them.
 */
export function buildFrame(
  queue: readonly QueueItem[],
  context: { decided: DecidedState; writer: OwnWriter; frame: number; bytesTarget: number; bytesMax: number },
): BuiltFrame {
  const first = queue[0];
  if (first?.kind === "checkpoint") {
    const answer = { deliver: () => first.resolve(), fail: first.reject };
    return { kind: FRAME_KIND.checkpoint, operations: [first.operation], answers: [answer], taken: 1 };
  }
  const builder = new Builder(context.decided, context.writer, context.frame);
  let bytes = FRAME_OVERHEAD_BYTES;
  let taken = 0;
  for (const item of queue) {
    if (item.kind === "checkpoint" || (taken > 0 && (bytes >= context.bytesTarget || bytes + item.bytes > context.bytesMax))) break;
    bytes += item.bytes;
    taken++;
    builder.add(item);
  }
  return { kind: FRAME_KIND.operations, operations: builder.finish(), answers: builder.answers, taken };
}

class Builder {
  readonly answers: Answer[] = [];
  readonly #operations: Operation[] = [];
  readonly #decided: DecidedState;
  readonly #frame: number;
  readonly #own: OwnBatch;

  constructor(decided: DecidedState, writer: OwnWriter, frame: number) {
    this.#decided = decided;
    this.#frame = frame;
    this.#own = new OwnBatch(writer, decided, frame);
  }

  add(item: DecidedItem): void {
    try {
      const deliver = this.#decide(item);
      this.answers.push({ deliver, fail: item.reject });
    } catch (error) {
      // Also a refusal may rest on what is not durable yet.
      const refusal = toTributaryError(error);
      if (refusal.code === "INTERNAL") throw error;
      this.answers.push({ deliver: () => item.reject(refusal), fail: item.reject });
    }
  }

  finish(): Operation[] {
    this.#operations.push(...this.#own.take());
    return this.#operations;
  }

  #decide(item: DecidedItem): () => void {
    if (item.kind === "block") {
      const answer = this.#decideBlock(item.block);
      return () => item.resolve(answer);
    }
    if (item.kind === "own") {
      const result = this.#decideOwn(item);
      return () => item.resolve(result());
    }
    const operation = item.decide(this.#decided);
    if (operation) this.#push(operation);
    return () => item.resolve();
  }

  /** Own appends decided before must come before a change of their stream. */
  #push(operation: Operation): void {
    if (operation.type === "close-stream" || operation.type === "delete-stream") this.#operations.push(...this.#own.take());
    this.#operations.push(operation);
    this.#decided.apply(operation, this.#frame);
  }

  #decideBlock(block: Block): AppendAnswer {
    const key = this.#decided.keyOf(block);
    const decisions: SliceDecision[] = [];
    // Entered before the slices are looked at: what an earlier slice added stays added if a later one turns out to be corrupt.
    const operation: Operation = { type: "append-block", block, own: false, decisions };
    const slices: [SliceStatus, number][] = [];
    try {
      for (let i = 0; i < block.slices.length; i++) {
        const slice = block.slices.at(i) as Slice;
        const verdict = decideSlice(this.#decided, block, slice, key);
        if (!verdict.append) {
          slices.push([verdict.status, verdict.number]);
          continue;
        }
        const decision = { slice: i, skip: verdict.skip, ordinal: verdict.ordinal, chain: verdict.chain };
        decisions.push(decision);
        this.#decided.applySlice(slice, decision, verdict.added, key, this.#frame);
        slices.push([SLICE_STATUS.accepted, slice.last]);
      }
    } finally {
      if (decisions.length > 0) this.#operations.push(operation);
    }
    return { slices };
  }

  #decideOwn(item: OwnItem): () => OwnResult {
    const { streamId, request } = item;
    const head = this.#decided.head(streamId);
    if (!head) throw new TributaryError("STREAM_UNKNOWN", "the stream is not known here");
    const { producer, events, close = false } = request;
    const known = producer && this.#decided.producer(streamId, producer.id);
    // Own appends that wait in this frame have no place in the chain yet.
    const duplicate = (producerSeq?: number): (() => OwnResult) => {
      this.#operations.push(...this.#own.take());
      const now = this.#decided.head(streamId) ?? head;
      const result = { duplicate: true, nextChain: now.chain, closed: now.closed };
      return () => (producerSeq === undefined ? result : { ...result, producerSeq });
    };
    if (head.closed) {
      const repeated = producer && known && known.epoch === producer.epoch && known.seq === producer.seq;
      if (repeated) return duplicate(known.seq);
      if (close && !events) return duplicate();
      throw new TributaryError("STREAM_CLOSED", "the stream is closed", { nextChain: head.chain });
    }
    if (events && request.contentType !== undefined && !sameContentType(request.contentType, head.contentType)) {
      throw new TributaryError("CONTENT_TYPE_MISMATCH", `the stream holds ${head.contentType}, not ${request.contentType}`);
    }
    if (producer) {
      const verdict = judgeProducer(known, producer);
      if (verdict.kind === "refused") throw verdict.error;
      if (verdict.kind === "duplicate") return duplicate(known?.seq);
    }
    if (request.streamSeq !== undefined && head.streamSeq !== "" && request.streamSeq <= head.streamSeq) {
      throw new TributaryError("SEQUENCE_CONFLICT", `Stream-Seq '${request.streamSeq}' is not greater than '${head.streamSeq}'`);
    }
    let marks: Mark[] = [];
    if (events && events.count > 0) marks = this.#own.add(streamId, this.#decided.segments(streamId), events, item.arrivedAtMs);
    if (producer) this.#push({ type: "set-producer", streamId, producerId: producer.id, epoch: producer.epoch, seq: producer.seq });
    if (request.streamSeq !== undefined) this.#push({ type: "set-stream-seq", streamId, streamSeq: request.streamSeq });
    if (close) this.#push({ type: "close-stream", streamId });
    const chain = this.#decided.head(streamId)?.chain ?? head.chain;
    return () => ({
      duplicate: false,
      nextChain: marks.length > 0 ? chainBehind(marks) : chain,
      closed: close,
      ...(producer ? { producerSeq: producer.seq } : {}),
    });
  }
}

/** Bytes that a block takes in a frame at most. */
export function blockItemBytes(block: Block): number {
  return block.bytes.length + 64 + block.slices.length * 32;
}

/** Bytes that an own append takes in a frame at most. @throws BATCH_TOO_LARGE */
export function ownItemBytes(request: AppendRequest): number {
  const { events, producer, streamSeq } = request;
  let bytes = 512 + (streamSeq?.length ?? 0) * 3;
  if (producer) bytes += headerBytesMax({ type: "set-producer", streamId: "", producerId: producer.id, epoch: 0, seq: 0 });
  if (events) {
    if (events.count > LIMITS.requestEventsMax) throw new TributaryError("BATCH_TOO_LARGE", `${events.count} events in one request`);
    // Envelope columns take up to 24 bytes an event; each (event, segment) may open a slice of its own, up to the number of segments.
    bytes += events.payload.length + events.count * 24 + Math.min(events.count, LIMITS.segmentsPerStreamMax) * 160;
    if (typeof events.keys === "string") bytes += events.keys.length * 3;
    else for (const key of events.keys ?? []) bytes += key.length * 3 + 2;
  }
  return bytes;
}
