import { describe, expect, it } from "vitest";
import { checkKeySpace } from "./key-space.ts";

const END = 2 ** 32;

function judge(...bounds: [number, number][]): string[] {
  const found: string[] = [];
  checkKeySpace(
    "s",
    bounds.map(([from, to]) => ({ range: { from, to } })),
    (invariant, kind) => found.push(`${invariant} ${kind}`),
  );
  return found;
}

describe("checkKeySpace", () => {
  it("accepts ranges that cover it once, in any order", () => {
    expect(judge([0, END])).toEqual([]);
    expect(judge([7, END], [0, 7])).toEqual([]);
  });

  it.each<[string, [number, number][]]>([
    [
      "a hole",
      [
        [0, 7],
        [8, END],
      ],
    ],
    [
      "an overlap",
      [
        [0, 8],
        [7, END],
      ],
    ],
    ["a begin above 0", [[1, END]]],
    ["an end below 1", [[0, END - 1]]],
    ["no segment", []],
  ])("finds %s", (_, bounds) => {
    expect(judge(...bounds)).toContain("4 key space");
  });
});
