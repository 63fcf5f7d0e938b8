import type { Slice } from "@tributary/common/format/block";
import type { Id, SegmentId } from "@tributary/common/names";
import type { Operation, SliceDecision } from "./operations.ts";
import { type ContainerState, findSegment, hashOfLast, type ProducerState, type SegmentState, type StreamState } from "./state.ts";

/** What a stream will be once everything decided is durable. */
interface StreamHead {
  readonly contentType: string;
  readonly chain: number;
  readonly closed: boolean;
  readonly streamSeq: string;
}

interface Decided<T> {
  /** Number of the newest frame that changed it. */
  frame: number;
  value: T;
}

type Layer = Map<string, Decided<unknown>>;

/**
 * Speculative state: the durable state, and over it what frames decided that are not durable yet. Only what those frames touch
 * is held, so that it costs by the frame and is thrown away at no cost when the attempt ends.
 */
export class DecidedState {
  readonly #durable: ContainerState;
  /** undefined as value: deleted. */
  readonly #heads = new Map<string, Decided<StreamHead | undefined>>();
  /** Segments of streams whose registration is not durable yet. */
  readonly #registered = new Map<string, Decided<readonly SegmentId[]>>();
  readonly #lengths = new Map<string, Decided<number>>();
  readonly #writers = new Map<string, Decided<{ last: number; hash: number }>>();
  readonly #producers = new Map<string, Decided<ProducerState>>();
  readonly #touched = new Map<number, [layer: Layer, key: string][]>();

  constructor(durable: ContainerState) {
    this.#durable = durable;
  }

  /** undefined: not registered, or deleted. */
  head(streamId: Id): StreamHead | undefined {
    const decided = this.#heads.get(streamId);
    return decided ? decided.value : this.#durable.streams.get(streamId);
  }

  /** True once a deletion is decided: the id must not be registered again. */
  gone(streamId: Id): boolean {
    const decided = this.#heads.get(streamId);
    return decided ? decided.value === undefined : this.#durable.tombstones.has(streamId);
  }

  segments(streamId: Id): readonly SegmentId[] {
    const registered = this.#registered.get(streamId);
    return registered ? registered.value : (this.#durable.streams.get(streamId)?.segments.map((segment) => segment.id) ?? []);
  }

  /** The segment's next ordinal; undefined if the stream has no such segment. */
  length(streamId: Id, segment: SegmentId): number | undefined {
    if (segment.generation > this.#durable.generation) return undefined;
    return this.#lengths.get(segmentKey(streamId, segment))?.value ?? this.#durableSegment(streamId, segment)?.length;
  }

  writer(streamId: Id, segment: SegmentId, key: string): { readonly last: number; readonly hash: number } | undefined {
    return this.#writers.get(segmentKey(streamId, segment) + key)?.value ?? this.#durableSegment(streamId, segment)?.writers.get(key);
  }

  producer(streamId: Id, producerId: string): ProducerState | undefined {
    return this.#producers.get(streamId + producerId)?.value ?? this.#durable.streams.get(streamId)?.producers.get(producerId);
  }

  /** Every operation but appends, which `applySlice` takes slice by slice as they are decided. */
  apply(operation: Operation, frame: number): void {
    switch (operation.type) {
      case "register-stream": {
        const { streamId, segments, contentType, closed } = operation;
        this.#set(this.#heads, streamId, { contentType, chain: 0, closed, streamSeq: "" }, frame);
        this.#set(this.#registered, streamId, segments, frame);
        for (const segment of segments) this.#set(this.#lengths, segmentKey(streamId, segment), 0, frame);
        return;
      }
      case "close-stream":
        this.#changeHead(operation.streamId, { closed: true }, frame);
        return;
      case "delete-stream":
        this.#set(this.#heads, operation.streamId, undefined, frame);
        return;
      case "set-producer":
        this.#set(this.#producers, operation.streamId + operation.producerId, { epoch: operation.epoch, seq: operation.seq }, frame);
        return;
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
    const segment = segmentKey(slice.streamId, slice.segment);
    this.#changeHead(slice.streamId, { chain: decision.chain + added }, frame);
    this.#set(this.#lengths, segment, decision.ordinal + added, frame);
    if (key !== undefined) this.#set(this.#writers, segment + key, { last: slice.last, hash: hashOfLast(slice) }, frame);
  }

  /** The frame is durable and applied to the durable state: what no later frame touched need not be held any more. */
  settle(frame: number): void {
    for (const [layer, key] of this.#touched.get(frame) ?? []) {
      if (layer.get(key)?.frame === frame) layer.delete(key);
    }
    this.#touched.delete(frame);
  }

  /** The attempt ended: nothing but the durable state holds. */
  clear(): void {
    for (const layer of [this.#heads, this.#registered, this.#lengths, this.#writers, this.#producers, this.#touched]) layer.clear();
  }

  #changeHead(streamId: Id, change: Partial<StreamHead>, frame: number): void {
    const head = this.head(streamId);
    if (!head) return;
    const { contentType, chain, closed, streamSeq } = head;
    this.#set(this.#heads, streamId, { contentType, chain, closed, streamSeq, ...change }, frame);
  }

  #set<T>(layer: Map<string, Decided<T>>, key: string, value: T, frame: number): void {
    const decided = layer.get(key);
    if (decided?.frame === frame) {
      decided.value = value;
      return;
    }
    layer.set(key, { frame, value });
    let touched = this.#touched.get(frame);
    if (!touched) {
      touched = [];
      this.#touched.set(frame, touched);
    }
    touched.push([layer as Layer, key]);
  }

  #durableSegment(streamId: Id, segment: SegmentId): SegmentState | undefined {
    const stream: StreamState | undefined = this.#durable.streams.get(streamId);
    return stream && findSegment(stream, segment);
  }
}

/** The generation does not matter: only one segment takes events for all that stood in its place before. */
function segmentKey(streamId: Id, { epoch, number }: SegmentId): string {
  return `${streamId}${epoch}.${number} `;
}
