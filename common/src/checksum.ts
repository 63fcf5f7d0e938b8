import { crc32c as nativeCrc32c } from "@node-rs/crc32";

/** CRC32C (Castagnoli), as an unsigned 32-bit number. @node-rs/crc32: native, prebuilt, runs on Node, Bun and Deno. */
export function crc32c(bytes: Uint8Array, initial = 0): number {
  return nativeCrc32c(bytes as Buffer, initial) >>> 0;
}
