import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { decodeBlock, openChunk, relinkBlock } from "./block.ts";
import { decodeCbor } from "./cbor.ts";
import { CODEC, unpack } from "./compression.ts";
import { describeBlock, sampleBlock } from "./testing/sample-block.ts";

const read = (name: string) => readFileSync(new URL(`golden/${name}`, import.meta.url));
const golden = new Uint8Array(read("block-1.bin"));

it("blocks of version 1 are read as they were written", () => {
  expect(describeBlock(golden)).toEqual(JSON.parse(read("block-1.json").toString()));
});

/** Compressed parts may differ between versions of zstd; what they hold may not. */
it("the encoder still writes version 1", () => {
  const now = sampleBlock();
  expect(describeBlock(now)).toEqual(describeBlock(golden));
  expect(indexOf(now)).toEqual(indexOf(golden));
  const block = decodeBlock(now);
  const before = decodeBlock(golden);
  expect(rawChunks(now)).toEqual(rawChunks(golden));
  for (const [i] of block.chunks.entries()) expect(openChunk(block, i).number).toEqual(openChunk(before, i).number);
});

it("a block that is linked anew without a change is the same bytes, its index apart", () => {
  const block = decodeBlock(golden);
  const again = relinkBlock(block, [...block.slices]);
  expect(indexOf(again)).toEqual(indexOf(golden));
  expect(describeBlock(again)).toEqual(describeBlock(golden));
});

/** What the index says, the compressed lengths of the chunks left out. */
function indexOf(bytes: Uint8Array): unknown {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const raw = unpack(bytes[6] ?? CODEC.raw, bytes.subarray(16, 16 + view.getUint32(8, true)), view.getUint32(12, true));
  const index = decodeCbor(raw) as { readonly c: readonly number[] };
  return { ...index, c: index.c.filter((_, i) => i % 4 !== 1) };
}

function rawChunks(bytes: Uint8Array): string[] {
  const block = decodeBlock(bytes);
  return block.chunks.map(({ codec, offset, storedBytes, rawBytes }) =>
    Buffer.from(unpack(codec, bytes.subarray(offset, offset + storedBytes), rawBytes)).toString("hex"),
  );
}
