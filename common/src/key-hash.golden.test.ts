import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, it } from "vitest";
import { evenKeyRanges, evenRangeIndex, KEY_SPACE, keyHash } from "./key-hash.ts";

/** Computed by the reference implementation in C (xxhash of PyPI, version 3). Never to be changed: keys would move to other segments. */
const VECTORS: readonly { readonly key: string; readonly hash: number }[] = JSON.parse(
  readFileSync(new URL("golden/key-hash.json", import.meta.url), "utf8"),
);

it.each(VECTORS)("key $key hashes to $hash", ({ key, hash }) => {
  expect(keyHash(key)).toBe(hash);
});

it("even ranges cover the key space once, and every hash lies in the range of its index", () => {
  const hash = fc.oneof(fc.integer({ min: 0, max: KEY_SPACE - 1 }), fc.constantFrom(0, KEY_SPACE - 1));
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1024 }), hash, fc.nat(1024), (count, anywhere, at) => {
      const ranges = evenKeyRanges(count);
      expect([ranges[0]?.from, ranges.at(-1)?.to]).toEqual([0, KEY_SPACE]);
      ranges.forEach((range, i) => {
        expect(range.from).toBeLessThan(range.to);
        expect(range.from).toBe(i === 0 ? 0 : ranges[i - 1]?.to);
      });
      const bound = ranges[at % count]?.from ?? 0;
      for (const given of [anywhere, bound, Math.max(0, bound - 1)]) {
        const range = ranges[evenRangeIndex(given, count)];
        expect(range !== undefined && range.from <= given && given < range.to).toBe(true);
      }
    }),
  );
});
