import { assert } from "@tributary/common/assert";
import type { BlockWriter, Slice } from "@tributary/common/format/block";
import { LIMITS } from "@tributary/common/limits";
import { type Id, LANES, type SegmentId } from "@tributary/common/names";
import { NO_NONCE, type NonceRange, noteNonce } from "./nonces.ts";
import { type AppendBlock, eventsAdded, type Operation, type SliceDecision } from "./operations.ts";
import type { StreamOrigin } from "./stream-origin.ts";
import { NO_HASH, type WriterEntry, WriterTable } from "./writer-table.ts";

/** Stands for the row where there is no table. */
const NO_ROW = -1;
const TABLE_KEYS_MAX = 100_000;

export interface SegmentState {
  readonly id: SegmentId;
  /** Ordinal of the next event. */
  length: number;
}

export interface ProducerState {
  readonly epoch: number;
  readonly seq: number;
}

export interface StreamState {
  readonly id: Id;
  readonly contentType: string;
  /** undefined if it was registered before registrations told. */
  readonly origin: StreamOrigin | undefined;
  /** Those that take events. Those of earlier generations are sealed. */
  segments: readonly SegmentState[];
  readonly sealed: { readonly id: SegmentId; readonly length: number }[];
  /** By writerKey. */
  readonly writers: Map<string, WriterTable>;
  /** Chain ordinal of the next event. */
  chain: number;
  closed: boolean;
  /** Durable Streams' last Stream-Seq; "" if none. */
  streamSeq: string;
  /** In order of their last use; at most LIMITS.producersPerStreamMax. */
  readonly producers: Map<string, ProducerState>;
  readonly nonces: NonceRange[];
}

/** Key of a writer's entry in a segment: writer, incarnation and lane. */
export function writerKey(writer: BlockWriter, incarnation: Id = writer.incarnation): string {
  return writer.writer + incarnation + LANES.indexOf(writer.lane);
}

export interface Registration {
  readonly streamId: Id;
  readonly segments: readonly SegmentId[];
  readonly contentType: string;
  readonly origin?: StreamOrigin | undefined;
  readonly closed: boolean;
}

/** The durable state of a container: a pure fold over the operations of its counting frames. */
export class ContainerState {
  readonly streams: Map<Id, StreamState> = new Map();
  /** Ids that must not be registered again, oldest first. */
  readonly tombstones: Set<Id> = new Set();
  /** Events of all streams, deleted ones included. */
  events = 0;
  /** Of the owner under whom events are appended now. */
  nonce: Id = NO_NONCE;
  generation = 0;
  /** One instance of each writer's key: found again by comparing addresses, where equal texts are compared letter by letter. */
  readonly #keys = new Map<string, string>();

  /** The writer's key, the very instance that the tables have if they know it. */
  keyOf(writer: BlockWriter): string {
    const key = writerKey(writer);
    return this.#keys.get(key) ?? key;
  }

