import { crc32c } from "@tributary/common/checksum";
import { TributaryError } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { pack, unpack } from "@tributary/common/format/compression";

/**
 * Record of the edge log (version 1): what one entry of the `Log` holds.
 *
 *   Record => "TREL" version:u8 kind:u8 codec:u8 0:u8 seq:u64 checkpoint:u64 storedLength:u32 rawLength:u32 meta body crc32c:u32
 *
 * All integers are little-endian; the CRC32C covers everything before it. `seq` is the record's own sequence in the log, so that
 * a record in a wrong place is noticed. `checkpoint` is the sequence of the newest checkpoint before this record, 0 if there is
 * none: recovery finds it from the end without reading what lies between. `meta` is CBOR, packed with `codec`; `body` depends on
 * the kind and ends where the checksum begins.
 *
 *   commit       meta: see commit-record.ts       body: its blocks, one behind the other
 *   incarnation  meta: see incarnation-record.ts  body: empty
 *   checkpoint   meta: see checkpoint-record.ts   body: the ordinals of the streams
 *
 * Golden files: golden/*.bin.
 */
const MAGIC = 0x4c455254; // "TREL"
const VERSION = 1;
const PREFIX_BYTES = 32;
const CRC_BYTES = 4;
/** A record's meta when unpacked: a checkpoint with its whole state is the largest. */
const META_BYTES_MAX = 512 * 1024 * 1024;

/** Persisted. 4 to 6 are reserved for transactions. */
export const RECORD_KIND = { commit: 1, incarnation: 2, checkpoint: 3 } as const;
export type RecordKind = (typeof RECORD_KIND)[keyof typeof RECORD_KIND];

export interface RawRecord {
  readonly kind: RecordKind;
  readonly seq: number;
  readonly checkpoint: number;
  readonly body: Uint8Array;
  /** Unpacks and decodes the meta. @throws STORE_CORRUPT */
  meta(): unknown;
}

export interface EncodedRecord {
  readonly bytes: Uint8Array;
  /** Bytes of the meta before compression. */
  readonly metaRawBytes: number;
}

export function encodeRecord(kind: RecordKind, seq: number, checkpoint: number, meta: unknown, body: readonly Uint8Array[]): EncodedRecord {
  const raw = encodeCbor(meta);
  const packed = pack(raw);
  let bodyBytes = 0;
  for (const part of body) bodyBytes += part.length;
  const bytes = new Uint8Array(PREFIX_BYTES + packed.bytes.length + bodyBytes + CRC_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  bytes[4] = VERSION;
  bytes[5] = kind;
  bytes[6] = packed.codec;
  setU64(view, 8, seq);
  setU64(view, 16, checkpoint);
  view.setUint32(24, packed.bytes.length, true);
  view.setUint32(28, raw.length, true);
  bytes.set(packed.bytes, PREFIX_BYTES);
  let at = PREFIX_BYTES + packed.bytes.length;
  for (const part of body) {
    bytes.set(part, at);
    at += part.length;
  }
  view.setUint32(at, crc32c(bytes.subarray(0, at)), true);
  return { bytes, metaRawBytes: raw.length };
}

/** Verifies the checksum and that the record stands where it says. @throws STORE_CORRUPT, FORMAT_UNSUPPORTED */
export function decodeRecord(bytes: Uint8Array, expectedSeq: number): RawRecord {
  if (bytes.length < PREFIX_BYTES + CRC_BYTES) throw corrupt(expectedSeq, "too short");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== MAGIC) throw corrupt(expectedSeq, "not a record");
  const crcAt = bytes.length - CRC_BYTES;
  if (view.getUint32(crcAt, true) !== crc32c(bytes.subarray(0, crcAt))) throw corrupt(expectedSeq, "checksum does not match");
  const kind = bytes[5] as RecordKind;
  if (bytes[4] !== VERSION || kind < RECORD_KIND.commit || kind > RECORD_KIND.checkpoint) {
    throw new TributaryError("FORMAT_UNSUPPORTED", `edge log record of version ${bytes[4]}, kind ${kind}`);
  }
  const seq = getU64(view, 8);
  if (seq !== expectedSeq) throw corrupt(expectedSeq, `it is record ${seq}`);
  const checkpoint = getU64(view, 16);
  // Recovery follows it backwards: forwards it would go round in circles.
  if (checkpoint >= seq) throw corrupt(seq, `it names ${checkpoint} as the checkpoint before it`);
  const storedLength = view.getUint32(24, true);
  const rawLength = view.getUint32(28, true);
  const bodyAt = PREFIX_BYTES + storedLength;
  if (bodyAt > crcAt || rawLength > META_BYTES_MAX) throw corrupt(seq, "its meta is longer than the record");
  return {
    kind,
    seq,
    checkpoint,
    body: bytes.subarray(bodyAt, crcAt),
    meta() {
      try {
        return decodeCbor(unpack(bytes[6] as number, bytes.subarray(PREFIX_BYTES, bodyAt), rawLength));
      } catch (error) {
        throw corrupt(seq, error instanceof Error ? error.message : "malformed meta");
      }
    },
  };
}

export function corrupt(seq: number, detail: string): TributaryError {
  return new TributaryError("STORE_CORRUPT", `edge log record ${seq}: ${detail}`, { seq });
}

function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

function getU64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}
