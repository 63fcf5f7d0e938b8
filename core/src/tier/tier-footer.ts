import { MalformedBytes } from "@tributary/common/format/varint";
import { bytesToHex, hexToBytes, type Id, type SegmentId, STREAM_ID_BYTES } from "@tributary/common/names";
import type { WalPosition } from "../container/counting.ts";
import { NO_NONCE, NONCE_BYTES } from "../container/nonces.ts";
import { decodeRefs, flattenRefs, type ObjectRef } from "../container/operations.ts";
import { decodeOrigin, encodeOrigin, type StreamOrigin } from "../container/stream-origin.ts";
import { asArray, asBoolean, asBytes, asCount, asCounts, asHex, asSegments, asText, flattenSegments } from "../container/wire.ts";

/** Numbers in columns: one value of each named column a row. */
export type Columns<K extends string> = Record<K, number[]>;

/**
 * Footer of a combined object (CBOR map). With it the object explains itself: which frames it stands for, where every event of
 * every stream lies in it, and what those frames changed of the container's state.
 *
 *   c, g, e, a   container, generation, and epoch and attempt of the owner who wrote the object
 *   f, p, h      first WAL sequence it stands for; last counting frame: [seq, epoch, attempt, number], its hash
 *   q            the object before it: [epoch, attempt, through, bytes, footerBytes], or empty
 *   n            events of the container through here, those of deleted streams included
 *   b            blocks: [offset, length]*
 *   s            ids of the streams that it names, 16 bytes each
 *   x            extents, in order of stream and chain: s stream, b block, i slice, k leading events skipped, g/e/n segment,
 *                o segment ordinal, c chain ordinal, m events
 *   r            registered: [stream, [generation, epoch, number]*, contentType, closed, name, createdAtMs, containers*]; the last
 *                three may be missing; containers: [container, of how many segments on]*
 *   z, d         closed; deleted, before anything else in this footer: streams
 *   u            Stream-Seq: [stream, text]
 *   i            writers: writer id, incarnation, lane (25 bytes each)
 *   w            writer numbers: s stream, g/e/n segment, w writer, l last number, h hash of that event + 1 (0: a gap)
 *   y            producers in order of use: [stream, producerId, epoch, seq]
 *   k            take-overs under which streams went on: [stream, nonce, chain ordinal of the first event]
 *   v            nonce of the owner at p
 * k and v may be missing.
 */
export interface Footer {
  readonly container: number;
  readonly generation: number;
  readonly epoch: number;
  readonly attempt: number;
  readonly from: number;
  readonly position: WalPosition;
  readonly previous: ObjectRef | undefined;
  readonly events: number;
  readonly blocks: readonly number[];
  readonly streams: readonly Id[];
  readonly extents: Readonly<Columns<(typeof EXTENT_COLUMNS)[number]>>;
  readonly registered: readonly {
    readonly stream: number;
    readonly segments: readonly SegmentId[];
    readonly contentType: string;
    readonly closed: boolean;
    readonly origin: StreamOrigin | undefined;
  }[];
  readonly nonces: readonly { readonly stream: number; readonly nonce: Id; readonly from: number }[];
  readonly nonce: Id;
  readonly closed: readonly number[];
  readonly deleted: readonly number[];
  readonly streamSeqs: readonly { readonly stream: number; readonly streamSeq: string }[];
  /** As writerKey gives them. */
  readonly writers: readonly string[];
  readonly numbers: Readonly<Columns<(typeof NUMBER_COLUMNS)[number]>>;
  readonly producers: readonly { readonly stream: number; readonly id: string; readonly epoch: number; readonly seq: number }[];
}

export const EXTENT_COLUMNS = ["s", "b", "i", "k", "g", "e", "n", "o", "c", "m"] as const;
export const NUMBER_COLUMNS = ["s", "g", "e", "n", "w", "l", "h"] as const;
const WRITER_BYTES = 25;
export const HASH_BYTES = 16;

export function emptyColumns<K extends string>(names: readonly K[]): Columns<K> {
  return Object.fromEntries(names.map((name) => [name, []])) as unknown as Columns<K>;
}

export function footerRecord(footer: Footer): Record<string, unknown> {
  const { position } = footer;
  return {
    c: footer.container,
    g: footer.generation,
    e: footer.epoch,
    a: footer.attempt,
    f: footer.from,
    p: [position.seq, position.epoch, position.attempt, position.number],
    h: hexToBytes(position.hash),
    q: flattenRefs(footer.previous ? [footer.previous] : []),
    n: footer.events,
    b: footer.blocks,
    s: concatHex(footer.streams),
    x: footer.extents,
    r: footer.registered.map((row) => {
      return [row.stream, flattenSegments(row.segments), row.contentType, row.closed, ...encodeOrigin(row.origin)];
    }),
    z: footer.closed,
    d: footer.deleted,
    u: footer.streamSeqs.map((row) => [row.stream, row.streamSeq]),
    i: concatWriters(footer.writers),
    w: footer.numbers,
    y: footer.producers.map((row) => [row.stream, row.id, row.epoch, row.seq]),
    k: footer.nonces.map((row) => [row.stream, hexToBytes(row.nonce), row.from]),
    v: hexToBytes(footer.nonce),
  };
}

