import { TributaryError } from "../errors.ts";
import type { EventPack } from "../stream-service.ts";
import { BatchBuilder, invalidBatch } from "./batch.ts";

/**
 * Batch in CBOR (RFC 8949): an array of maps {"key"?: text, "time"?: integer or text, "data": bytes or text}. Read by hand and not with the general decoder:
 * that one allocates what a header of five bytes claims, and knows tags and records that have no place in a request from outside.
 * @throws INVALID_BODY, INVALID_REQUEST, EVENT_TOO_LARGE, BATCH_TOO_LARGE
 */
export function parseBatchCbor(bytes: Uint8Array, nowMs: number): EventPack {
  const reader = new CborReader(bytes);
  const builder = new BatchBuilder(bytes.length);
  const count = reader.header(MAJOR.array);
  while (reader.more(count, builder.count)) addEvent(reader, builder);
  if (reader.remaining > 0) throw malformed("bytes are left over behind the batch");
  return builder.finish(nowMs);
}

const MAJOR = { unsigned: 0, negative: 1, bytes: 2, text: 3, array: 4, map: 5, simple: 7 } as const;
const INDEFINITE = -1;
const BREAK = 0xff;

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function malformed(detail: string): TributaryError {
  return new TributaryError("INVALID_BODY", `CBOR: ${detail}`);
}

function addEvent(reader: CborReader, builder: BatchBuilder): void {
  const index = builder.count;
  const members = reader.header(MAJOR.map);
  let key: string | undefined;
  let time: number | string | undefined;
  let data: Uint8Array | string | undefined;
  for (let i = 0; reader.more(members, i); i++) {
    const name = reader.text();
    if (name === "key") key = reader.text();
    else if (name === "time") time = reader.time();
    else if (name === "data") data = reader.data();
    else throw invalidBatch(index, `unknown member '${name.slice(0, 40)}'`);
  }
  if (data === undefined) throw invalidBatch(index, "'data' is missing");
  builder.add(key, time, data);
}

/** A cursor over the few types that a batch may hold. Nothing is allocated by what a length claims. */
class CborReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get remaining(): number {
    return this.#bytes.length - this.#at;
  }

  /** Whether item `index` of an array or map of that length follows; takes the break of an indefinite one. */
  more(length: number, index: number): boolean {
    if (length !== INDEFINITE) return index < length;
    if (this.#bytes[this.#at] !== BREAK) return true;
    this.#at++;
    return false;
  }

  /** The argument of a header of that major type: a length, or INDEFINITE. */
  header(major: number): number {
    const { major: found, argument } = this.#next();
    if (found !== major) throw malformed(`major type ${found} where ${major} belongs, at byte ${this.#at - 1}`);
    return argument;
  }

  text(): string {
    const bytes = this.#string(this.header(MAJOR.text));
    try {
      return decoder.decode(bytes);
    } catch (error) {
      throw malformed(`a text is not UTF-8: ${error instanceof Error ? error.message : ""}`);
    }
  }

  data(): Uint8Array | string {
    const major = this.#peekMajor();
    return major === MAJOR.text ? this.text() : this.#string(this.header(MAJOR.bytes));
  }

  time(): number | string {
    const major = this.#peekMajor();
    if (major === MAJOR.text) return this.text();
    // cbor-x and others write large integers as 64-bit floats.
    if (major === MAJOR.simple && this.#bytes[this.#at] === 0xfb && this.remaining >= 9) {
      const value = this.#view.getFloat64(this.#at + 1);
      this.#at += 9;
      return value;
    }
    return this.header(MAJOR.unsigned);
  }

  #peekMajor(): number {
    return (this.#bytes[this.#at] ?? 0) >> 5;
  }

  #string(length: number): Uint8Array {
    if (length === INDEFINITE) throw malformed("strings in parts are not supported");
    if (length > this.remaining) throw malformed("a string is cut off");
    const start = this.#at;
    this.#at += length;
    return this.#bytes.subarray(start, this.#at);
  }

  #next(): { major: number; argument: number } {
    const initial = this.#bytes[this.#at++];
    if (initial === undefined) throw malformed("the batch is cut off");
    const info = initial & 0x1f;
    const major = initial >> 5;
    if (info < 24) return { major, argument: info };
    if (info === 31 && (major === MAJOR.array || major === MAJOR.map)) return { major, argument: INDEFINITE };
    const width = 1 << (info - 24);
    if (info > 27) throw malformed(`an impossible header, at byte ${this.#at - 1}`);
    if (width > this.remaining) throw malformed("the batch is cut off");
    let argument = 0;
    for (let i = 0; i < width; i++) argument = argument * 256 + (this.#bytes[this.#at + i] as number);
    this.#at += width;
    return { major, argument };
  }
}
