import { assert } from "../assert.ts";
import { crc32c } from "../checksum.ts";
import { TributaryError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import {
  bytesToHex,
  hexToBytes,
  type Id,
  INCARNATION_BYTES,
  LANES,
  type Lane,
  type SegmentId,
  STREAM_ID_BYTES,
  WRITER_ID_BYTES,
} from "../names.ts";
import { decodeCbor, encodeCbor } from "./cbor.ts";
import { CODEC, type Packed, pack, unpack } from "./compression.ts";
import { decodeChunk, type EventColumns, encodeChunk, eventHash, type KeyChecksums } from "./event-columns.ts";
import { MalformedBytes } from "./varint.ts";

/**
 * Block (version 1), the unit of transport and storage. PROTOCOL.md gives the format byte for byte.
 *
 *   Block => "TRBK" version:u8 kind:u8 codec:u8 0:u8 storedLength:u32 rawLength:u32 index chunk* crc32c:u32
 *
 * All integers are little-endian; the CRC32C covers everything before it. `index` is CBOR, packed with `codec`.
 */
const MAGIC = 0x4b425254; // "TRBK"
const VERSION = 1;
const PREFIX_BYTES = 16;
/** In the index: codec, stored and raw length, events. */
const CHUNK_NUMBERS = 4;
const CRC_BYTES = 4;
/** An index below this part of its chunks is not compressed: that costs 1 to 4 % of bytes (measured: 2). */
const INDEX_PLAIN_SHARE = 16;
/** Persisted. 2 and 3 are reserved for transactions. */
const BLOCK_KIND = { events: 1, transactionEvents: 2, transactionMarker: 3 } as const;

/** Who wrote a block: every number in it belongs to this incarnation and lane. */
export interface BlockWriter {
  readonly writer: Id;
  readonly incarnation: Id;
  readonly lane: Lane;
}

/** What identifies a slice and chains it to the writer's events before it in that segment (rules W1, W2). */
export interface SliceTarget {
  readonly streamId: Id;
  readonly segment: SegmentId;
  /** The writer's number before `first` in this segment and incarnation; 0 if there is none. */
  readonly previous: number;
  /** On the first slice of an incarnation in a segment: what the writer's latest earlier incarnation with events there ended at. */
  readonly parent?: { readonly incarnation: Id; readonly last: number };
}

/** Numbers that nobody has any more (rule W6). Appended like an event; takes one ordinal. */
export interface GapSlice extends SliceTarget {
  readonly kind: "gap";
  readonly first: number;
  readonly last: number;
  /** Events lost; at most last − first + 1, fewer where other segments hold some of the numbers. */
  readonly count: number;
  readonly reason: GapReason;
  readonly timeMinMs: number;
  readonly timeMaxMs: number;
}

export interface EventSlice extends SliceTarget {
  readonly kind: "events";
  readonly first: number;
  readonly last: number;
  readonly count: number;
  readonly timeMinMs: number;
  readonly timeMaxMs: number;
  /** Index of the chunk, and of the slice's first event in it. */
  readonly chunk: number;
  readonly start: number;
  /** eventHash of the last event. */
  readonly lastHash: number;
}

export type Slice = EventSlice | GapSlice;

/** Persisted by position: append only. */
export const GAP_REASONS = ["quota", "corrupt", "quarantined", "retired", "lost-by-core"] as const;
export type GapReason = (typeof GAP_REASONS)[number];

interface ChunkInfo {
  readonly codec: number;
  readonly offset: number;
  readonly storedBytes: number;
  readonly rawBytes: number;
  readonly events: number;
}

/** A block whose index was read and whose checksum was verified. */
export interface Block extends BlockWriter {
  readonly slices: BlockSlices;
  readonly chunks: readonly ChunkInfo[];
  readonly bytes: Uint8Array;
}

/**
 * The slices of a block that was read, kept as columns and laid out where one is asked for: a busy container holds blocks of some
 * hundred thousand slices until a flush, and as many objects are what its garbage collection spends its time on (measured).
 */
export class BlockSlices implements Iterable<Slice> {
  readonly #columns: SliceColumns;

  constructor(columns: SliceColumns) {
    this.#columns = columns;
  }

  get length(): number {
    return this.#columns.kinds.length;
  }

  /** A new object each time; undefined if the block has no such slice. */
  at(i: number): Slice | undefined {
    const columns = this.#columns;
    const kind = columns.kinds[i];
    if (kind === undefined) return undefined;
    const streamId = columns.streamIds[columns.streams[i] as number] as Id;
    const segment = segmentId(columns.generations[i] as number, columns.epochs[i] as number, columns.numbers[i] as number);
    const first = columns.firsts[i] as number;
    const previous = first - (columns.advances[i] as number);
    const last = first + (columns.spans[i] as number);
    const count = columns.counts[i] as number;
    const timeMinMs = columns.times[i] as number;
    const timeMaxMs = timeMinMs + (columns.durations[i] as number);
    const parent = columns.parents?.get(i);
    if (kind === SLICE_KIND.gap) {
      const reason = GAP_REASONS[columns.values[i] as number] as GapReason;
      const slice: GapSlice = { kind: "gap", streamId, segment, previous, first, last, count, timeMinMs, timeMaxMs, reason };
      return parent ? { ...slice, parent } : slice;
    }
    const chunk = columns.chunks[i] as number;
    const start = columns.starts[i] as number;
    const lastHash = columns.values[i] as number;
    // Laid out at one go: spreads took half of the time of a block of many slices.
    const slice: EventSlice = {
      kind: "events",
      streamId,
      segment,
      previous,
      first,
      last,
      count,
      timeMinMs,
      timeMaxMs,
      chunk,
      start,
      lastHash,
    };
    return parent ? { ...slice, parent } : slice;
  }

  map<T>(of: (slice: Slice, i: number) => T): T[] {
    return Array.from({ length: this.length }, (_, i) => of(this.at(i) as Slice, i));
  }

  *[Symbol.iterator](): Generator<Slice, void> {
    for (let i = 0; i < this.length; i++) yield this.at(i) as Slice;
  }
}

/** Persisted. 2 is reserved for an empty advance (rule W4). */
const SLICE_KIND = { events: 0, gap: 1 } as const;

/** One number a slice, checked. */
interface SliceColumns {
  readonly streamIds: readonly Id[];
  readonly kinds: readonly number[];
  /** By position in `streamIds`. */
  readonly streams: readonly number[];
  readonly generations: readonly number[];
  readonly epochs: readonly number[];
  readonly numbers: readonly number[];
  readonly firsts: readonly number[];
  /** first − previous; last − first. */
  readonly advances: readonly number[];
  readonly spans: readonly number[];
  readonly counts: readonly number[];
  readonly times: readonly number[];
  readonly durations: readonly number[];
  readonly chunks: readonly number[];
  readonly starts: readonly number[];
  /** Events: lastHash. Gap: reason, by position in GAP_REASONS. */
  readonly values: readonly number[];
  readonly parents: ReadonlyMap<number, { readonly incarnation: Id; readonly last: number }> | undefined;
}

/** Events of one slice to be encoded: rows of the batch, in order of number. */
export interface SliceInput extends SliceTarget {
  readonly kind: "events";
  readonly rows: Uint32Array;
}

/**
 * Encodes one block. Slices share chunks of about `chunkRawBytesTarget` raw bytes; a slice is never split.
 * Rows of a slice must be in ascending order of number and all above `previous`.
 */
export function encodeBlock(writer: BlockWriter, columns: EventColumns, inputs: readonly (SliceInput | GapSlice)[]): Uint8Array {
  assert(inputs.length > 0 && inputs.length <= LIMITS.blockSlicesMax, "a block holds 1 to blockSlicesMax slices");
  const slices: Slice[] = [];
  const chunks: PackedChunk[] = [];
  const keyChecksums: KeyChecksums = new Map();
  let pending: Uint32Array[] = [];
  let pendingEvents = 0;
  let pendingBytes = 0;
  const closeChunk = () => {
    if (pendingEvents === 0) return;
    let order = pending[0] as Uint32Array;
    if (pending.length > 1) {
      order = new Uint32Array(pendingEvents);
      let at = 0;
      for (const rows of pending) {
        order.set(rows, at);
        at += rows.length;
      }
    }
    const raw = encodeChunk(columns, order);
    chunks.push({ ...pack(raw), rawBytes: raw.length, events: pendingEvents });
    pending = [];
    pendingEvents = 0;
    pendingBytes = 0;
  };

  for (const input of inputs) {
    if (input.kind === "gap") {
      slices.push(input);
      continue;
    }
    const { rows } = input;
    slices.push(sliceOf(columns, input, keyChecksums, chunks.length, pendingEvents));
    pending.push(rows);
    pendingEvents += rows.length;
    for (const row of rows) pendingBytes += (columns.ends[row] as number) - (columns.starts[row] as number) + 4;
    if (pendingBytes >= LIMITS.chunkRawBytesTarget) closeChunk();
  }
  closeChunk();

  return assemble(writer, slices, chunks);
}

/** The same chunks under another index: other stream ids, previous numbers or parents. Everything else must be as it was. */
export function relinkBlock(block: Block, slices: readonly Slice[]): Uint8Array {
  assert(slices.length === block.slices.length, "relinking keeps every slice");
  const chunks = block.chunks.map(({ codec, offset, storedBytes, rawBytes, events }) => ({
    codec,
    bytes: block.bytes.subarray(offset, offset + storedBytes),
    rawBytes,
    events,
  }));
  return assemble(block, slices, chunks);
}

interface PackedChunk {
  readonly codec: number;
  readonly bytes: Uint8Array;
  readonly rawBytes: number;
  readonly events: number;
}

function assemble(writer: BlockWriter, slices: readonly Slice[], chunks: readonly PackedChunk[]): Uint8Array {
  const indexRaw = encodeIndex(writer, slices, chunks);
  const chunkBytes = chunks.reduce((sum, chunk) => sum + chunk.bytes.length, 0);
  const index = packIndex(indexRaw, chunkBytes);
  const bytes = new Uint8Array(PREFIX_BYTES + index.bytes.length + chunkBytes + CRC_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  bytes[4] = VERSION;
  bytes[5] = BLOCK_KIND.events;
  bytes[6] = index.codec;
  view.setUint32(8, index.bytes.length, true);
  view.setUint32(12, indexRaw.length, true);
  bytes.set(index.bytes, PREFIX_BYTES);
  let at = PREFIX_BYTES + index.bytes.length;
  for (const chunk of chunks) {
    bytes.set(chunk.bytes, at);
    at += chunk.bytes.length;
  }
  view.setUint32(at, crc32c(bytes.subarray(0, at)), true);
  return bytes;
}

/**
 * Whoever looks at a block unpacks its index, and making a zstd context costs as much as checking 64 KB of it (measured): an index that
 * is a small part of its block stays as it is.
 */
function packIndex(raw: Uint8Array, chunkBytes: number): Packed {
  return raw.length * INDEX_PLAIN_SHARE < chunkBytes ? { codec: CODEC.raw, bytes: raw } : pack(raw);
}

function sliceOf(columns: EventColumns, input: SliceInput, keyChecksums: KeyChecksums, chunk: number, start: number): EventSlice {
  const { streamId, segment, previous, parent, rows } = input;
  assert(rows.length > 0, "a slice of events is not empty");
  const firstRow = rows[0] as number;
  const lastRow = rows[rows.length - 1] as number;
  const first = columns.number[firstRow] as number;
  const last = columns.number[lastRow] as number;
  assert(first > previous && last - first >= rows.length - 1, "numbers of a slice ascend from its previous number");
  let timeMinMs = Number.POSITIVE_INFINITY;
  let timeMaxMs = Number.NEGATIVE_INFINITY;
  for (const row of rows) {
    const time = columns.timeMs[row] as number;
    if (time < timeMinMs) timeMinMs = time;
    if (time > timeMaxMs) timeMaxMs = time;
  }
  const lastHash = eventHash(columns, lastRow, keyChecksums);
  const count = rows.length;
  // Laid out at one go: spreads took half of the time of a block of many slices.
  const slice: EventSlice = {
    kind: "events",
    streamId,
    segment,
    previous,
    first,
    last,
    count,
    timeMinMs,
    timeMaxMs,
    chunk,
    start,
    lastHash,
  };
  return parent ? { ...slice, parent } : slice;
}

/** Index (CBOR map); the columns under `x` hold one number a slice. Unknown keys are ignored by readers. */
interface IndexRecord {
  w: Uint8Array;
  i: Uint8Array;
  /** Lane, by position in LANES. */
  l: number;
  /** Stream ids, 16 bytes each. */
  s: Uint8Array;
  /** codec, storedBytes, rawBytes, events of each chunk. */
  c: number[];
  x: {
    /** Kind: 0 events, 1 gap. 2 is reserved for an empty advance (rule W4). */
    k: number[];
    /** Stream, by position in `s`. */
    s: number[];
    /** Segment id: generation, epoch, number. */
    g: number[];
    e: number[];
    n: number[];
    /** first; first − previous; last − first; count. */
    f: number[];
    p: number[];
    l: number[];
    c: number[];
    /** Chunk; −1 for a gap. */
    h: number[];
    /** Earliest event time; latest − earliest. */
    t: number[];
    d: number[];
    /** Events: hash of the last event. Gap: reason, by position in GAP_REASONS. */
    v: number[];
  };
  /** Parents: slice, incarnation, last. */
  a: [number, Uint8Array, number][];
}

function encodeIndex(writer: BlockWriter, slices: readonly Slice[], chunks: readonly PackedChunk[]): Uint8Array {
  const streams = new Map<Id, number>();
  const x: IndexRecord["x"] = { k: [], s: [], g: [], e: [], n: [], f: [], p: [], l: [], c: [], h: [], t: [], d: [], v: [] };
  const a: IndexRecord["a"] = [];
  slices.forEach((slice, i) => {
    let stream = streams.get(slice.streamId);
    if (stream === undefined) {
      stream = streams.size;
      streams.set(slice.streamId, stream);
    }
    x.k.push(SLICE_KIND[slice.kind]);
    x.s.push(stream);
    x.g.push(slice.segment.generation);
    x.e.push(slice.segment.epoch);
    x.n.push(slice.segment.number);
    x.f.push(slice.first);
    x.p.push(slice.first - slice.previous);
    x.l.push(slice.last - slice.first);
    x.c.push(slice.count);
    x.h.push(slice.kind === "gap" ? -1 : slice.chunk);
    x.t.push(slice.timeMinMs);
    x.d.push(slice.timeMaxMs - slice.timeMinMs);
    x.v.push(slice.kind === "gap" ? GAP_REASONS.indexOf(slice.reason) : slice.lastHash);
    if (slice.parent) a.push([i, hexToBytes(slice.parent.incarnation), slice.parent.last]);
  });
  const s = new Uint8Array(streams.size * STREAM_ID_BYTES);
  for (const [id, i] of streams) s.set(hexToBytes(id), i * STREAM_ID_BYTES);
  const index: IndexRecord = {
    w: hexToBytes(writer.writer),
    i: hexToBytes(writer.incarnation),
    l: LANES.indexOf(writer.lane),
    s,
    c: chunks.flatMap((chunk) => [chunk.codec, chunk.bytes.length, chunk.rawBytes, chunk.events]),
    x,
    a,
  };
  return encodeCbor(index);
}

/**
 * Verifies the checksum and reads the index; chunks stay packed. `bytes` is kept as a view.
 * @throws BLOCK_CORRUPT, FORMAT_UNSUPPORTED
 */
export function decodeBlock(bytes: Uint8Array): Block {
  if (bytes.length < PREFIX_BYTES + CRC_BYTES || bytes.length > LIMITS.blockBytesMax) throw corrupt("impossible length");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== MAGIC) throw corrupt("not a block");
  const crcAt = bytes.length - CRC_BYTES;
  if (view.getUint32(crcAt, true) !== crc32c(bytes.subarray(0, crcAt))) throw corrupt("checksum does not match");
  if (bytes[4] !== VERSION || bytes[5] !== BLOCK_KIND.events) {
    throw new TributaryError("FORMAT_UNSUPPORTED", `block version ${bytes[4]}, kind ${bytes[5]}`);
  }
  const storedLength = view.getUint32(8, true);
  const rawLength = view.getUint32(12, true);
  const chunksAt = PREFIX_BYTES + storedLength;
  if (chunksAt > crcAt || rawLength > LIMITS.blockBytesMax) throw corrupt("index is longer than the block");
  try {
    const index = decodeCbor(unpack(bytes[6] ?? CODEC.raw, bytes.subarray(PREFIX_BYTES, chunksAt), rawLength));
    return readIndex(index as IndexRecord, bytes, chunksAt, crcAt);
  } catch (error) {
    if (error instanceof TributaryError) throw error;
    throw corrupt(error instanceof Error ? error.message : "malformed index");
  }
}

function corrupt(detail: string): TributaryError {
  return new TributaryError("BLOCK_CORRUPT", `block: ${detail}`);
}

const isCount = (value: unknown): value is number => typeof value === "number" && Number.isSafeInteger(value) && value >= 0;

function count(value: unknown): number {
  if (!isCount(value)) throw new MalformedBytes("a number of the index is impossible");
  return value;
}

function idBytes(value: unknown, length: number): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length !== length) throw new MalformedBytes("an id has a wrong length");
  return value;
}

