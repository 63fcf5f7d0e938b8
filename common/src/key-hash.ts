import xxhash from "xxhash-wasm";

/**
 * Key hash: XXH32 with seed 0 over the UTF-8 bytes of the routing key. A key stands at `hash / 2^32` of the key space [0, 1).
 * Source: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md; vectors in PROTOCOL.md and key-hash.test.ts.
 */
export const KEY_SPACE: number = 2 ** 32;

const hasher = await xxhash();

export function keyHash(key: string): number {
  return hasher.h32(key, 0) >>> 0;
}

/** A range [from, to) of hashes, 0 ≤ from < to ≤ 2^32. */
export interface KeyRange {
  readonly from: number;
  readonly to: number;
}

/** Equal ranges for the first epoch of a stream with `count` segments; segment `i` owns the i-th. */
export function evenKeyRanges(count: number): KeyRange[] {
  const bound = (i: number) => Math.floor((KEY_SPACE * i) / count);
  return Array.from({ length: count }, (_, i) => ({ from: bound(i), to: bound(i + 1) }));
}

/** The index of the even range that holds the hash. */
export function evenRangeIndex(hash: number, count: number): number {
  let index = Math.min(count - 1, Math.floor((hash / KEY_SPACE) * count));
  // Floating point may miss by one at a bound.
  while (index > 0 && hash < Math.floor((KEY_SPACE * index) / count)) index--;
  while (index < count - 1 && hash >= Math.floor((KEY_SPACE * (index + 1)) / count)) index++;
  return index;
}
