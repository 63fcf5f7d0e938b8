import { assert } from "@tributary/common/assert";
import { crc32c } from "@tributary/common/checksum";
import { TributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import { bytesToHex, hexToBytes } from "@tributary/common/names";
import { FRAME_KIND, type FrameHead, type FrameKind } from "./counting.ts";
import { frameHash } from "./frame-hash.ts";
import { decodeOperations, encodeOperations, type Operation } from "./operations.ts";

/**
 * WAL frame (version 2): one record of a container's log. All integers are little-endian.
 *
 *   offset bytes
 *        0     4  "TRWF"
 *        4     1  version, 2
 *        5     1  kind: 1 operations, 2 fence (first frame of an attempt), 3 checkpoint (one `tiered` operation); 4–7 reserved
 *        6     2  zero
 *        8     4  container
 *       12     8  epoch
 *       20     4  attempt
 *       24     4  number in the attempt; the fence has 0
 *       28    16  hash of the counting frame before it; zeros before the first frame of all
 *       44     4  length of the operations header, h
 *       48     h  operations header (CBOR; see operations.ts)
 *     48+h     …  blocks, as the header lists them
 *   length-4   4  CRC32C of head and operations header
 *
 * Each block has a checksum of its own, so every byte is covered once. The checksums tell damage; what tells frames apart is their hash
 * (frame-hash.ts). Of version 1 the CRC covered the blocks as well, and the hash was another one.
 */
const MAGIC = 0x46575254; // "TRWF"
const VERSION = 2;
const VERSIONS_READ: readonly (number | undefined)[] = [1, VERSION];
const HEAD_BYTES = 48;
const CRC_BYTES = 4;
const HASH_BYTES = 16;

/** What a frame takes beside operations header and blocks. */
export const FRAME_OVERHEAD_BYTES: number = HEAD_BYTES + CRC_BYTES + 64;

export interface Frame extends FrameHead {
  readonly operations: readonly Operation[];
}

/** `allocate` gives the bytes to write it into, which may be anything. */
export function encodeFrame(
  head: FrameHead,
  operations: readonly Operation[],
  allocate: (length: number) => Uint8Array = (length) => new Uint8Array(length),
): { bytes: Uint8Array; hash: string } {
  const { header, blocks } = encodeOperations(operations);
  const bytes = allocate(HEAD_BYTES + header.length + blocks.reduce((sum, block) => sum + block.length, 0) + CRC_BYTES);
  assert(bytes.length <= LIMITS.frameBytesMax, "a frame fits its limit");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  view.setUint32(0, MAGIC, true);
  bytes[4] = VERSION;
  bytes[5] = head.kind;
  view.setUint16(6, 0, true);
  view.setUint32(8, head.container, true);
  view.setUint32(12, head.epoch % 2 ** 32, true);
  view.setUint32(16, Math.floor(head.epoch / 2 ** 32), true);
  view.setUint32(20, head.attempt, true);
  view.setUint32(24, head.number, true);
  bytes.set(hexToBytes(head.previousHash), 28);
  view.setUint32(44, header.length, true);
  bytes.set(header, HEAD_BYTES);
  let at = HEAD_BYTES + header.length;
  for (const block of blocks) {
    bytes.set(block, at);
    at += block.length;
  }
  view.setUint32(at, crc32c(bytes.subarray(0, HEAD_BYTES + header.length)), true);
  return { bytes, hash: frameHash(bytes) };
}

/** The kind that a record claims to have, its checksum not looked at; undefined if it is no frame. */
export function peekFrameKind(bytes: Uint8Array): number | undefined {
  if (bytes.length < HEAD_BYTES + CRC_BYTES) return undefined;
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) === MAGIC ? bytes[5] : undefined;
}

/** Verifies the checksum and reads the head; blocks are not looked at. @throws FRAME_CORRUPT, FORMAT_UNSUPPORTED */
export function decodeFrameHead(bytes: Uint8Array): FrameHead {
  if (bytes.length < HEAD_BYTES + CRC_BYTES || bytes.length > LIMITS.frameBytesMax) throw corrupt("impossible length");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== MAGIC) throw corrupt("not a frame");
  const crcAt = bytes.length - CRC_BYTES;
  const coveredBytes = bytes[4] === 1 ? crcAt : HEAD_BYTES + view.getUint32(44, true);
  if (coveredBytes > crcAt || view.getUint32(crcAt, true) !== crc32c(bytes.subarray(0, coveredBytes))) {
    throw corrupt("checksum does not match");
  }
  const kind = bytes[5] as FrameKind;
  if (!VERSIONS_READ.includes(bytes[4]) || !Object.values(FRAME_KIND).includes(kind)) {
    throw new TributaryError("FORMAT_UNSUPPORTED", `frame version ${bytes[4]}, kind ${bytes[5]}`);
  }
  return {
    kind,
    container: view.getUint32(8, true),
    epoch: view.getUint32(12, true) + view.getUint32(16, true) * 2 ** 32,
    attempt: view.getUint32(20, true),
    number: view.getUint32(24, true),
    previousHash: bytesToHex(bytes.subarray(28, 28 + HASH_BYTES)),
  };
}

/** The whole frame; blocks are views into `bytes`. @throws FRAME_CORRUPT, FORMAT_UNSUPPORTED */
export function decodeFrame(bytes: Uint8Array): Frame {
  const head = decodeFrameHead(bytes);
  const headerLength = new DataView(bytes.buffer, bytes.byteOffset).getUint32(44, true);
  const blocksAt = HEAD_BYTES + headerLength;
  if (blocksAt > bytes.length - CRC_BYTES) throw corrupt("operations are cut off");
  try {
    const operations = decodeOperations(bytes.subarray(HEAD_BYTES, blocksAt), bytes.subarray(blocksAt, bytes.length - CRC_BYTES));
    return { ...head, operations };
  } catch (error) {
    if (error instanceof TributaryError && error.code === "FORMAT_UNSUPPORTED") throw error;
    throw corrupt(error instanceof Error ? error.message : "malformed operations");
  }
}

function corrupt(detail: string): TributaryError {
  return new TributaryError("FRAME_CORRUPT", `WAL frame: ${detail}`);
}
