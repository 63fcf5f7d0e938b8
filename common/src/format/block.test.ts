import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { hasCode } from "../errors.ts";
import { type Block, decodeBlock, encodeBlock, type GapSlice, openChunk, type SliceInput } from "./block.ts";
import { pack } from "./compression.ts";
import { type EventColumns, payloadOf } from "./event-columns.ts";
import { putTogether, takeApart } from "./testing/sample-block.ts";

const WRITER = { writer: "0123456789abcdef0123456789abcdef", incarnation: "00112233aabbccdd", lane: "live" } as const;
const STREAM = "feedfacefeedfacefeedfacefeedface";
const SEGMENT = { generation: 0, epoch: 0, number: 0 };

interface Sample {
  slice: number;
  key: string;
  timeMs: number;
  data: Uint8Array;
}

function build(samples: readonly Sample[], sliceCount: number): { columns: EventColumns; inputs: SliceInput[] } {
  const keys = [...new Set(samples.map((s) => s.key))];
  const payload = Buffer.concat(samples.map((s) => s.data));
  const starts = new Uint32Array(samples.length);
  const ends = new Uint32Array(samples.length);
  let at = 0;
  samples.forEach((s, i) => {
    starts[i] = at;
    at += s.data.length;
    ends[i] = at;
  });
  const columns: EventColumns = {
    count: samples.length,
    keys,
    keyIndex: Uint32Array.from(samples, (s) => keys.indexOf(s.key)),
    timeMs: Float64Array.from(samples, (s) => s.timeMs),
    number: Float64Array.from(samples, (_, i) => i * 3 + 5),
    starts,
    ends,
    payload,
  };
  const inputs: SliceInput[] = [];
  for (let s = 0; s < sliceCount; s++) {
    const rows = Uint32Array.from(samples.flatMap((sample, i) => (sample.slice === s ? [i] : [])));
    if (rows.length > 0) inputs.push({ kind: "events", streamId: STREAM, segment: { ...SEGMENT, number: s }, previous: 4, rows });
  }
  return { columns, inputs };
}

function readBack(block: Block): Sample[] {
  return [...block.slices].flatMap((slice) => {
    if (slice.kind === "gap") return [];
    const events = openChunk(block, slice.chunk);
    return Array.from({ length: slice.count }, (_, i) => {
      const row = slice.start + i;
      return {
        slice: slice.segment.number,
        key: events.keys[events.keyIndex[row] as number] as string,
        timeMs: events.timeMs[row] as number,
        data: Uint8Array.from(payloadOf(events, row)),
      };
    });
  });
}

const sample = fc.record({
  slice: fc.integer({ min: 0, max: 3 }),
  key: fc.string({ maxLength: 20, unit: "binary" }),
  timeMs: fc.integer({ min: -(2 ** 45), max: 2 ** 45 }),
  data: fc.uint8Array({ maxLength: 300 }),
});

describe("block", () => {
  it("gives back what was put in, slice by slice", () => {
    fc.assert(
      fc.property(fc.array(sample, { minLength: 1, maxLength: 60 }), (samples) => {
        const { columns, inputs } = build(samples, 4);
        const block = decodeBlock(encodeBlock(WRITER, columns, inputs));
        const expected = [0, 1, 2, 3].flatMap((s) => samples.filter((x) => x.slice === s));
        expect(readBack(block)).toEqual(expected);
        expect(block).toMatchObject(WRITER);
      }),
    );
  });

  it("carries gap records and parents", () => {
    const gap: GapSlice = {
      kind: "gap",
      streamId: STREAM,
      segment: { generation: 1, epoch: 2, number: 3 },
      previous: 10,
      first: 11,
      last: 2 ** 40,
      count: 7,
      reason: "quota",
      timeMinMs: 1,
      timeMaxMs: 99,
      parent: { incarnation: "ffeeddccbbaa9988", last: 77 },
    };
    const { columns } = build([], 0);
    expect([...decodeBlock(encodeBlock(WRITER, columns, [gap])).slices]).toEqual([gap]);
  });

  it("refuses every single flipped bit and every truncation", () => {
    const { columns, inputs } = build([{ slice: 0, key: "k", timeMs: 1, data: new Uint8Array(40).fill(65) }], 1);
    const bytes = encodeBlock(WRITER, columns, inputs);
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const damaged = Uint8Array.from(bytes);
      damaged[bit >> 3] = (damaged[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(() => decodeBlock(damaged)).toThrow();
    }
    for (let length = 0; length < bytes.length; length++) expect(() => decodeBlock(bytes.subarray(0, length))).toThrow();
  });

  it("refuses an index that holds more than its slices need", () => {
    const { columns, inputs } = build([{ slice: 0, key: "k", timeMs: 1, data: new Uint8Array(40).fill(65) }], 1);
    const parts = takeApart(encodeBlock(WRITER, columns, inputs));
    const index = parts.index as { s: Uint8Array; x: Record<string, number[]>; a: unknown[]; c: number[] };
    const decodeWith = (change: object) => () => decodeBlock(putTogether({ ...parts, index: { ...index, ...change } }, pack));
    expect(decodeWith({})().slices.length).toBe(1);
    for (const name of Object.keys(index.x)) {
      expect(decodeWith({ x: { ...index.x, [name]: [...(index.x[name] as number[]), 0] } })).toThrow("block");
      expect(decodeWith({ x: { ...index.x, [name]: [] } })).toThrow("block");
      expect(decodeWith({ x: { ...index.x, [name]: ["7"] } })).toThrow("block");
      expect(decodeWith({ x: { ...index.x, [name]: undefined } })).toThrow("block");
    }
    expect(decodeWith({ s: new Uint8Array(32) })).toThrow("one a slice");
    const parent = [0, new Uint8Array(8), 1];
    expect(decodeWith({ a: [parent] })().slices.at(0)?.parent?.last).toBe(1);
    expect(decodeWith({ a: [parent, parent] })).toThrow("one a slice");
    expect(decodeWith({ c: [0, 0, 0, 0, ...index.c] })).toThrow("one a slice");
  });

  it("answers garbage with BLOCK_CORRUPT", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (garbage) => {
        try {
          decodeBlock(garbage);
          return false;
        } catch (error) {
          return hasCode(error, "BLOCK_CORRUPT", "FORMAT_UNSUPPORTED");
        }
      }),
    );
  });
});
