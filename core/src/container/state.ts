import { assert } from "@tributary/common/assert";
import type { BlockWriter, Slice } from "@tributary/common/format/block";
import { LIMITS } from "@tributary/common/limits";
import { type Id, LANES, type SegmentId } from "@tributary/common/names";
import { type AppendBlock, eventsAdded, type Operation } from "./operations.ts";

/** What the core has of one (segment, writer, incarnation, lane) (rule W2). */
export interface WriterEntry {
  /** Highest number appended. */
  last: number;
  /** eventHash of that event; NO_HASH if a gap record took the number. */
  hash: number;
  /** Highest number that is durable and verified in the tier. */
  tiered: number;
}

export const NO_HASH = -1;

export interface SegmentState {
  readonly id: SegmentId;
  /** Ordinal of the next event. */
  length: number;
  /** By writerKey. */
  readonly writers: Map<string, WriterEntry>;
}

export interface ProducerState {
  readonly epoch: number;
  readonly seq: number;
}

export interface StreamState {
  readonly id: Id;
  readonly contentType: string;
  readonly segments: readonly SegmentState[];
  /** Chain ordinal of the next event. */
  chain: number;
  closed: boolean;
  /** Durable Streams' last Stream-Seq; "" if none. */
  streamSeq: string;
  /** In order of their last use; at most LIMITS.producersPerStreamMax. */
  readonly producers: Map<string, ProducerState>;
}

/** Key of a writer's entry in a segment: writer, incarnation and lane. */
export function writerKey(writer: BlockWriter, incarnation: Id = writer.incarnation): string {
  return writer.writer + incarnation + LANES.indexOf(writer.lane);
}

/** The durable state of a container: a pure fold over the operations of its counting frames. */
export class ContainerState {
  readonly streams: Map<Id, StreamState> = new Map();
  /** Events of all streams, deleted ones included. */
  events = 0;

  apply(operation: Operation): void {
    switch (operation.type) {
      case "register-stream":
        this.register(operation.streamId, operation.segments, operation.contentType, operation.closed);
        return;
      case "append-block":
        this.#append(operation);
        return;
      case "close-stream":
        this.stream(operation.streamId).closed = true;
        return;
      case "delete-stream":
        this.streams.delete(operation.streamId);
        return;
      case "set-producer":
        setProducer(this.stream(operation.streamId), operation.producerId, { epoch: operation.epoch, seq: operation.seq });
        return;
      case "set-stream-seq":
        this.stream(operation.streamId).streamSeq = operation.streamSeq;
        return;
      case "tiered":
        return;
    }
  }

  register(id: Id, segments: readonly SegmentId[], contentType: string, closed: boolean): StreamState {
    assert(!this.streams.has(id), "a stream is registered once");
    const stream: StreamState = {
      id,
      contentType,
      segments: segments.map((segment) => ({ id: segment, length: 0, writers: new Map() })),
      chain: 0,
      closed,
      streamSeq: "",
      producers: new Map(),
    };
    this.streams.set(id, stream);
    return stream;
  }

  stream(id: Id): StreamState {
    const stream = this.streams.get(id);
    assert(stream !== undefined, "an operation names a stream that is registered");
    return stream;
  }

  #append(operation: AppendBlock): void {
    const { block, own, decisions } = operation;
    const key = writerKey(block);
    for (const decision of decisions) {
      const slice = block.slices[decision.slice] as Slice;
      const stream = this.stream(slice.streamId);
      const segment = findSegment(stream, slice.segment);
      assert(segment !== undefined, "a slice names a segment of its stream");
      assert(segment.length === decision.ordinal && stream.chain === decision.chain, "an append continues its segment and its chain");
      const added = eventsAdded(operation, decision);
      assert(added > 0, "an append adds something");
      segment.length += added;
      stream.chain += added;
      this.events += added;
      if (!own) setWriter(segment, key, slice.last, hashOfLast(slice));
    }
  }
}

export function findSegment(stream: StreamState, id: SegmentId): SegmentState | undefined {
  // In a stream's first epoch the number is the position.
  const guess = stream.segments[id.number];
  return guess && sameSegment(guess.id, id) ? guess : stream.segments.find((segment) => sameSegment(segment.id, id));
}

function sameSegment(a: SegmentId, b: SegmentId): boolean {
  return a.number === b.number && a.epoch === b.epoch && a.generation === b.generation;
}

export function hashOfLast(slice: Slice): number {
  return slice.kind === "gap" ? NO_HASH : slice.lastHash;
}

export function setWriter(segment: SegmentState, key: string, last: number, hash: number): WriterEntry {
  const entry = segment.writers.get(key);
  if (!entry) {
    const created = { last, hash, tiered: 0 };
    segment.writers.set(key, created);
    return created;
  }
  assert(last > entry.last, "a writer's number only grows");
  entry.last = last;
  entry.hash = hash;
  return entry;
}

/** Moves the producer to the end of the order of use and forgets the least recently used one beyond the limit. */
export function setProducer(stream: StreamState, id: string, producer: ProducerState): void {
  stream.producers.delete(id);
  stream.producers.set(id, producer);
  if (stream.producers.size > LIMITS.producersPerStreamMax) {
    for (const oldest of stream.producers.keys()) {
      stream.producers.delete(oldest);
      break;
    }
  }
}
