import { assert } from "../assert.ts";
import { crc32c } from "../checksum.ts";
import { MalformedBytes, VarintReader, VarintWriter } from "./varint.ts";

/**
 * Events as columns; row `i` of every column is one event. `payload` bytes of event `i` are [starts[i], ends[i]).
 * Routing keys are indexes into `keys`, so that a key is hashed and stored once.
 */
export interface EventColumns {
  readonly count: number;
  readonly keys: readonly string[];
  readonly keyIndex: Uint32Array;
  /** Event time, ms since 1970. */
  readonly timeMs: Float64Array;
  /** Event number within (stream, lane, incarnation). */
  readonly number: Float64Array;
  readonly starts: Uint32Array;
  readonly ends: Uint32Array;
  readonly payload: Uint8Array;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });
let scratch = new Uint8Array(1024);

/** UTF-8 of a text, valid until the next call: memory of its own for each key takes ten times as long (measured). */
function utf8View(text: string): Uint8Array {
  if (scratch.length < text.length * 3) scratch = new Uint8Array(text.length * 3);
  return scratch.subarray(0, encoder.encodeInto(text, scratch).written);
}

/**
 * Chunk, before compression (version 1); every column is preceded by its length in bytes:
 *
 *   Chunk => keys keyIndex times numbers lengths payload
 *     keys     => count (length utf8)*           varint, (varint, bytes)*
 *     keyIndex => index*                         varint, one an event
 *     times    => delta*                         zigzag varint, ms since the event before (the first: since 1970)
 *     numbers  => delta*                         zigzag varint, number minus (number of the event before + 1) (the first: minus 1)
 *     lengths  => bytes*                         varint
 *     payload  => the payloads, joined; takes the rest
 *
 * `order` lists the rows in the order in which the chunk holds them.
 */
export function encodeChunk(columns: EventColumns, order: Uint32Array): Uint8Array {
  const localKeys = new Map<number, number>();
  const keys = new VarintWriter(1024);
  const keyIndex = new VarintWriter(order.length * 2);
  const times = new VarintWriter(order.length * 2 + 8);
  const numbers = new VarintWriter(order.length + 8);
  const lengths = new VarintWriter(order.length * 2);
  let payloadBytes = 0;
  let timeBefore = 0;
  let numberBefore = 0;
  for (const row of order) {
    const globalKey = columns.keyIndex[row] as number;
    let localKey = localKeys.get(globalKey);
    if (localKey === undefined) {
      localKey = localKeys.size;
      localKeys.set(globalKey, localKey);
      const utf8 = utf8View(columns.keys[globalKey] as string);
      keys.write(utf8.length);
      keys.writeBytes(utf8);
    }
    keyIndex.write(localKey);
    const time = columns.timeMs[row] as number;
    times.writeSigned(time - timeBefore);
    timeBefore = time;
    const number = columns.number[row] as number;
    numbers.writeSigned(number - numberBefore - 1);
    numberBefore = number;
    const length = (columns.ends[row] as number) - (columns.starts[row] as number);
    assert(length >= 0, "an event ends behind its start");
    lengths.write(length);
    payloadBytes += length;
  }

  const head = new VarintWriter(64);
  head.write(localKeys.size);
  const parts = [head, keys, keyIndex, times, numbers, lengths] as const;
  const out = new VarintWriter(64 + payloadBytes + parts.reduce((sum, part) => sum + part.length + 8, 0));
  out.write(head.length + keys.length);
  out.writeBytes(head.view());
  out.writeBytes(keys.view());
  for (const column of [keyIndex, times, numbers, lengths]) {
    out.write(column.length);
    out.writeBytes(column.view());
  }
  // Rows that lie side by side in the source are copied as one run.
  let runStart = 0;
  let runEnd = 0;
  for (const row of order) {
    const start = columns.starts[row] as number;
    if (start !== runEnd) {
      out.writeBytes(columns.payload.subarray(runStart, runEnd));
      runStart = start;
    }
    runEnd = columns.ends[row] as number;
  }
  out.writeBytes(columns.payload.subarray(runStart, runEnd));
  return out.view();
}

/** The inverse of encodeChunk; payloads are views into `raw`. @throws MalformedBytes */
export function decodeChunk(raw: Uint8Array, count: number): EventColumns {
  const reader = new VarintReader(raw);
  const column = () => {
    const length = reader.read();
    const from = reader.offset;
    reader.readBytes(length);
    return new VarintReader(raw, from, from + length);
  };
  const keyReader = column();
  const keyCount = keyReader.read();
  if (keyCount > keyReader.remaining || keyCount > count) throw new MalformedBytes("more keys than events");
  const keys: string[] = [];
  for (let i = 0; i < keyCount; i++) keys.push(decodeUtf8(keyReader.readBytes(keyReader.read())));
  const indexReader = column();
  const timeReader = column();
  const numberReader = column();
  const lengthReader = column();
  if (count > indexReader.remaining) throw new MalformedBytes("fewer events than the index says");

  const keyIndex = new Uint32Array(count);
  const timeMs = new Float64Array(count);
  const number = new Float64Array(count);
  const starts = new Uint32Array(count);
  const ends = new Uint32Array(count);
  let time = 0;
  let lastNumber = 0;
  let at = reader.offset;
  for (let i = 0; i < count; i++) {
    const key = indexReader.read();
    if (key >= keyCount) throw new MalformedBytes("a key index points nowhere");
    keyIndex[i] = key;
    time += timeReader.readSigned();
    timeMs[i] = time;
    lastNumber += numberReader.readSigned() + 1;
    number[i] = lastNumber;
    // Sums of deltas may leave the numbers that are exact.
    if (!(Math.abs(time) <= Number.MAX_SAFE_INTEGER && Math.abs(lastNumber) <= Number.MAX_SAFE_INTEGER))
      throw new MalformedBytes("a time or a number is impossible");
    starts[i] = at;
    at += lengthReader.read();
    if (at > raw.length) throw new MalformedBytes("a payload is cut off");
    ends[i] = at;
  }
  if (at !== raw.length) throw new MalformedBytes("bytes are left over behind the payloads");
  for (const rest of [keyReader, indexReader, timeReader, numberReader, lengthReader]) {
    if (rest.remaining !== 0) throw new MalformedBytes("a column is longer than its events");
  }
  return { count, keys, keyIndex, timeMs, number, starts, ends, payload: raw };
}

function decodeUtf8(bytes: Uint8Array): string {
  try {
    return decoder.decode(bytes);
  } catch (error) {
    throw new MalformedBytes("a key is not UTF-8", { cause: error });
  }
}

/** The payload of one row, as a view. */
export function payloadOf(columns: EventColumns, row: number): Uint8Array {
  return columns.payload.subarray(columns.starts[row], columns.ends[row]);
}

/** Checksums of keys by index, filled by eventHash, for callers that hash many rows. A few of many keys: so not an array. */
export type KeyChecksums = Map<number, number>;

/** CRC32C over key (UTF-8), a zero byte and payload: tells apart two events that claim one number (rule W2). */
export function eventHash(columns: EventColumns, row: number, known?: KeyChecksums): number {
  const index = columns.keyIndex[row] as number;
  let key = known?.get(index);
  if (key === undefined) {
    key = crc32c(utf8View(`${columns.keys[index]}\0`));
    known?.set(index, key);
  }
  return crc32c(payloadOf(columns, row), key);
}
