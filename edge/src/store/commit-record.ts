import { assert } from "@tributary/common/assert";
import { hasCode, TributaryError } from "@tributary/common/errors";
import { type Block, decodeBlock, encodeBlock, type SliceInput } from "@tributary/common/format/block";
import { hexToBytes, type Id, LANES, type Lane, STREAM_ID_BYTES } from "@tributary/common/names";
import { type BatchStream, planBlocks, sliceBatch } from "./batch-slices.ts";
import { readSegments, readStateChange } from "./change-checks.ts";
import type { CommitBatch, StateChange } from "./edge-store.ts";
import { fields, idOfBytes, integer, laneAt, list, natural, row } from "./meta-checks.ts";
import { corrupt, encodeRecord, type RawRecord, RECORD_KIND } from "./record.ts";

/**
 * Commit record: one group commit. Its meta is a CBOR map; keys that are missing stand for empty lists or 0.
 *
 *   l lane, by position in LANES            e events of all commits before this one
 *   p payload bytes                         c state changes, as StateChange
 *   b length of each block of the body      o ordinal − number of each stream
 *   i [stream, local id] where a stream's local id is not the id in the blocks
 *   g [stream, segments] where a stream was cut into more than one segment
 *
 * "Stream" is a position: streams are counted in the order in which the slices of the blocks first name them.
 */
interface CommitMeta {
  l?: number;
  e?: number;
  p?: number;
  c?: readonly StateChange[];
  b?: number[];
  o?: number[];
  i?: [number, Uint8Array][];
  g?: [number, number][];
}

export interface CommitRecord {
  readonly kind: "commit";
  readonly seq: number;
  readonly bytes: number;
  /** Sequence of the newest checkpoint before it, 0 if there is none. */
  readonly checkpoint: number;
  readonly lane: Lane;
  readonly changes: readonly StateChange[];
  readonly eventsBefore: number;
  readonly events: number;
  readonly payloadBytes: number;
  readonly blocks: readonly Block[];
  readonly streams: readonly CommitStream[];
}

/** One stream's events in a commit: numbers `first` to `last`, all of them. */
export interface CommitStream {
  readonly localId: Id;
  /** Its id in the blocks: the core's, or the local one while it was unmapped. */
  readonly blockId: Id;
  /** Segments into which its events are cut. */
  readonly segments: number;
  readonly first: number;
  readonly last: number;
  /** The ordinal of an event is its number plus this. */
  readonly shift: number;
}

/** Numbers of the incarnation that commits, by local stream; the commit moves them on. */
export interface NumberLedger {
  /** Last number of the stream in the lane; 0 if there is none. */
  last(id: Id, lane: Lane): number;
  /** Last number of a segment, if the stream has been cut into `segments` from its first event on; else what is surely below. */
  segmentLast(id: Id, lane: Lane, segments: number, segment: number): number;
}

export interface CommitContext {
  readonly seq: number;
  readonly checkpoint: number;
  readonly writer: Id;
  readonly incarnation: Id;
  readonly eventsBefore: number;
  readonly ledger: NumberLedger;
  /** State of a stream after the batch's changes; undefined if there is no such stream. */
  stream(id: Id): (Omit<BatchStream, "firstNumber"> & { readonly nextOrdinal: number }) | undefined;
}

export interface EncodedCommit {
  readonly bytes: Uint8Array;
  readonly streams: readonly CommitStream[];
  /** Last number in each segment that got events, for streams of more than one segment. */
  readonly segmentTails: readonly { readonly localId: Id; readonly segments: number; readonly segment: number; readonly last: number }[];
}

export function encodeCommit(batch: CommitBatch, context: CommitContext): EncodedCommit {
  const { columns, lane } = batch;
  assert(batch.streamIndex.length === columns.count, "every event has a stream");
  const found = batch.streamIds.map((id) => {
    const stream = context.stream(id);
    assert(stream !== undefined, "a batch names only streams that exist");
    return { id, ...stream, firstNumber: context.ledger.last(id, lane) + 1 };
  });
  const slices = sliceBatch(batch, found);
  const writer = { writer: context.writer, incarnation: context.incarnation, lane };

  // Streams in the order in which the blocks name them.
  const order = new Map<number, { first: number; last: number }>();
  const tails = new Map<string, { localId: Id; segments: number; segment: number; last: number }>();
  const blocks = (columns.count === 0 ? [] : planBlocks(columns, slices, found)).map((group) => {
    const inputs: SliceInput[] = group.map(({ stream: index, segment, rows }) => {
      const { id, segments, mapping, firstNumber } = found[index] as (typeof found)[number];
      const last = columns.number[rows[rows.length - 1] as number] as number;
      const numbers = order.get(index);
      if (!numbers) order.set(index, { first: firstNumber, last });
      else numbers.last = Math.max(numbers.last, last);
      // In a stream of one segment the number before is the one before; elsewhere it is remembered.
      let previous = (columns.number[rows[0] as number] as number) - 1;
      if (segments > 1) {
        const tailKey = `${index}.${segment}`;
        previous = tails.get(tailKey)?.last ?? context.ledger.segmentLast(id, lane, segments, segment);
        tails.set(tailKey, { localId: id, segments, segment, last });
      }
      return { kind: "events", streamId: mapping?.id ?? id, segment: { generation: 0, epoch: 0, number: segment }, previous, rows };
    });
    return encodeBlock(writer, columns, inputs);
  });

  const meta: CommitMeta = {};
  if (lane !== LANES[0]) meta.l = LANES.indexOf(lane);
  if (context.eventsBefore > 0) meta.e = context.eventsBefore;
  if (batch.changes.length > 0) meta.c = batch.changes;
  const streams: CommitStream[] = [];
  if (blocks.length > 0) {
    let payloadBytes = 0;
    for (let row = 0; row < columns.count; row++) payloadBytes += (columns.ends[row] as number) - (columns.starts[row] as number);
    meta.p = payloadBytes;
    meta.b = blocks.map((block) => block.length);
    const localIds: [number, Uint8Array][] = [];
    const cuts: [number, number][] = [];
    for (const [index, { first, last }] of order) {
      const { id, segments, mapping, nextOrdinal } = found[index] as (typeof found)[number];
      if (mapping && mapping.id !== id) localIds.push([streams.length, hexToBytes(id)]);
      if (segments > 1) cuts.push([streams.length, segments]);
      streams.push({ localId: id, blockId: mapping?.id ?? id, segments, first, last, shift: nextOrdinal - first });
    }
    meta.o = streams.map((stream) => stream.shift);
    if (localIds.length > 0) meta.i = localIds;
    if (cuts.length > 0) meta.g = cuts;
  }
  const { bytes } = encodeRecord(RECORD_KIND.commit, context.seq, context.checkpoint, meta, blocks);
  return { bytes, streams, segmentTails: [...tails.values()] };
}