/** Most segments are of generation and epoch 0: one instance for all blocks, since each slice would keep one of its own alive. */
const FIRST_SEGMENTS: SegmentId[] = [];

function segmentId(generation: number, epoch: number, number: number): SegmentId {
  if (generation > 0 || epoch > 0 || number >= LIMITS.segmentsPerStreamMax) return { generation, epoch, number };
  let segment = FIRST_SEGMENTS[number];
  if (!segment) {
    segment = { generation, epoch, number };
    FIRST_SEGMENTS[number] = segment;
  }
  return segment;
}

function readIndex(index: IndexRecord, bytes: Uint8Array, chunksAt: number, crcAt: number): Block {
  const writer = bytesToHex(idBytes(index.w, WRITER_ID_BYTES));
  const incarnation = bytesToHex(idBytes(index.i, INCARNATION_BYTES));
  const lane = LANES[count(index.l)];
  if (!lane) throw new MalformedBytes("unknown lane");
  const { x, s, c, a } = index;
  const columns = [x.k, x.s, x.g, x.e, x.n, x.f, x.p, x.l, x.c, x.h, x.t, x.d, x.v];
  if (![...columns, c, a].every(Array.isArray)) throw new MalformedBytes("a list of the index is none");
  const sliceCount = x.k.length;
  if (sliceCount === 0 || sliceCount > LIMITS.blockSlicesMax) throw new MalformedBytes("impossible number of slices");
  if (!(s instanceof Uint8Array) || s.length % STREAM_ID_BYTES !== 0) throw new MalformedBytes("stream ids have a wrong length");
  // All of it is kept as long as the block is: a few bytes may unpack to very long lists.
  const most = Math.max(s.length / STREAM_ID_BYTES, c.length / CHUNK_NUMBERS, a.length);
  if (columns.some((column) => column.length !== sliceCount) || most > sliceCount)
    throw new MalformedBytes("the index has other numbers than one a slice");
  const chunks = readChunkInfos(c, chunksAt, crcAt);
  const streamIds = Array.from({ length: s.length / STREAM_ID_BYTES }, (_, i) =>
    bytesToHex(s.subarray(i * STREAM_ID_BYTES, (i + 1) * STREAM_ID_BYTES)),
  );
  const parents = new Map<number, { incarnation: Id; last: number }>();
  for (const [slice, parent, last] of a) {
    parents.set(count(slice), { incarnation: bytesToHex(idBytes(parent, INCARNATION_BYTES)), last: count(last) });
  }
  const eventsInChunk = new Array<number>(chunks.length).fill(0);
  // Made here, of numbers alone, these hold the numbers themselves; those of the decoder point to an object for each that is large.
  const times: number[] = [];
  const values: number[] = [];
  const starts: number[] = [];
  for (let i = 0; i < sliceCount; i++) {
    const stream = count(x.s[i]);
    const first = count(x.f[i]);
    const previous = first - count(x.p[i]);
    const last = first + count(x.l[i]);
    const events = count(x.c[i]);
    const timeMinMs = x.t[i];
    const timeMaxMs = Number(timeMinMs) + count(x.d[i]);
    count(x.g[i]);
    count(x.e[i]);
    count(x.n[i]);
    const value = count(x.v[i]);
    if (
      stream >= streamIds.length ||
      previous < 0 ||
      previous >= first ||
      events < 1 ||
      events > last - first + 1 ||
      typeof timeMinMs !== "number" ||
      // Sums may leave the numbers that are exact.
      !(Number.isSafeInteger(last) && Number.isSafeInteger(timeMinMs) && Number.isSafeInteger(timeMaxMs))
    ) {
      throw new MalformedBytes("a slice contradicts itself");
    }
    let start = 0;
    if (x.k[i] === SLICE_KIND.gap) {
      if (!Number.isSafeInteger(x.h[i])) throw new MalformedBytes("a number of the index is impossible");
      if (value >= GAP_REASONS.length) throw new MalformedBytes("unknown gap reason");
    } else if (x.k[i] === SLICE_KIND.events) {
      const chunk = count(x.h[i]);
      if (chunk >= chunks.length) throw new MalformedBytes("a slice lies outside its chunk");
      start = eventsInChunk[chunk] as number;
      if (start + events > (chunks[chunk] as ChunkInfo).events) throw new MalformedBytes("a slice lies outside its chunk");
      eventsInChunk[chunk] = start + events;
      if (value >= 2 ** 32) throw new MalformedBytes("a hash of an event is impossible");
    } else throw new MalformedBytes("unknown kind of slice");
    times.push(timeMinMs);
    values.push(value);
    starts.push(start);
  }
  if (eventsInChunk.some((events, i) => events !== chunks[i]?.events)) throw new MalformedBytes("a chunk holds events of no slice");
  const slices = new BlockSlices({
    streamIds,
    kinds: x.k,
    streams: x.s,
    generations: x.g,
    epochs: x.e,
    numbers: x.n,
    firsts: x.f,
    advances: x.p,
    spans: x.l,
    counts: x.c,
    times,
    durations: x.d,
    chunks: x.h,
    starts,
    values,
    parents: parents.size > 0 ? parents : undefined,
  });
  return { writer, incarnation, lane, slices, chunks, bytes };
}

