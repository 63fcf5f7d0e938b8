import { assert } from "@tributary/common/assert";
import type { BlockWriter, Slice } from "@tributary/common/format/block";
import type { Id, SegmentId } from "@tributary/common/names";
import type { Operation, SliceDecision } from "./operations.ts";
import {
  type ContainerState,
  hashOfLast,
  type ProducerState,
  positionOf,
  type StreamState,
  segmentPosition,
  writerEntry,
} from "./state.ts";

/** What a stream will be once everything decided is durable. */
interface StreamHead {
  readonly contentType: string;
  readonly chain: number;
  readonly closed: boolean;
  readonly streamSeq: string;
}

/** A segment as the next slice finds it. */
export interface SegmentHead {
  /** Ordinal of the next event. */
  readonly length: number;
  /** What is known of the writer with this key (writerKey). */
  writer(key: string): { readonly last: number; readonly hash: number } | undefined;
}

interface DecidedHead {
  /** Number of the newest frame that changed it. */
  frame: number;
  gone: boolean;
  contentType: string;
  chain: number;
  closed: boolean;
  streamSeq: string;
}

/** Before the first frame of an attempt. */
const NO_FRAME = -1;
const WRITERS_MIN = 8;

/** Says nothing once its frame is settled, and is used again: a busy container decides tens of thousands of slices a second. */
interface DecidedSegment {
  frame: number;
  length: number;
  /** By key. */
  readonly writers: Map<string, DecidedWriter>;
  /** Once it has so many, those that say nothing any more are thrown out. */
  writersMax: number;
}

interface DecidedWriter {
  frame: number;
  last: number;
  hash: number;
}

/** Where to note what is decided of the writer. */
function entryFor(segment: DecidedSegment, key: string, settled: number): DecidedWriter {
  const { writers } = segment;
  const known = writers.get(key);
  if (known) return known;
  if (writers.size >= segment.writersMax) {
    for (const [other, { frame }] of writers) if (frame <= settled) writers.delete(other);
    segment.writersMax = Math.max(WRITERS_MIN, 2 * writers.size);
  }
  const added = { frame: NO_FRAME, last: 0, hash: 0 };
  writers.set(key, added);
  return added;
}

class SegmentView implements SegmentHead {
  readonly #decided: DecidedSegment | undefined;
  readonly #durable: StreamState | undefined;
  readonly #position: number;
  readonly #settled: number;

  constructor(decided: DecidedSegment | undefined, durable: StreamState | undefined, position: number, settled: number) {
    this.#decided = decided;
    this.#durable = durable;
    this.#position = position;
    this.#settled = settled;
  }

  get length(): number {
    const decided = this.#decided;
    return decided && decided.frame > this.#settled ? decided.length : (this.#durable?.segments[this.#position]?.length ?? 0);
  }

  writer(key: string): { readonly last: number; readonly hash: number } | undefined {
    const decided = this.#decided?.writers.get(key);
    if (decided && decided.frame > this.#settled) return decided;
    return this.#durable && writerEntry(this.#durable, this.#position, key);
  }
}

interface DecidedStream {
  head: DecidedHead | undefined;
  /** Its segments, while its registration is not durable. */
  registered: { readonly frame: number; readonly segments: readonly SegmentId[] } | undefined;
  /** By position among the stream's segments, which is the same before and after its registration is durable. */
  readonly segments: DecidedSegment[];
}

/** What one frame changed. */
interface Touched {
  readonly streams: Set<Id>;
  readonly producers: string[];
}

/**
 * Speculative state: the durable state, and over it what frames decided that are not durable yet. Only what those frames touch
 * is held, so that it costs by the frame and is thrown away at no cost when the attempt ends. Many small slices make a busy
 * container: so nothing is looked up by a text that is made for it, and of what a frame says of segments nothing has to be done when
 * it is durable.
 */
export class DecidedState {
  readonly #durable: ContainerState;
  readonly #streams = new Map<Id, DecidedStream>();
  readonly #producers = new Map<string, { readonly frame: number; readonly value: ProducerState }>();
  readonly #touched = new Map<number, Touched>();
  /** The newest frame that is durable: what it and those before it decided is in the durable state. */
  #settled = NO_FRAME;

  constructor(durable: ContainerState) {
    this.#durable = durable;
  }

  /** As the durable state has it. */
  keyOf(writer: BlockWriter): string {
    return this.#durable.keyOf(writer);
  }

  /** undefined: not registered, or deleted. What it says is of now: it may change with the next slice. */
  head(streamId: Id): StreamHead | undefined {
    const decided = this.#streams.get(streamId)?.head;
    if (!decided) return this.#durable.streams.get(streamId);
    return decided.gone ? undefined : decided;
  }

  /** True once a deletion is decided: the id must not be registered again. */
  gone(streamId: Id): boolean {
    return this.#streams.get(streamId)?.head?.gone ?? this.#durable.tombstones.has(streamId);
  }