  /** The instance that is to be put into tables. */
  tableKey(key: string): string {
    const known = this.#keys.get(key);
    if (known !== undefined) return known;
    // To forget them costs no more than some time.
    if (this.#keys.size >= TABLE_KEYS_MAX) this.#keys.clear();
    this.#keys.set(key, key);
    return key;
  }

  apply(operation: Exclude<Operation, AppendBlock>): void {
    switch (operation.type) {
      case "register-stream":
        this.register(operation);
        return;
      case "close-stream":
        this.stream(operation.streamId).closed = true;
        return;
      case "delete-stream":
        this.delete(operation.streamId);
        return;
      case "set-producer":
        setProducer(this.stream(operation.streamId), operation.producerId, { epoch: operation.epoch, seq: operation.seq });
        return;
      case "set-stream-seq":
        this.stream(operation.streamId).streamSeq = operation.streamSeq;
        return;
      case "take-over":
        this.nonce = operation.nonce;
        return;
      case "tiered":
        return;
    }
  }

  register(registration: Registration): StreamState {
    const { streamId: id, segments, contentType, origin, closed } = registration;
    assert(!this.streams.has(id), "a stream is registered once");
    // Logs from before there were tombstones have such registrations.
    this.tombstones.delete(id);
    const stream: StreamState = {
      id,
      contentType,
      origin,
      segments: segments.map((segment) => ({ id: segment, length: 0 })),
      sealed: [],
      writers: new Map(),
      chain: 0,
      closed,
      streamSeq: "",
      producers: new Map(),
      nonces: [],
    };
    this.streams.set(id, stream);
    return stream;
  }

  delete(id: Id): void {
    this.streams.delete(id);
    this.tombstones.add(id);
    if (this.tombstones.size <= LIMITS.tombstonesPerContainerMax) return;
    for (const oldest of this.tombstones) {
      this.tombstones.delete(oldest);
      return;
    }
  }

  /**
   * The state from which a new generation begins: every segment is sealed where it ends, and another takes its place, which knows
   * what its writers have appended (rules L5, W4).
   */
  raise(generation: number): void {
    assert(generation > this.generation, "generations ascend");
    this.generation = generation;
    for (const stream of this.streams.values()) {
      for (const { id, length } of stream.segments) stream.sealed.push({ id, length });
      stream.segments = stream.segments.map(({ id }) => ({ id: { ...id, generation }, length: 0 }));
    }
  }

  stream(id: Id): StreamState {
    const stream = this.streams.get(id);
    assert(stream !== undefined, "an operation names a stream that is registered");
    return stream;
  }

  /** Calls `appended` for each decision, with the row of the writer's table unless the container wrote the block itself. */
  append(
    operation: AppendBlock,
    appended: (decision: SliceDecision, slice: Slice, added: number, writer: WriterTable | undefined, row: number) => void,
  ): void {
    const { block, own, decisions } = operation;
    const key = own ? "" : this.tableKey(writerKey(block));
    for (const decision of decisions) {
      const slice = block.slices.at(decision.slice) as Slice;
      const stream = this.stream(slice.streamId);
      const position = segmentPosition(stream, slice.segment);
      const segment = stream.segments[position];
      assert(segment !== undefined, "a slice names a segment of its stream");
      assert(segment.length === decision.ordinal && stream.chain === decision.chain, "an append continues its segment and its chain");
      const added = eventsAdded(slice, decision);
      assert(added > 0, "an append adds something");
      noteNonce(stream.nonces, this.nonce, stream.chain);
      segment.length += added;
      stream.chain += added;
      this.events += added;
      const writer = own ? undefined : writerTable(stream, key);
      appended(decision, slice, added, writer, writer ? writer.set(position, slice.last, hashOfLast(slice)) : NO_ROW);
    }
  }
}

/** The segment that takes events for the one named: itself, or the one that stands in its place in a later generation. */
export function findSegment(stream: StreamState, id: SegmentId): SegmentState | undefined {
  return stream.segments[segmentPosition(stream, id)];
}

export function segmentPosition({ segments }: StreamState, id: SegmentId): number {
  return positionOf(segments, (segment) => segment.id, id);
}

/** Position in the list of the segment that takes events for the one named; −1 if there is none. */
export function positionOf<T>(segments: readonly T[], idOf: (segment: T) => SegmentId, id: SegmentId): number {
  // In a stream's first epoch the number is the position.
  const guess = segments[id.number];
  return guess !== undefined && takesFor(idOf(guess), id) ? id.number : segments.findIndex((segment) => takesFor(idOf(segment), id));
}

function takesFor(segment: SegmentId, named: SegmentId): boolean {
  return segment.number === named.number && segment.epoch === named.epoch && segment.generation >= named.generation;
}

export function hashOfLast(slice: Slice): number {
  return slice.kind === "gap" ? NO_HASH : slice.lastHash;
}

/** What is known of a writer in the segment at a position. */
export function writerEntry(stream: StreamState, position: number, key: string): WriterEntry | undefined {
  const table = stream.writers.get(key);
  const row = table?.rowOf(position);
  return table && row !== undefined ? table.at(row) : undefined;
}

/** The writer's table, made if the stream has none of it. */
export function writerTable(stream: StreamState, key: string): WriterTable {
  let table = stream.writers.get(key);
  if (!table) {
    table = new WriterTable();
    stream.writers.set(key, table);
  }
  return table;
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
