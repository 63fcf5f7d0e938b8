import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { fuzzBytes, fuzzValues, orCode, orMalformed } from "../testing/fuzz.ts";
import { type Block, decodeBlock, openChunk, relinkBlock } from "./block.ts";
import { CODEC, pack, unpack } from "./compression.ts";
import { decodeChunk, type EventColumns, encodeChunk, payloadOf } from "./event-columns.ts";
import { mendBlock, putTogether, sampleBlock, takeApart } from "./testing/sample-block.ts";

const beside = import.meta.url;
const golden = new Uint8Array(readFileSync(new URL("golden/block-1.bin", beside)));
const parts = takeApart(golden);

function checkBlock(bytes: Uint8Array): void {
  const block = orCode(() => decodeBlock(bytes), "BLOCK_CORRUPT", "FORMAT_UNSUPPORTED");
  if (!block) return;
  for (const slice of block.slices) {
    const { previous, first, last, count, timeMinMs, timeMaxMs, segment } = slice;
    const numbers = [previous, first, last, count, timeMinMs, timeMaxMs, segment.generation, segment.epoch, segment.number];
    expect(numbers.every(Number.isSafeInteger), `numbers ${numbers}`).toBe(true);
    expect(previous < first && first <= last && count <= last - first + 1 && timeMinMs <= timeMaxMs).toBe(true);
    if (slice.kind === "events") expect(Number.isInteger(slice.lastHash) && slice.lastHash < 2 ** 32).toBe(true);
  }
  for (const i of block.chunks.keys()) checkColumns(orCode(() => openChunk(block, i), "BLOCK_CORRUPT"));
  const again: Block = decodeBlock(relinkBlock(block, [...block.slices]));
  // As JSON, which does not tell −0 from 0.
  expect(JSON.stringify([...again.slices])).toBe(JSON.stringify([...block.slices]));
}

function checkColumns(columns: EventColumns | undefined): void {
  if (!columns) return;
  let bytes = 0;
  for (let row = 0; row < columns.count; row++) {
    const payload = payloadOf(columns, row);
    bytes += payload.length;
    expect(columns.keys[columns.keyIndex[row] as number]).toBeTypeOf("string");
    expect(Number.isSafeInteger(columns.timeMs[row]) && Number.isSafeInteger(columns.number[row])).toBe(true);
  }
  expect(bytes).toBeLessThanOrEqual(columns.payload.length);
}

it("mutated blocks are read or refused", async () => {
  await fuzzBytes({ name: "block", beside, seeds: [golden, sampleBlock()], mend: mendBlock, run: checkBlock });
});

it("blocks with a mutated index are read or refused", async () => {
  await fuzzValues({
    name: "block-index",
    beside,
    seeds: [{ index: parts.index }],
    run: (value) => {
      const index = (value as { index?: unknown } | null)?.index;
      // Both ways in which an index may be stored.
      checkBlock(putTogether({ index, chunks: parts.chunks }, (bytes) => ({ codec: CODEC.raw, bytes })));
      checkBlock(putTogether({ index, chunks: parts.chunks }, pack));
    },
  });
});

it("mutated chunks are read, and then written as they are read, or refused", async () => {
  await fuzzBytes({
    name: "chunk",
    beside,
    seeds: parts.chunks,
    run: (raw) => {
      for (const count of [1, 4, 5, 2 ** 31]) {
        const columns = orMalformed(() => decodeChunk(raw, count));
        checkColumns(columns);
        if (!columns) continue;
        const order = Uint32Array.from({ length: columns.count }, (_, i) => i);
        const again = decodeChunk(Uint8Array.from(encodeChunk(columns, order)), columns.count);
        for (let row = 0; row < columns.count; row++) {
          expect(payloadOf(again, row)).toEqual(payloadOf(columns, row));
          expect([again.timeMs[row], again.number[row]]).toEqual([columns.timeMs[row], columns.number[row]]);
        }
      }
    },
  });
});

it("what claims to become larger than it may is refused before it is unpacked", () => {
  const bomb = pack(new Uint8Array(64 * 1024 * 1024));
  expect(bomb.bytes.length).toBeLessThan(10_000);
  for (const claimed of [0, 1, 4096]) expect(orMalformed(() => unpack(bomb.codec, bomb.bytes, claimed))).toBeUndefined();
  for (const claimed of [0, 4_194_304, 4_194_305, 64 * 1024 * 1024, 0xffffffff]) {
    const bytes = putTogether(parts, () => bomb);
    new DataView(bytes.buffer).setUint32(12, claimed, true);
    expect(orCode(() => decodeBlock(mendBlock(bytes)), "BLOCK_CORRUPT")).toBeUndefined();
  }
});
