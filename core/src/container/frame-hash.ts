import { createHash } from "node:crypto";
import { bytesToHex } from "@tributary/common/names";
import { createXXHash128 } from "hash-wasm";

const HASH_BYTES = 16;
/** Where a frame has its version. */
const VERSION_AT = 4;

// hash-wasm: XXH3 in WebAssembly, without dependencies or native parts; checked against the reference's vectors in its test.
const xxh128 = await createXXHash128();

/**
 * The hash of a frame: XXH3-128 of all its bytes, 16 bytes big-endian; of frames of version 1 the first 16 bytes of SHA-256.
 *
 * It tells frames apart, whatever wrote them: the owner who wrote other bytes under the same number is exactly what the chain must
 * notice, and the 32 bits of a CRC are too few for that. It need not withstand whoever looks for two frames of one hash: only owners of
 * the log write frames, and whoever can do that needs no such art. SHA-256 took an eighth of a busy container's time (measured).
 */
export function frameHash(bytes: Uint8Array): string {
  return (bytes[VERSION_AT] ?? 0) < 2 ? sha256(bytes) : xxh128.init().update(bytes).digest();
}

/** The hash of a generation's root object, which stands where that of a frame does: the first 16 bytes of SHA-256. */
export function rootHash(bytes: Uint8Array): string {
  return sha256(bytes);
}

function sha256(bytes: Uint8Array): string {
  return bytesToHex(createHash("sha256").update(bytes).digest().subarray(0, HASH_BYTES));
}
