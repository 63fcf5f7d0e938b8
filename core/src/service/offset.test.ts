import { hasCode } from "@tributary/common/errors";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { positionAt } from "../container/nonces.ts";
import { checkPosition, formatOffset, parseOffset } from "./offset.ts";

const chain = fc.maxSafeNat();
const nonce = fc.uint8Array({ minLength: 8, maxLength: 8 }).map((bytes) => Buffer.from(bytes).toString("hex"));
/** Ranges of take-overs, from the beginning on. */
const ranges = fc
  .uniqueArray(fc.tuple(nonce, fc.maxSafeNat()), { selector: ([, from]) => from, minLength: 1, maxLength: 12 })
  .map((rows) => rows.sort(([, a], [, b]) => a - b).map(([nonce, from], i) => ({ nonce, from: i === 0 ? 0 : from })));
const streamId = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes).toString("hex"));

describe("offsets of the core", () => {
  test("come back as they were, are short and fit into a URL as they are", () => {
    fc.assert(
      fc.property(streamId, chain, ranges, (id, n, nonces) => {
        const offset = formatOffset(id, n, nonces);
        expect(parseOffset(id, offset)).toEqual(positionAt(nonces, n));
        expect(offset).toMatch(/^[A-Za-z0-9_]{1,255}$/);
      }),
    );
  });

  test("sort as their ordinals do", () => {
    fc.assert(
      fc.property(
        streamId,
        chain,
        chain,
        ranges,
        (id, a, b, nonces) => formatOffset(id, a, nonces) < formatOffset(id, b, nonces) === a < b,
      ),
    );
  });

  test("are refused by every other stream", () => {
    fc.assert(
      fc.property(streamId, streamId, chain, ranges, (id, other, n, nonces) => {
        fc.pre(id.slice(0, 8) !== other.slice(0, 8));
        expect(codeOf(() => parseOffset(other, formatOffset(id, n, nonces)))).toBe("OFFSET_FOREIGN");
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
    ["c1_0000000000000001_feedface_0123456789abcdef0", "OFFSET_INVALID"],
    ["c2_0000000000000001_feedface_0123456789abcdef1", "OFFSET_INVALID"],
    ["c2_0000000000000009_feedface_0123456789abcdef01", "OFFSET_INVALID"],
    ["-2", "OFFSET_INVALID"],
    ["", "OFFSET_INVALID"],
  ])("%j is %s", (offset, code) => {
    expect(codeOf(() => parseOffset("feedface".repeat(4), offset))).toBe(code);
  });

  test("of the form that had no take-overs are still read", () => {
    expect(parseOffset("feedface".repeat(4), "c1_0000000000000042_feedface")).toEqual({ chain: 42, ancestry: [] });
  });

  test("are refused where their history is lost, with the last offset in common", () => {
    const id = "feedface".repeat(4);
    const kept = [{ nonce: "a".repeat(16), from: 0 }];
    const before = [...kept, { nonce: "b".repeat(16), from: 50 }];
    const lost = [...before, { nonce: "c".repeat(16), from: 70 }];
    const now = { firstChain: 0, nextChain: 90 };
    const common = (chain: number, then: typeof kept, nonces: typeof kept) => {
      try {
        checkPosition(id, parseOffset(id, formatOffset(id, chain, then)), { ...now, nonces });
        return chain;
      } catch (error) {
        if (!hasCode(error, "OFFSET_UNKNOWN")) throw error;
        return parseOffset(id, String(error.details["nextOffset"])).chain;
      }
    };
    const went = (from: number) => [...kept, { nonce: "d".repeat(16), from }];
    expect(common(40, before, went(60))).toBe(40);
    expect(common(60, before, went(60))).toBe(50);
    expect(common(80, lost, went(60))).toBe(50);
    expect(common(80, lost, went(30))).toBe(30);
    expect(common(40, kept, went(30))).toBe(30);
    expect(common(80, lost, [...before, { nonce: "e".repeat(16), from: 60 }])).toBe(60);
    expect(common(80, lost, lost)).toBe(80);
    expect(common(120, lost, lost)).toBe(90);
    expect(common(80, lost, [{ nonce: "d".repeat(16), from: 0 }])).toBe(0);
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
