import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { frameHash, rootHash } from "./frame-hash.ts";

/** Bytes of a frame's version, computed with the reference implementation of XXH3 (128 bits, seed 0). */
const VECTORS = [
  [5, "21cf72c74625396dcfb3ac40ecf51e86"],
  [16, "ba09387cfa5f8468c1959a19bdb6ad57"],
  [100, "2ce57407bb833509dcddc438c5882eb6"],
  [240, "0f5354f7daaedeebdd0e095692a567c9"],
  [241, "7e7c833fc75362cf6b79f11305d63e30"],
  [1_024, "87c2c25f29941a1df35771ec8d36f693"],
  [300_000, "6e1c31670e604a7702338ba0b532767f"],
] as const;

function patterned(length: number, version: number): Uint8Array {
  const bytes = Uint8Array.from({ length }, (_, i) => i * 31 + 2);
  bytes[4] = version;
  return bytes;
}

test("is XXH3 of 128 bits", () => {
  for (const [length, hash] of VECTORS) expect(frameHash(patterned(length, 2)), `${length} bytes`).toBe(hash);
});

test("of version 1, and of roots, is the beginning of SHA-256", () => {
  const bytes = patterned(1_000, 1);
  const sha256 = createHash("sha256").update(bytes).digest("hex").slice(0, 32);
  expect([frameHash(bytes), rootHash(bytes), rootHash(patterned(1_000, 2))]).toEqual([sha256, sha256, expect.not.stringMatching(sha256)]);
});