/** @throws STORE_CORRUPT */
export function decodeCommit(raw: RawRecord, bytes: number): CommitRecord {
  try {
    return readCommit(raw, readMeta(raw.meta()), bytes);
  } catch (error) {
    if (error instanceof TributaryError && !hasCode(error, "BLOCK_CORRUPT")) throw error;
    throw corrupt(raw.seq, error instanceof Error ? error.message : "malformed commit");
  }
}

/** Keys that this version does not know are passed over. */
function readMeta(value: unknown) {
  const meta = fields(value, "commit");
  return {
    lane: laneAt(meta["l"] ?? 0),
    eventsBefore: natural(meta["e"] ?? 0, "events"),
    payloadBytes: natural(meta["p"] ?? 0, "payload bytes"),
    changes: list(meta["c"] ?? [], "state changes", readStateChange),
    blockBytes: list(meta["b"] ?? [], "blocks", (bytes) => natural(bytes, "length of a block")),
    shifts: list(meta["o"] ?? [], "ordinals", (shift) => integer(shift, "ordinal")),
    localIds: new Map(
      list(meta["i"] ?? [], "local ids", (entry) => {
        const [position, id] = row(entry, 2, "local id");
        return [natural(position, "stream"), idOfBytes(id, STREAM_ID_BYTES, "stream id")] as const;
      }),
    ),
    segments: new Map(
      list(meta["g"] ?? [], "segments", (entry) => {
        const [position, segments] = row(entry, 2, "segments");
        return [natural(position, "stream"), readSegments(segments)] as const;
      }),
    ),
  };
}

function readCommit(raw: RawRecord, meta: ReturnType<typeof readMeta>, bytes: number): CommitRecord {
  const blocks: Block[] = [];
  let at = 0;
  for (const length of meta.blockBytes) {
    blocks.push(decodeBlock(raw.body.subarray(at, at + length)));
    at += length;
  }
  if (at !== raw.body.length) throw corrupt(raw.seq, "its blocks do not fill it");
  const { lane, localIds, segments } = meta;
  const byBlockId = new Map<Id, { -readonly [K in keyof CommitStream]: CommitStream[K] }>();
  let events = 0;
  for (const block of blocks) {
    if (block.lane !== lane || block.incarnation !== blocks[0]?.incarnation) throw corrupt(raw.seq, "its blocks contradict each other");
    for (const slice of block.slices) {
      events += slice.count;
      const known = byBlockId.get(slice.streamId);
      if (slice.segment.number >= (known?.segments ?? segments.get(byBlockId.size) ?? 1))
        throw corrupt(raw.seq, "a slice lies in no segment");
      if (known) {
        known.first = Math.min(known.first, slice.first);
        known.last = Math.max(known.last, slice.last);
        continue;
      }
      const position = byBlockId.size;
      const shift = meta.shifts[position];
      if (shift === undefined) throw corrupt(raw.seq, "a stream has no ordinal");
      byBlockId.set(slice.streamId, {
        localId: localIds.get(position) ?? slice.streamId,
        blockId: slice.streamId,
        segments: segments.get(position) ?? 1,
        first: slice.first,
        last: slice.last,
        shift,
      });
    }
  }
  for (const { first, last, shift } of byBlockId.values()) {
    natural(first + shift, "ordinal");
    natural(last + shift, "ordinal");
  }
  return {
    kind: "commit",
    seq: raw.seq,
    bytes,
    checkpoint: raw.checkpoint,
    lane,
    changes: meta.changes,
    eventsBefore: meta.eventsBefore,
    events,
    payloadBytes: meta.payloadBytes,
    blocks,
    streams: [...byBlockId.values()],
  };
}