function readChunkInfos(flat: readonly number[], chunksAt: number, crcAt: number): ChunkInfo[] {
  const chunks: ChunkInfo[] = [];
  let offset = chunksAt;
  for (let i = 0; i < flat.length; i += CHUNK_NUMBERS) {
    const [codec, storedBytes, rawBytes, events] = [count(flat[i]), count(flat[i + 1]), count(flat[i + 2]), count(flat[i + 3])];
    if (rawBytes > 2 * LIMITS.blockBytesMax) throw new MalformedBytes("a chunk claims an impossible size");
    chunks.push({ codec, offset, storedBytes, rawBytes, events });
    offset += storedBytes;
  }
  if (offset !== crcAt) throw new MalformedBytes("the chunks do not fill the block");
  return chunks;
}

/** Unpacks one chunk of a block. Rows [slice.start, slice.start + slice.count) belong to a slice. @throws BLOCK_CORRUPT */
export function openChunk(block: Block, chunkIndex: number): EventColumns {
  const info = block.chunks[chunkIndex];
  assert(info !== undefined, "the chunk is one of the block's");
  try {
    const raw = unpack(info.codec, block.bytes.subarray(info.offset, info.offset + info.storedBytes), info.rawBytes);
    return decodeChunk(raw, info.events);
  } catch (error) {
    if (error instanceof MalformedBytes) throw corrupt(error.message);
    throw error;
  }
}
