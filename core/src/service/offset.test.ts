import { hasCode } from "@tributary/common/errors";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { formatOffset, parseOffset } from "./offset.ts";

const chain = fc.maxSafeNat();
const streamId = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes).toString("hex"));

describe("offsets of the core", () => {
  test("come back as they were, are short and fit into a URL as they are", () => {
    fc.assert(
      fc.property(streamId, chain, (id, n) => {
        const offset = formatOffset(id, n);
        expect(parseOffset(id, offset)).toBe(n);
        expect(offset).toMatch(/^[A-Za-z0-9_]{1,255}$/);
      }),
    );
  });

  test("sort as their ordinals do", () => {
    fc.assert(fc.property(streamId, chain, chain, (id, a, b) => formatOffset(id, a) < formatOffset(id, b) === a < b));
  });

  test("are refused by every other stream", () => {
    fc.assert(
      fc.property(streamId, streamId, chain, (id, other, n) => {
        fc.pre(id.slice(0, 8) !== other.slice(0, 8));
        expect(codeOf(() => parseOffset(other, formatOffset(id, n)))).toBe("OFFSET_FOREIGN");
      }),
    );
  });

  test.each([
    ["g1_0000000000000001_feedface", "OFFSET_FOREIGN"],
    ["g2_anything", "OFFSET_FOREIGN"],
    ["c1_0000000000000001_00000000", "OFFSET_FOREIGN"],
    ["c1_9999999999999999_feedface", "OFFSET_INVALID"],
    ["c1_1_feedface", "OFFSET_INVALID"],
    ["c1_0000000000000001_FEEDFACE", "OFFSET_INVALID"],
    ["c1_0000000000000001_feedface\n", "OFFSET_INVALID"],
    ["-2", "OFFSET_INVALID"],
    ["", "OFFSET_INVALID"],
  ])("%j is %s", (offset, code) => {
    expect(codeOf(() => parseOffset("feedface".repeat(4), offset))).toBe(code);
  });

  test("anything else is OFFSET_INVALID or OFFSET_FOREIGN", () => {
    fc.assert(
      fc.property(fc.string(), (text) =>
        ["OFFSET_INVALID", "OFFSET_FOREIGN"].includes(codeOf(() => parseOffset("feedface".repeat(4), text))),
      ),
    );
  });
});

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (hasCode(error, "OFFSET_INVALID", "OFFSET_FOREIGN")) return error.code;
    throw error;
  }
  return "nothing thrown";
}
