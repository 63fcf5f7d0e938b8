import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { NumberSet } from "./number-set.ts";
import { type PlainRecord, StreamVerifier } from "./stream-verifier.ts";

const record = (number: number, ordinal: number, changes: Partial<PlainRecord> = {}): PlainRecord => ({
  segment: "0.0.0",
  ordinal,
  writer: "w",
  incarnation: "a",
  lane: "live",
  number,
  key: "k",
  ...changes,
});

function judge(records: readonly PlainRecord[]) {
  const verifier = new StreamVerifier();
  for (const r of records) verifier.add(r);
  return verifier.finish();
}

describe("StreamVerifier", () => {
  it("accepts a whole stream of two incarnations and two segments", () => {
    const report = judge([
      record(1, 0),
      record(2, 0, { segment: "0.0.1", key: "other" }),
      record(3, 1),
      record(1, 2, { incarnation: "b" }),
      record(2, 3, { incarnation: "b" }),
    ]);
    expect(report).toMatchObject({ events: 5, missing: 0, doubled: 0, reordered: 0, writers: 1 });
  });

  it.each([
    ["a missing number", [record(1, 0), record(3, 1)], { missing: 1 }],
    ["a missing first number", [record(2, 0)], { missing: 1 }],
    ["a missing ordinal", [record(1, 0), record(2, 2)], { missing: 1 }],
    ["a doubled number", [record(1, 0), record(1, 1)], { doubled: 1 }],
    ["a doubled ordinal", [record(1, 0), record(2, 0)], { doubled: 1 }],
    ["a reorder within a key", [record(2, 0), record(1, 1)], { reordered: 1 }],
    ["an incarnation that comes back", [record(1, 0), record(1, 1, { incarnation: "b" }), record(2, 2)], { reordered: 1 }],
  ])("finds %s", (_, records, expected) => {
    expect(judge(records)).toMatchObject(expected);
  });

  it("counts a declared gap as declared, not as missing", () => {
    const report = judge([record(1, 0), record(9, 1, { gap: { first: 2, count: 8 } }), record(10, 2)]);
    expect(report).toMatchObject({ events: 2, gapRecords: 1, eventsDeclaredLost: 8, missing: 0, doubled: 0 });
  });
});

describe("NumberSet", () => {
  it("agrees with a plain set", () => {
    const range = fc.tuple(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 0, max: 8 }));
    fc.assert(
      fc.property(fc.array(range, { maxLength: 40 }), (ranges) => {
        const numbers = new NumberSet();
        const model = new Set<number>();
        for (const [from, length] of ranges) {
          let known = 0;
          for (let n = from; n <= from + length; n++) {
            if (model.has(n)) known++;
            model.add(n);
          }
          expect(numbers.add(from, from + length)).toBe(known);
        }
        const missing = new Set(numbers.missing(1).flatMap(([from, to]) => Array.from({ length: to - from + 1 }, (_, i) => from + i)));
        const highest = Math.max(0, ...model);
        for (let n = 1; n <= highest; n++) expect(missing.has(n)).toBe(!model.has(n));
      }),
    );
  });
});
