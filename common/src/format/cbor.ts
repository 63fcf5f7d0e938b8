import { Decoder, Encoder } from "cbor-x";
import { assert } from "../assert.ts";
import { MalformedBytes } from "./varint.ts";

// Plain CBOR (RFC 8949): no record extension, byte strings without a tag, maps as objects.
const encoder = new Encoder({ useRecords: false, tagUint8Array: false, mapsAsObjects: true, variableMapSize: true });
const decoder = new Decoder({ useRecords: false, mapsAsObjects: true });

export function encodeCbor(value: unknown): Uint8Array {
  // cbor-x hands out views of a shared buffer: copy before anything else can be encoded.
  return Uint8Array.from(encoder.encode(value));
}

/** Takes a millisecond or so. */
const STEP_BYTES = 65_536;

/**
 * A map as encodeCbor gives it. A step ends between its values, or those of the maps right below it, once they come to so many bytes:
 * so the work can be spread over turns of the event loop.
 */
export function* encodeCborMap(map: Readonly<Record<string, unknown>>, depth = 1, step = { bytes: 0 }): Generator<void, Uint8Array> {
  const entries = Object.entries(map);
  assert(entries.length < 24, "a map of a format has few names");
  const parts: Uint8Array[] = [Uint8Array.of(0xa0 | entries.length)];
  for (const [name, value] of entries) {
    const isMap = depth > 0 && typeof value === "object" && value?.constructor === Object;
    const bytes = isMap ? yield* encodeCborMap(value as Record<string, unknown>, depth - 1, step) : encodeCbor(value);
    parts.push(encodeCbor(name), bytes);
    if (!isMap) step.bytes += bytes.length;
    if (step.bytes >= STEP_BYTES) {
      step.bytes = 0;
      yield;
    }
  }
  return Buffer.concat(parts);
}

/** @throws MalformedBytes, or whatever cbor-x throws for malformed input; callers wrap it in their own code */
export function decodeCbor(bytes: Uint8Array): unknown {
  refuseTags(bytes);
  return decoder.decode(bytes);
}

/**
 * No format of Tributary has a tag, and cbor-x carries out every tag that it knows: a big number of 1 MiB costs it minutes (its
 * time is quadratic), others build dates, regular expressions, cycles or compiled readers out of what a stranger sent. So the
 * headers are walked through first. What else is wrong with them is left to cbor-x.
 */
function refuseTags(bytes: Uint8Array): void {
  const end = bytes.length;
  for (let at = 0; at < end; ) {
    const first = bytes[at++] as number;
    const major = first >> 5;
    if (major === 6) throw new MalformedBytes("CBOR: a tag, where none belongs");
    const info = first & 0x1f;
    // Numbers, lists and maps end with their header; their items have headers of their own. 31: a length that comes as a break.
    const width = info < 24 || info > 27 ? 0 : 1 << (info - 24);
    let length = info;
    if (width > 0) {
      length = 0;
      for (let i = 0; i < width; i++) length = length * 256 + (bytes[at + i] ?? 0);
      at += width;
    }
    if ((major === 2 || major === 3) && info < 28) at += length;
  }
}
