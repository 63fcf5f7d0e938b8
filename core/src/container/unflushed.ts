import type { Block, Slice } from "@tributary/common/format/block";
import type { Id, SegmentId } from "@tributary/common/names";
import { NumberRows } from "./number-rows.ts";
import { eventsAdded, type Operation, type SliceDecision } from "./operations.ts";
import { hashOfLast } from "./state.ts";
import type { WriterTable } from "./writer-table.ts";

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

/** Cells of an extent: those of its decision, epoch and number of its segment, its events, the row of its writer's table, and what that gets. */
export const EXTENT = {
  slice: 0,
  skip: 1,
  ordinal: 2,
  chain: 3,
  epoch: 4,
  number: 5,
  count: 6,
  writerRow: 7,
  last: 8,
  hash: 9,
} as const;

/** The extents of one stream that are not in the tier yet, in order of its chain. */
export class UnflushedExtents {
  /** All segments that take events are of this one. */
  readonly generation: number;
  readonly rows: NumberRows = new NumberRows(Object.keys(EXTENT).length);
  readonly blocks: Block[] = [];
  /** Where the number of the writer is noted; undefined: the container wrote it itself. */
  readonly writers: (WriterTable | undefined)[] = [];

  constructor(generation: number) {
    this.generation = generation;
  }

  get length(): number {
    return this.rows.length;
  }

  push(block: Block, decision: SliceDecision, slice: Slice, writer: WriterTable | undefined, writerRow: number): void {
    const { rows } = this;
    const row = rows.add();
    rows.set(row, EXTENT.slice, decision.slice);
    rows.set(row, EXTENT.skip, decision.skip);
    rows.set(row, EXTENT.ordinal, decision.ordinal);
    rows.set(row, EXTENT.chain, decision.chain);
    rows.set(row, EXTENT.epoch, slice.segment.epoch);
    rows.set(row, EXTENT.number, slice.segment.number);
    rows.set(row, EXTENT.count, eventsAdded(slice, decision));
    rows.set(row, EXTENT.writerRow, writerRow);
    rows.set(row, EXTENT.last, slice.last);
    rows.set(row, EXTENT.hash, hashOfLast(slice));
    this.blocks.push(block);
    this.writers.push(writer);
  }

  /** Forgets all before the position. */
  dropBefore(position: number): void {
    this.rows.dropBefore(position);
    this.blocks.splice(0, position);
    this.writers.splice(0, position);
  }

  chainAt(position: number): number {
    return this.rows.get(position, EXTENT.chain);
  }

  at(position: number): Extent {
    const cell = (which: number) => this.rows.get(position, which);
    return {
      chain: cell(EXTENT.chain),
      count: cell(EXTENT.count),
      segment: { generation: this.generation, epoch: cell(EXTENT.epoch), number: cell(EXTENT.number) },
      ordinal: cell(EXTENT.ordinal),
      block: this.blocks[position] as Block,
      slice: cell(EXTENT.slice),
      skip: cell(EXTENT.skip),
    };
  }
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
  readonly #extents = new Map<Id, UnflushedExtents>();
  readonly #generation: number;

  constructor(generation: number) {
    this.#generation = generation;
  }

  /** What the decision of a slice appended. The frame itself is added behind all of them. */
  append(block: Block, decision: SliceDecision, slice: Slice, writer: WriterTable | undefined, writerRow: number): void {
    const { streamId } = slice;
    let extents = this.#extents.get(streamId);
    if (!extents) {
      extents = new UnflushedExtents(this.#generation);
      this.#extents.set(streamId, extents);
    }
    extents.push(block, decision, slice, writer, writerRow);
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
      if (!extents || extents.chainAt(0) >= chain) continue;
      const last = lastAtOrBelow(extents.length, chain - 1, (i) => extents.chainAt(i));
      if (last === extents.length - 1) this.#extents.delete(streamId);
      else extents.dropBefore(last + 1);
    }
    const closed = [...this.#closes].filter(([, closedAt]) => closedAt <= seq).map(([streamId]) => streamId);
    for (const streamId of closed) this.#closes.delete(streamId);
    return closed;
  }

  /** Chain ordinal of the stream's first event here; undefined if it has none. */
  firstChain(streamId: Id): number | undefined {
    return this.#extents.get(streamId)?.chainAt(0);
  }

  /** The tier does not know yet that the stream is closed. */
  holdsClose(streamId: Id): boolean {
    return this.#closes.has(streamId);
  }

  /** The extent that holds the event at `chain`; undefined if that is in the tier. */
  find(streamId: Id, chain: number): Extent | undefined {
    const extents = this.#extents.get(streamId);
    if (!extents || chain < extents.chainAt(0)) return undefined;
    return extents.at(lastAtOrBelow(extents.length, chain, (i) => extents.chainAt(i)));
  }

  /** Extents of each stream, in order of its chain: what a stream has now stays in its list until it is dropped, and more is added behind. */
  get extents(): ReadonlyMap<Id, UnflushedExtents> {
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