  segments(streamId: Id): readonly SegmentId[] {
    const registered = this.#streams.get(streamId)?.registered;
    return registered ? registered.segments : (this.#durable.streams.get(streamId)?.segments.map((segment) => segment.id) ?? []);
  }

  /** undefined if the stream has no such segment. What it says is of now. */
  segment(streamId: Id, id: SegmentId): SegmentHead | undefined {
    const stream = this.#streams.get(streamId);
    const durable = this.#durable.streams.get(streamId);
    const position = positionIn(stream, durable, id);
    if (position < 0) return undefined;
    return new SegmentView(stream?.segments[position], durable, position, this.#settled);
  }

  producer(streamId: Id, producerId: string): ProducerState | undefined {
    return this.#producers.get(streamId + producerId)?.value ?? this.#durable.streams.get(streamId)?.producers.get(producerId);
  }

  /** Every operation but appends, which `applySlice` takes slice by slice as they are decided. */
  apply(operation: Operation, frame: number): void {
    switch (operation.type) {
      case "register-stream": {
        const { streamId, segments, contentType, closed } = operation;
        const stream = this.#stream(streamId);
        stream.head = { frame, gone: false, contentType, chain: 0, closed, streamSeq: "" };
        stream.registered = { frame, segments };
        this.#touch(frame).streams.add(streamId);
        return;
      }
      case "close-stream":
        this.#changeHead(operation.streamId, { closed: true }, frame);
        return;
      case "delete-stream": {
        const { streamId } = operation;
        // Also of a stream that is not known here: nothing decided behind it may register it.
        this.#stream(streamId).head = { frame, gone: true, contentType: "", chain: 0, closed: false, streamSeq: "" };
        this.#touch(frame).streams.add(streamId);
        return;
      }
      case "set-producer": {
        const key = operation.streamId + operation.producerId;
        this.#producers.set(key, { frame, value: { epoch: operation.epoch, seq: operation.seq } });
        this.#touch(frame).producers.push(key);
        return;
      }
      case "set-stream-seq":
        this.#changeHead(operation.streamId, { streamSeq: operation.streamSeq }, frame);
        return;
      case "append-block":
      case "tiered":
      case "take-over":
        return;
    }
  }

  /** One slice of an append that adds `added` events; `key` is undefined for the container's own. */
  applySlice(slice: Slice, decision: SliceDecision, added: number, key: string | undefined, frame: number): void {
    const stream = this.#stream(slice.streamId);
    this.#headOf(stream, slice.streamId, frame).chain = decision.chain + added;
    const durable = this.#durable.streams.get(slice.streamId);
    const position = positionIn(stream, durable, slice.segment);
    assert(position >= 0, "a slice that is appended names a segment of its stream");
    let segment = stream.segments[position];
    if (!segment) {
      segment = { frame, length: 0, writers: new Map(), writersMax: WRITERS_MIN };
      stream.segments[position] = segment;
    }
    segment.frame = frame;
    segment.length = decision.ordinal + added;
    if (key === undefined) return;
    const writer = entryFor(segment, key, this.#settled);
    writer.frame = frame;
    writer.last = slice.last;
    writer.hash = hashOfLast(slice);
  }

  /** The frame, the oldest one that was not, is durable and applied to the durable state: what no later one touched need not be held any more. */
  settle(frame: number): void {
    assert(frame > this.#settled, "frames become durable in their order");
    this.#settled = frame;
    const touched = this.#touched.get(frame);
    if (!touched) return;
    this.#touched.delete(frame);
    const { streams, producers } = touched;
    for (const streamId of streams) {
      const stream = this.#streams.get(streamId);
      if (!stream) continue;
      if (stream.head?.frame === frame) stream.head = undefined;
      if (stream.registered?.frame === frame) stream.registered = undefined;
      if (!stream.head && !stream.registered) this.#streams.delete(streamId);
    }
    for (const key of producers) if (this.#producers.get(key)?.frame === frame) this.#producers.delete(key);
  }

  /** The attempt ended: nothing but the durable state holds. */
  clear(): void {
    for (const layer of [this.#streams, this.#producers, this.#touched]) layer.clear();
    this.#settled = NO_FRAME;
  }

  #changeHead(streamId: Id, change: Partial<Omit<DecidedHead, "frame">>, frame: number): void {
    if (!this.head(streamId)) return;
    Object.assign(this.#headOf(this.#stream(streamId), streamId, frame), change);
  }

  /** Of a stream that is known, to be changed by the frame. */
  #headOf(stream: DecidedStream, streamId: Id, frame: number): DecidedHead {
    if (stream.head?.frame === frame) return stream.head;
    if (stream.head) stream.head.frame = frame;
    else {
      const durable = this.#durable.streams.get(streamId);
      assert(durable !== undefined, "what is changed is a stream that is known");
      const { contentType, chain, closed, streamSeq } = durable;
      stream.head = { frame, gone: false, contentType, chain, closed, streamSeq };
    }
    this.#touch(frame).streams.add(streamId);
    return stream.head;
  }

  #stream(streamId: Id): DecidedStream {
    let stream = this.#streams.get(streamId);
    if (!stream) {
      stream = { head: undefined, registered: undefined, segments: [] };
      this.#streams.set(streamId, stream);
    }
    return stream;
  }

  #touch(frame: number): Touched {
    let touched = this.#touched.get(frame);
    if (!touched) {
      touched = { streams: new Set(), producers: [] };
      this.#touched.set(frame, touched);
    }
    return touched;
  }
}

/** Of the segment that takes events for the one named, in the stream's list; −1 if there is none. */
function positionIn(stream: DecidedStream | undefined, durable: StreamState | undefined, id: SegmentId): number {
  if (stream?.registered) return positionOf(stream.registered.segments, (segment) => segment, id);
  return durable ? segmentPosition(durable, id) : -1;
}
