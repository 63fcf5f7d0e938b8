import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { crc32c } from "../checksum.ts";
import { fuzzBytes, fuzzValues, orCode, orMalformed } from "../testing/fuzz.ts";
import { type Block, decodeBlock, openChunk, relinkBlock } from "./block.ts";
import { decodeCbor, encodeCbor } from "./cbor.ts";
import { CODEC, pack, unpack } from "./compression.ts";
import { decodeChunk, type EventColumns, encodeChunk, payloadOf } from "./event-columns.ts";
import { sampleBlock } from "./testing/sample-block.ts";

const beside = import.meta.url;
const golden = new Uint8Array(readFileSync(new URL("golden/block-1.bin", beside)));
const sample = decodeBlock(golden);
const rawChunks = sample.chunks.map(({ codec, offset, storedBytes, rawBytes }) =>
  unpack(codec, golden.subarray(offset, offset + storedBytes), rawBytes),
);

const PREFIX_BYTES = 16;
const prefix = new DataView(golden.buffer, golden.byteOffset);
const sampleIndex = decodeCbor(
  unpack(golden[6] ?? 0, golden.subarray(PREFIX_BYTES, PREFIX_BYTES + prefix.getUint32(8, true)), prefix.getUint32(12, true)),
);

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
  const again: Block = decodeBlock(relinkBlock(block, block.slices));
  // As JSON, which does not tell −0 from 0.
  expect(JSON.stringify(again.slices)).toBe(JSON.stringify(block.slices));
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

function mend(bytes: Uint8Array): Uint8Array {
  if (bytes.length < PREFIX_BYTES + 4) return bytes;
  bytes.set([0x54, 0x52, 0x42, 0x4b, 1, 1]);
  new DataView(bytes.buffer).setUint32(bytes.length - 4, crc32c(bytes.subarray(0, -4)), true);
  return bytes;
}

it("mutated blocks are read or refused", async () => {
  await fuzzBytes({ name: "block", beside, seeds: [golden, sampleBlock()], mend, run: checkBlock });
});

it("blocks with a mutated index are read or refused", async () => {
  const chunks = Buffer.concat(rawChunks);
  await fuzzValues({
    name: "block-index",
    beside,
    seeds: [
      {
        index: {
          ...(sampleIndex as object),
          c: rawChunks.flatMap((raw, i) => [CODEC.raw, raw.length, raw.length, sample.chunks[i]?.events]),
        },
      },
    ],
    run: (value) => {
      const raw = encodeCbor((value as { index?: unknown } | null)?.index);
      // Both ways in which an index may be stored.
      for (const index of [{ codec: CODEC.raw, bytes: raw }, pack(raw)]) {
        const head = new Uint8Array(PREFIX_BYTES);
        head[6] = index.codec;
        const view = new DataView(head.buffer);
        view.setUint32(8, index.bytes.length, true);
        view.setUint32(12, raw.length, true);
        checkBlock(mend(new Uint8Array(Buffer.concat([head, index.bytes, chunks, new Uint8Array(4)]))));
      }
    },
  });
});

it("mutated chunks are read, and then written as they are read, or refused", async () => {
  await fuzzBytes({
    name: "chunk",
    beside,
    seeds: rawChunks,
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
  const index = new Uint8Array(PREFIX_BYTES);
  index[6] = bomb.codec;
  new DataView(index.buffer).setUint32(8, bomb.bytes.length, true);
  for (const claimed of [0, 4_194_304, 4_194_305, 64 * 1024 * 1024, 0xffffffff]) {
    new DataView(index.buffer).setUint32(12, claimed, true);
    const bytes = mend(new Uint8Array(Buffer.concat([index, bomb.bytes, new Uint8Array(4)])));
    expect(orCode(() => decodeBlock(bytes), "BLOCK_CORRUPT")).toBeUndefined();
  }
});
