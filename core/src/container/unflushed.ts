import type { Block, Slice } from "@tributary/common/format/block";
import type { Id, SegmentId } from "@tributary/common/names";
import type { Operation, SliceDecision } from "./operations.ts";
import type { WriterEntry } from "./state.ts";

/** Events of one stream that follow each other in its chain and lie in one slice of a block. */
export interface Extent {
  readonly chain: number;
  readonly count: number;
  /** The segment that took them, which the slice may name by its predecessor. */
  readonly segment: SegmentId;
  /** Segment ordinal of the first event. */
  readonly ordinal: number;
  readonly block: Block;
  /** Position of the slice in the block, and its leading events that do not belong to the extent. */
  readonly slice: number;
  readonly skip: number;
}

/** An extent that is not in the tier yet. */
export interface UnflushedExtent extends Extent {
  /** Where the number of its writer is noted; undefined: the container wrote it itself. */
  readonly entry: WriterEntry | undefined;
}

/** A counting frame that is durable in the WAL and not in the tier yet. */
export interface UnflushedFrame {
  readonly seq: number;
  readonly operations: readonly Operation[];
  readonly bytes: number;
}

/** What a slice costs in memory beside its bytes, roughly. */
const SLICE_OVERHEAD_BYTES = 200;
const FRAME_OVERHEAD_BYTES = 500;

/** Durable frames whose events are read from memory until a flush has brought them into the tier. */
export class Unflushed {
  frames: UnflushedFrame[] = [];
  bytes = 0;
  /** False while nothing but fences and checkpoints is here: those alone are not worth an object. */
  get worthFlushing(): boolean {
    return this.#changes > 0;
  }
  #changes = 0;
  /** Streams that are closed by a frame that is here, and its sequence. */
  readonly #closes = new Map<Id, number>();
  readonly #extents = new Map<Id, UnflushedExtent[]>();
  /** All segments that take events are of this one. */
  readonly #generation: number;

  constructor(generation: number) {
    this.#generation = generation;
  }

  /** What one decision of a frame appended: `added` events. The frame itself is added behind all of them. */
  append(block: Block, decision: SliceDecision, slice: Slice, added: number, entry: WriterEntry | undefined): void {
    const { segment, streamId } = slice;
    const extent: UnflushedExtent = {
      chain: decision.chain,
      count: added,
      segment: segment.generation === this.#generation ? segment : { ...segment, generation: this.#generation },
      ordinal: decision.ordinal,
      block,
      slice: decision.slice,
      skip: decision.skip,
      entry,
    };
    const extents = this.#extents.get(streamId);
    if (extents) extents.push(extent);
    else this.#extents.set(streamId, [extent]);
  }

  add(seq: number, operations: readonly Operation[]): void {
    let bytes = 0;
    for (const operation of operations) {
      bytes += FRAME_OVERHEAD_BYTES;
      if (operation.type === "append-block") {
        bytes += operation.block.bytes.length + operation.block.slices.length * SLICE_OVERHEAD_BYTES;
      } else if (operation.type === "close-stream" || (operation.type === "register-stream" && operation.closed)) {
        this.#closes.set(operation.streamId, seq);
      } else if (operation.type === "delete-stream") {
        this.#extents.delete(operation.streamId);
        this.#closes.delete(operation.streamId);
      }
    }
    this.frames.push({ seq, operations, bytes });
    this.bytes += bytes;
    if (isChange(operations)) this.#changes++;
  }

  /** Forgets every frame up to and including `seq`; `flushedTo` tells how far each stream's chain is in the tier. Returns the streams that these frames closed. */
  drop(seq: number, flushedTo: ReadonlyMap<Id, number>): Id[] {
    const kept = this.frames.findIndex((frame) => frame.seq > seq);
    const dropped = this.frames.splice(0, kept < 0 ? this.frames.length : kept);
    for (const frame of dropped) {
      this.bytes -= frame.bytes;
      if (isChange(frame.operations)) this.#changes--;
    }
    for (const [streamId, chain] of flushedTo) {
      const extents = this.#extents.get(streamId);
      if (!extents) continue;
      const first = extents.findIndex((extent) => extent.chain >= chain);
      if (first < 0) this.#extents.delete(streamId);
      else extents.splice(0, first);
    }
    const closed = [...this.#closes].filter(([, closedAt]) => closedAt <= seq).map(([streamId]) => streamId);
    for (const streamId of closed) this.#closes.delete(streamId);
    return closed;
  }

  /** Chain ordinal of the stream's first event here; undefined if it has none. */
  firstChain(streamId: Id): number | undefined {
    return this.#extents.get(streamId)?.[0]?.chain;
  }

  /** The tier does not know yet that the stream is closed. */
  holdsClose(streamId: Id): boolean {
    return this.#closes.has(streamId);
  }

  /** The extent that holds the event at `chain`; undefined if that is in the tier. */
  find(streamId: Id, chain: number): Extent | undefined {
    const extents = this.#extents.get(streamId);
    if (!extents || extents.length === 0 || chain < (extents[0] as Extent).chain) return undefined;
    return extents[lastAtOrBelow(extents.length, chain, (i) => (extents[i] as Extent).chain)];
  }

  /** Extents of each stream, in order of its chain: what a stream has now stays in its list until it is dropped, and more is added behind. */
  get extents(): ReadonlyMap<Id, readonly UnflushedExtent[]> {
    return this.#extents;
  }
}

function isChange(operations: readonly Operation[]): boolean {
  return operations.some((operation) => operation.type !== "tiered" && operation.type !== "take-over");
}

/** The last of `count` ascending values that is not above `value`; 0 if all are. */
export function lastAtOrBelow(count: number, value: number, at: (index: number) => number): number {
  let low = 0;
  let high = count - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (at(middle) <= value) low = middle;
    else high = middle - 1;
  }
  return low;
}
