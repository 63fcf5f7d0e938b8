import { assert } from "@tributary/common/assert";
import type { EventColumns } from "@tributary/common/format/event-columns";
import { evenRangeIndex, keyHash } from "@tributary/common/key-hash";
import { LIMITS } from "@tributary/common/limits";
import type { CommitBatch, StreamMapping } from "./edge-store.ts";

/** What a batch needs to know of each of its streams. */
export interface BatchStream {
  /** Segments into which its events are cut: the core's where it is mapped, else those asked for. */
  readonly segments: number;
  readonly mapping: StreamMapping | undefined;
  /** Number of its first event in this batch. */
  readonly firstNumber: number;
}

/** Events of one segment in a batch, in order of number. */
export interface BatchSlice {
  /** Index into the batch's streams. */
  readonly stream: number;
  readonly segment: number;
  readonly rows: Uint32Array;
}

/** Raw bytes that one block may hold: even incompressible, with its index it stays below LIMITS.blockBytesMax. */
export const BLOCK_RAW_BYTES_MAX: number = LIMITS.blockBytesMax - 1024 * 1024;
/** Slices that one block may hold, so that its index stays far below the MiB left for it. */
export const BLOCK_SLICES_MAX = 8192;
/** Below this many raw bytes a commit is one block: it will be merged with others before it is sent. */
const SPLIT_RAW_BYTES_MIN = 32 * 1024;
/** Bytes that an event takes at most beside its payload and its key: index, time, number, length. */
const ENVELOPE_BYTES_MAX = 28;
/** UTF-8 bytes that a UTF-16 code unit takes at most. */
const UTF8_BYTES_PER_UNIT = 3;

/** Cuts a batch into slices, in order of stream and segment: a counting sort. */
export function sliceBatch(batch: CommitBatch, streams: readonly BatchStream[]): BatchSlice[] {
  const { columns, streamIndex } = batch;
  const bases = new Uint32Array(streams.length + 1);
  streams.forEach((stream, i) => {
    bases[i + 1] = (bases[i] as number) + stream.segments;
  });
  const groupCount = bases[streams.length] as number;
  const groupOf = new Uint32Array(columns.count);
  const starts = new Uint32Array(groupCount + 1);
  const next = Float64Array.from(streams, (stream) => stream.firstNumber);
  const segments = Uint32Array.from(streams, (stream) => stream.segments);
  let hashes: Float64Array | undefined;
  for (let row = 0; row < columns.count; row++) {
    const stream = streamIndex[row] as number;
    const number = next[stream] as number;
    assert(columns.number[row] === number, "the numbers of a stream are contiguous, in order of the rows");
    next[stream] = number + 1;
    let group = bases[stream] as number;
    const count = segments[stream] as number;
    if (count > 1) {
      hashes ??= new Float64Array(columns.keys.length).fill(-1);
      group += evenRangeIndex(hashOf(columns, row, hashes), count);
    }
    groupOf[row] = group;
    starts[group + 1] = (starts[group + 1] as number) + 1;
  }
  for (let group = 0; group < groupCount; group++) starts[group + 1] = (starts[group + 1] as number) + (starts[group] as number);
  const order = new Uint32Array(columns.count);
  const fill = starts.slice();
  for (let row = 0; row < columns.count; row++) {
    const group = groupOf[row] as number;
    const at = fill[group] as number;
    order[at] = row;
    fill[group] = at + 1;
  }
  const slices: BatchSlice[] = [];
  for (let stream = 0; stream < streams.length; stream++) {
    for (let group = bases[stream] as number; group < (bases[stream + 1] as number); group++) {
      const from = starts[group] as number;
      const to = starts[group + 1] as number;
      if (to > from) slices.push({ stream, segment: group - (bases[stream] as number), rows: order.subarray(from, to) });
    }
  }
  return slices;
}

/** Hash of a row's key, once for each distinct key. */
export function hashOf(columns: EventColumns, row: number, hashes: Float64Array): number {
  const key = columns.keyIndex[row] as number;
  let hash = hashes[key] as number;
  if (hash < 0) {
    hash = keyHash(columns.keys[key] as string);
    hashes[key] = hash;
  }
  return hash;
}

/**
 * Which slices share a block: those of one container as far as containers are known, unless all are so little that they will be
 * merged anyway; and never more than fit. A slice that is too large alone is cut.
 */
export function planBlocks(columns: EventColumns, slices: readonly BatchSlice[], streams: readonly BatchStream[]): BatchSlice[][] {
  let keyUnitsMax = 0;
  for (const key of columns.keys) keyUnitsMax = Math.max(keyUnitsMax, key.length);
  const rowCost = ENVELOPE_BYTES_MAX + keyUnitsMax * UTF8_BYTES_PER_UNIT;
  let payloadBytes = 0;
  for (let row = 0; row < columns.count; row++) payloadBytes += (columns.ends[row] as number) - (columns.starts[row] as number);
  if (payloadBytes <= SPLIT_RAW_BYTES_MIN && columns.count * rowCost <= BLOCK_RAW_BYTES_MAX - SPLIT_RAW_BYTES_MIN) {
    return cutBySlices([[...slices]]);
  }
  const byContainer = new Map<number, BatchSlice[]>();
  for (const slice of slices) {
    const container = streams[slice.stream]?.mapping?.containers[slice.segment] ?? -1;
    const group = byContainer.get(container);
    if (group) group.push(slice);
    else byContainer.set(container, [slice]);
  }
  const groups = [...byContainer.values()];
  if (payloadBytes + columns.count * rowCost <= BLOCK_RAW_BYTES_MAX) return cutBySlices(groups);
  return cutBySlices(groups.flatMap((group) => cutByBytes(columns, group)));
}

function cutBySlices(groups: BatchSlice[][]): BatchSlice[][] {
  return groups.flatMap((group) => {
    if (group.length <= BLOCK_SLICES_MAX) return [group];
    const parts: BatchSlice[][] = [];
    for (let i = 0; i < group.length; i += BLOCK_SLICES_MAX) parts.push(group.slice(i, i + BLOCK_SLICES_MAX));
    return parts;
  });
}

function cutByBytes(columns: EventColumns, group: readonly BatchSlice[]): BatchSlice[][] {
  const blocks: BatchSlice[][] = [];
  let block: BatchSlice[] = [];
  let blockBytes = 0;
  for (const slice of group) {
    let from = 0;
    for (let i = 0; i < slice.rows.length; i++) {
      const bytes = rawCost(columns, slice.rows[i] as number);
      if (blockBytes + bytes > BLOCK_RAW_BYTES_MAX) {
        if (i > from) block.push({ ...slice, rows: slice.rows.subarray(from, i) });
        blocks.push(block);
        block = [];
        blockBytes = 0;
        from = i;
      }
      blockBytes += bytes;
    }
    block.push({ ...slice, rows: slice.rows.subarray(from) });
  }
  blocks.push(block);
  return blocks;
}

/** Bytes that an event adds at most to a chunk before compression. */
export function rawCost(columns: EventColumns, row: number): number {
  const keyUnits = (columns.keys[columns.keyIndex[row] as number] as string).length;
  return (columns.ends[row] as number) - (columns.starts[row] as number) + ENVELOPE_BYTES_MAX + keyUnits * UTF8_BYTES_PER_UNIT;
}
