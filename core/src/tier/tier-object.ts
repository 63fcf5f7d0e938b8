import { crc32c } from "@tributary/common/checksum";
import { TributaryError } from "@tributary/common/errors";
import { decodeCbor } from "@tributary/common/format/cbor";
import { pack, unpack } from "@tributary/common/format/compression";
import { joined } from "@tributary/common/object-data";

/**
 * Tier object (version 1): the envelope of all objects. All integers are little-endian.
 *
 *   Object => "TROB" version:u8 kind:u8 0:u16 body footer trailer
 *     body    => blocks as they are, one after another (kind 1); nothing (other kinds)
 *     footer  => CBOR, packed with `codec`; tier-footer.ts (kind 1), snapshot.ts (kind 2), root-object.ts (kind 4), claim.ts (kind 5)
 *     trailer => storedLength:u32 rawLength:u32 version:u8 kind:u8 codec:u8 0:u8 crc32c:u32 "TROE"
 *
 * The CRC32C covers the footer and the twelve bytes of the trailer before it; each block has its own. So the end of an object
 * can be read and trusted alone.
 */
const HEAD_MAGIC = 0x424f5254; // "TROB"
const END_MAGIC = 0x454f5254; // "TROE"
const VERSION = 1;
export const OBJECT_HEAD_BYTES = 8;
export const TRAILER_BYTES = 20;

/** Persisted. 3 is reserved for per-segment objects of compaction. */
export const OBJECT_KIND = { blocks: 1, snapshot: 2, root: 4, claim: 5 } as const;
type ObjectKindNumber = (typeof OBJECT_KIND)[keyof typeof OBJECT_KIND];

/** Guards against a damaged length, not a promise: a footer of this size would be of millions of streams. */
const FOOTER_RAW_BYTES_MAX = 1 << 30;

/** `body` is not copied. `footer`: CBOR. */
export function encodeObject(
  kind: ObjectKindNumber,
  body: readonly Uint8Array[],
  footer: Uint8Array,
): { parts: readonly Uint8Array[]; footerBytes: number } {
  const packed = pack(footer);
  const head = new Uint8Array(OBJECT_HEAD_BYTES);
  new DataView(head.buffer).setUint32(0, HEAD_MAGIC, true);
  head[4] = VERSION;
  head[5] = kind;
  const end = new Uint8Array(packed.bytes.length + TRAILER_BYTES);
  const view = new DataView(end.buffer);
  end.set(packed.bytes);
  const at = packed.bytes.length;
  view.setUint32(at, packed.bytes.length, true);
  view.setUint32(at + 4, footer.length, true);
  end[at + 8] = VERSION;
  end[at + 9] = kind;
  end[at + 10] = packed.codec;
  view.setUint32(at + 12, crc32c(end.subarray(0, at + 12)), true);
  view.setUint32(at + 16, END_MAGIC, true);
  return { parts: [head, ...body, end], footerBytes: end.length };
}

/** An object that is all footer. */
export function encodeFooterOnly(kind: ObjectKindNumber, footer: Uint8Array): { bytes: Uint8Array; footerBytes: number } {
  const { parts, footerBytes } = encodeObject(kind, [], footer);
  return { bytes: joined(parts), footerBytes };
}

/** Bytes of footer and trailer, by the trailer alone; undefined if it is none. */
export function footerBytesOf(trailer: Uint8Array): number | undefined {
  const view = new DataView(trailer.buffer, trailer.byteOffset, trailer.byteLength);
  if (trailer.length !== TRAILER_BYTES || view.getUint32(TRAILER_BYTES - 4, true) !== END_MAGIC) return undefined;
  return view.getUint32(0, true) + TRAILER_BYTES;
}

/** Reads the footer from the end of an object. `name` is for the error. @throws STORE_CORRUPT, FORMAT_UNSUPPORTED */
export function decodeFooter(name: string, kind: ObjectKindNumber, end: Uint8Array): unknown {
  const corrupt = (detail: string, cause?: unknown) =>
    new TributaryError("STORE_CORRUPT", `object ${name}: ${detail}`, { object: name }, { cause });
  if (end.length < TRAILER_BYTES) throw corrupt("it is too short");
  const view = new DataView(end.buffer, end.byteOffset, end.byteLength);
  const at = end.length - TRAILER_BYTES;
  if (view.getUint32(at + 16, true) !== END_MAGIC) throw corrupt("it does not end like an object of the tier");
  const footerAt = at - view.getUint32(at, true);
  if (footerAt < 0) throw corrupt("its footer is cut off");
  if (view.getUint32(at + 12, true) !== crc32c(end.subarray(footerAt, at + 12))) throw corrupt("the checksum of its footer does not match");
  if (end[at + 8] !== VERSION || end[at + 9] !== kind) {
    throw new TributaryError("FORMAT_UNSUPPORTED", `object ${name}: version ${end[at + 8]}, kind ${end[at + 9]}`, { object: name });
  }
  const rawLength = view.getUint32(at + 4, true);
  if (rawLength > FOOTER_RAW_BYTES_MAX) throw corrupt("its footer claims an impossible size");
  try {
    return decodeCbor(unpack(end[at + 10] ?? 0, end.subarray(footerAt, at), rawLength));
  } catch (error) {
    throw corrupt("its footer is malformed", error);
  }
}