/** @throws MalformedBytes */
export function readFooter(value: unknown): Footer {
  const record = value as Record<string, unknown>;
  const streams = splitHex(record["s"]);
  const stream = (position: unknown): number => {
    if (asCount(position) >= streams.length) throw new MalformedBytes("a footer names no stream");
    return position as number;
  };
  const extents = readColumns(record["x"], EXTENT_COLUMNS);
  const numbers = readColumns(record["w"], NUMBER_COLUMNS);
  extents.s.forEach(stream);
  numbers.s.forEach(stream);
  return {
    container: asCount(record["c"]),
    generation: asCount(record["g"]),
    epoch: asCount(record["e"]),
    attempt: asCount(record["a"]),
    from: asCount(record["f"]),
    position: readPosition(record["p"], record["h"]),
    previous: decodeRefs(record["q"])[0],
    events: asCount(record["n"]),
    blocks: asCounts(record["b"], 2),
    streams,
    extents,
    registered: asArray(record["r"]).map((entry) => {
      const row = asArray(entry);
      return {
        stream: stream(row[0]),
        segments: asSegments(row[1]),
        contentType: asText(row[2]),
        closed: asBoolean(row[3]),
        origin: decodeOrigin(row.slice(4)),
      };
    }),
    nonces: asArray(record["k"] ?? []).map((entry) => {
      const row = asArray(entry);
      return { stream: stream(row[0]), nonce: asHex(row[1], NONCE_BYTES), from: asCount(row[2]) };
    }),
    nonce: readNonce(record["v"]),
    closed: asCounts(record["z"], 1).map(stream),
    deleted: asCounts(record["d"], 1).map(stream),
    streamSeqs: asArray(record["u"]).map((entry) => {
      const row = asArray(entry);
      return { stream: stream(row[0]), streamSeq: asText(row[1]) };
    }),
    writers: splitWriters(record["i"]),
    numbers,
    producers: asArray(record["y"]).map((entry) => {
      const row = asArray(entry);
      return { stream: stream(row[0]), id: asText(row[1]), epoch: asCount(row[2]), seq: asCount(row[3]) };
    }),
  };
}

export function readNonce(value: unknown): Id {
  return value === undefined ? NO_NONCE : asHex(value, NONCE_BYTES);
}

export function readPosition(numbers: unknown, hash: unknown): WalPosition {
  const list = asCounts(numbers, 4);
  if (list.length !== 4) throw new MalformedBytes("a WAL position has four numbers");
  const [seq, epoch, attempt, number] = list as [number, number, number, number];
  return { seq, epoch, attempt, number, hash: asHex(hash, HASH_BYTES) };
}

export function readColumns<K extends string>(value: unknown, names: readonly K[]): Columns<K> {
  const record = (value ?? {}) as Record<string, unknown>;
  const columns = emptyColumns(names);
  let rows = -1;
  for (const name of names) {
    const column = asCounts(record[name], 1);
    if (rows >= 0 && column.length !== rows) throw new MalformedBytes("columns have different lengths");
    rows = column.length;
    columns[name] = column as number[];
  }
  return columns;
}

export function concatHex(ids: readonly Id[]): Uint8Array {
  return hexToBytes(ids.join(""));
}

export function splitHex(value: unknown): Id[] {
  return splitBytes(value, STREAM_ID_BYTES).map(bytesToHex);
}

export function splitNonces(value: unknown): Id[] {
  return splitBytes(value, NONCE_BYTES).map(bytesToHex);
}

/** A writer key is 24 bytes in hex and one digit for the lane. */
export function concatWriters(keys: readonly string[]): Uint8Array {
  return hexToBytes(keys.map((key) => `${key.slice(0, -1)}0${key.at(-1)}`).join(""));
}

export function splitWriters(value: unknown): string[] {
  return splitBytes(value, WRITER_BYTES).map((bytes) => bytesToHex(bytes.subarray(0, WRITER_BYTES - 1)) + bytes[WRITER_BYTES - 1]);
}

function splitBytes(value: unknown, length: number): Uint8Array[] {
  const bytes = asBytes(value);
  if (bytes.length % length !== 0) throw new MalformedBytes("a list of ids is cut off");
  return Array.from({ length: bytes.length / length }, (_, i) => bytes.subarray(i * length, (i + 1) * length));
}
