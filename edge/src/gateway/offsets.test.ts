import fc from "fast-check";
import { expect, test } from "vitest";
import { branchOf, formatOffset, parseOffset } from "./offsets.ts";

const A = "a".repeat(32);
const B = "b".repeat(32);
const ordinal = fc.integer({ min: 0, max: 1e15 });
const at = (ordinal: number, incarnation = "c".repeat(16)) => ({ ordinal, branch: branchOf(incarnation) });
const code = (expected: string) => expect.objectContaining({ code: expected });

test("an offset reads back, sorts as its ordinal and keeps to the protocol's characters", () => {
  fc.assert(
    fc.property(ordinal, ordinal, (one, other) => {
      const [x, y] = [formatOffset(at(one), A, B), formatOffset(at(other), A, B)];
      expect(parseOffset(x, A, B)).toEqual(at(one));
      expect(Math.sign(x < y ? -1 : x > y ? 1 : 0)).toBe(Math.sign(one - other));
      expect(x).toMatch(/^[^,&=?/]{1,255}$/);
    }),
  );
});

test("the pinned form", () => {
  expect(formatOffset(at(42, "89abcdef01234567"), "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210")).toBe(
    "g2_0000000000000042_01234567fedcba98_89abcdef",
  );
  expect(formatOffset({ ordinal: 0, branch: branchOf(undefined) }, A, B)).toBe("g2_0000000000000000_aaaaaaaabbbbbbbb_00000000");
});

test("the two words", () => {
  expect(parseOffset("-1", A, B)).toEqual({ ordinal: 0, branch: "00000000" });
  expect(parseOffset("now", A, B)).toBe("now");
});

test("offsets of other streams, gateways and servers are told apart from rubbish", () => {
  expect(() => parseOffset(formatOffset(at(1), B, B), A, B)).toThrowError(code("OFFSET_FOREIGN"));
  expect(() => parseOffset(formatOffset(at(1), A, A), A, B)).toThrowError(code("OFFSET_FOREIGN"));
  expect(() => parseOffset("g1_0000000000000001_aaaaaaaabbbbbbbb", A, B)).toThrowError(code("OFFSET_FOREIGN"));
  expect(() => parseOffset("c1_0000000000000001_aaaaaaaa", A, B)).toThrowError(code("OFFSET_FOREIGN"));
  for (const rubbish of ["", "0", "g1", "-2", "NOW", "g1-1", "../x"]) {
    expect(() => parseOffset(rubbish, A, B)).toThrowError(code("OFFSET_INVALID"));
  }
});
