import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FRAME_KIND, type FrameHead, judgeFrame, type WalPosition } from "./counting.ts";

const POSITION: WalPosition = { seq: 100, epoch: 5, attempt: 2, number: 7, hash: "aa".repeat(16) };
const OTHER = "bb".repeat(16);
const head = (change: Partial<FrameHead>): FrameHead => ({
  kind: FRAME_KIND.operations,
  container: 1,
  epoch: 5,
  attempt: 2,
  number: 8,
  previousHash: POSITION.hash,
  ...change,
});
const judge = (seq: number, change: Partial<FrameHead>) => judgeFrame(POSITION, seq, head(change));
const FENCE = { kind: FRAME_KIND.fence, number: 0 } as const;

describe("which frames count", () => {
  it("the next of the attempt, wherever void frames put it", () => {
    expect(judge(101, {})).toBe("counts");
    expect(judge(101, { kind: FRAME_KIND.checkpoint })).toBe("counts");
    expect(judge(101, { previousHash: OTHER })).toBe("corrupt");
    expect(judge(101, FENCE)).toBe("corrupt");
  });

  it("the fence of a later attempt or epoch, if its owner had read everything", () => {
    expect(judge(101, { ...FENCE, attempt: 3 })).toBe("counts");
    expect(judge(105, { ...FENCE, epoch: 6, attempt: 1 })).toBe("counts");
    expect(judge(101, { ...FENCE, attempt: 3, previousHash: OTHER })).toBe("corrupt");
    expect(judge(101, { attempt: 3, number: 0 })).toBe("corrupt");
    expect(judge(101, { ...FENCE, attempt: 3, number: 1 })).toBe("corrupt");
  });

  it("none of an earlier attempt or epoch, whatever it says", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 101, max: 120 }),
        fc.oneof(
          fc.record({ epoch: fc.integer({ min: 0, max: 4 }), attempt: fc.nat(9) }),
          fc.record({ epoch: fc.constant(5), attempt: fc.nat(1) }),
        ),
        fc.nat(20),
        fc.constantFrom(POSITION.hash, OTHER),
        fc.constantFrom(...Object.values(FRAME_KIND)),
        (seq, older, number, previousHash, kind) => judge(seq, { ...older, number, previousHash, kind }) === "void",
      ),
    );
  });

  it("none behind a hole in its own pipeline, but a record that was changed or lost is corruption", () => {
    // 8 was refused because a deposed owner's frame took 101; 9 landed at its predicted place.
    expect(judge(102, { number: 9, previousHash: OTHER })).toBe("void");
    expect(judge(103, { number: 10, previousHash: OTHER })).toBe("void");
    expect(judge(101, { number: 9, previousHash: OTHER })).toBe("corrupt");
    expect(judge(103, { number: 9, previousHash: OTHER })).toBe("corrupt");
    expect(judge(101, { number: 7, previousHash: OTHER })).toBe("corrupt");
    expect(judge(101, { number: 6 })).toBe("corrupt");
  });
});
