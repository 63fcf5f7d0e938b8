import { constants, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { MalformedBytes } from "./varint.ts";

/** Codec numbers are persisted: never change or reuse one. */
export const CODEC = { raw: 0, zstd: 1 } as const;

const ZSTD_OPTIONS = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };
/** Below this many bytes a zstd frame costs more than it saves. */
const COMPRESS_BYTES_MIN = 96;

export interface Packed {
  readonly codec: number;
  readonly bytes: Uint8Array;
}

/** One zstd level-1 frame, or the bytes as they are where that is not smaller. */
export function pack(raw: Uint8Array): Packed {
  if (raw.length >= COMPRESS_BYTES_MIN) {
    const bytes = zstdCompressSync(raw, ZSTD_OPTIONS);
    if (bytes.length < raw.length) return { codec: CODEC.zstd, bytes };
  }
  return { codec: CODEC.raw, bytes: raw };
}

/** The inverse of pack. Never yields more than `rawLength` bytes. @throws MalformedBytes */
export function unpack(codec: number, stored: Uint8Array, rawLength: number): Uint8Array {
  if (codec === CODEC.raw) {
    if (stored.length !== rawLength) throw new MalformedBytes("a raw chunk has another length than its index says");
    return stored;
  }
  if (codec !== CODEC.zstd) throw new MalformedBytes(`codec ${codec} is unknown`);
  let raw: Uint8Array;
  try {
    raw = zstdDecompressSync(stored, { maxOutputLength: Math.max(1, rawLength) });
  } catch (error) {
    throw new MalformedBytes("a chunk cannot be decompressed", { cause: error });
  }
  if (raw.length !== rawLength) throw new MalformedBytes("a chunk has another length than its index says");
  return raw;
}
