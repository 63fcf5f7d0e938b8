import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { NumberSet } from "./number-set.ts";
import { Places } from "./places.ts";
import { isClean, type PlainRecord, StreamVerifier, type VerifierOptions } from "./stream-verifier.ts";

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

function judge(records: readonly PlainRecord[], options: VerifierOptions = {}) {
  const verifier = new StreamVerifier(options);
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
    ["a reorder within a key across segments", [record(2, 0, { segment: "0.0.1" }), record(1, 0)], { reordered: 1, otherwiseWrong: 0 }],
    ["numbers that fall within a segment", [record(2, 0, { key: "a" }), record(1, 1, { key: "b" })], { reordered: 0, otherwiseWrong: 1 }],
    ["a gap record of what is there", [record(1, 0), record(2, 1), record(4, 2, { gap: { first: 2, count: 2 } })], { otherwiseWrong: 1 }],
    ["what is declared lost before", [record(2, 0, { gap: { first: 1, count: 2 } }), record(2, 1)], { otherwiseWrong: 1 }],
    ["a gap record of more than its numbers", [record(4, 0, { gap: { first: 1, count: 5 } })], { otherwiseWrong: 1 }],
    ["a gap record of nothing", [record(4, 0, { gap: { first: 1, count: 0 } })], { otherwiseWrong: 1 }],
    ["an incarnation that comes back", [record(1, 0), record(1, 1, { incarnation: "b" }), record(2, 2)], { reordered: 1 }],
  ])("finds %s", (_, records, expected) => {
    expect(judge(records)).toMatchObject(expected);
  });

  it("lets incarnations write side by side only where logs were copied, and judges each by itself", () => {
    const sideBySide = [record(1, 0), record(1, 1, { incarnation: "b" }), record(2, 2), record(2, 3, { incarnation: "b" })];
    expect(isClean(judge(sideBySide))).toBe(false);
    expect(isClean(judge(sideBySide, { branched: true }))).toBe(true);
    const reordered = [record(2, 0), record(1, 0, { incarnation: "b", segment: "0.0.1" }), record(1, 1, { segment: "0.0.1" })];
    expect(judge(reordered, { branched: true })).toMatchObject({ reordered: 1 });
  });

  it("finds a place that another reader saw with other bytes, and nothing else in it", () => {
    const places = new Places();
    judge([record(1, 0, { digest: 7 }), record(2, 1, { digest: 8 })], { places });
    expect(isClean(judge([record(1, 0, { digest: 7 }), record(2, 1, { digest: 8 })], { places }))).toBe(true);
    const { violations, otherwiseWrong } = judge([record(1, 0, { digest: 7 }), record(2, 1, { digest: 9 })], { places });
    expect(otherwiseWrong).toBe(1);
    expect(violations).toMatchObject([{ invariant: 3, kind: "changed" }]);
    // The same bytes, but under another take-over.
    expect(isClean(judge([record(1, 0, { digest: 7, nonce: "n" })], { places }))).toBe(false);
  });

  it("finds a read that ends early", () => {
    const verifier = new StreamVerifier();
    verifier.add(record(1, 0));
    verifier.expectRecords(1);
    expect(isClean(verifier.finish())).toBe(true);
    verifier.expectRecords(3);
    expect(verifier.finish()).toMatchObject({ otherwiseWrong: 2 });
  });

  it("takes only as many missing numbers for explained as are", () => {
    const verifier = new StreamVerifier();
    for (const r of [record(1, 0), record(6, 1)]) verifier.add(r);
    const { missing } = verifier.finish(1, (run, from, to) => {
      expect([run, from, to]).toEqual(["w/a/live", 2, 5]);
      return 3;
    });
    expect(missing).toBe(1);
  });

  it("takes events for no doubles of a gap record in another segment, whichever is read first (seed 806)", () => {
    const gap = record(4, 0, { segment: "0.0.1", gap: { first: 2, count: 2 } });
    const events = [record(1, 0), record(3, 1)];
    expect(isClean(judge([...events, gap]))).toBe(true);
    expect(isClean(judge([gap, ...events]))).toBe(true);
    expect(judge([gap, ...events, record(3, 1, { segment: "0.0.1" })])).toMatchObject({ doubled: 1 });
  });

  it("counts a declared gap as declared, not as missing", () => {
    const report = judge([record(1, 0), record(9, 1, { gap: { first: 2, count: 8 } }), record(10, 2)]);
    expect(report).toMatchObject({ events: 2, gapRecords: 1, eventsDeclaredLost: 8, missing: 0, doubled: 0 });
  });
});

describe("Places", () => {
  it("agrees with a plain map", () => {
    const read = fc.tuple(fc.constantFrom("a", "b"), fc.oneof(fc.nat(3), fc.nat(20_000)), fc.constantFrom(0, 1, 2, 2 ** 32 - 1));
    fc.assert(
      fc.property(fc.array(read, { maxLength: 60 }), (reads) => {
        const places = new Places();
        const model = new Map<string, number>();
        for (const [segment, ordinal, digest] of reads) {
          const place = `${segment} ${ordinal}`;
          // 0 and 1 are not told apart.
          const now = digest || 1;
          const before = model.get(place) ?? now;
          expect(places.isSame(segment, ordinal, digest)).toBe(before === now);
          model.set(place, before);
        }
        expect(places.count).toBe(model.size);
      }),
    );
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
