import type { StreamInfo, StreamService } from "@tributary/common/stream-service";
import { expect, it } from "vitest";
import { Freshness } from "./freshness.ts";

const NAME = { scope: "s", stream: "t" };
const offset = (chain: number, tag = "0123abcd") => `c2_${String(chain).padStart(16, "0")}_${tag}`;

/** A node that answers with what it is told to. */
function node(answer: () => Partial<StreamInfo>): StreamService {
  const describe = async () => answer() as StreamInfo;
  return { describe } as unknown as StreamService;
}

function setUp() {
  const violations: string[] = [];
  let forgets = false;
  const freshness = new Freshness(
    (_, kind, detail) => violations.push(`${kind}: ${detail}`),
    () => forgets,
  );
  const forget = () => {
    forgets = true;
  };
  const told = (chain: number, closed = false, tag?: string) =>
    freshness.watch(
      node(() => ({ nextOffset: offset(chain, tag), closed })),
      "reader",
    );
  return { violations, freshness, told, forget };
}

it("who asks later is told as much, at whichever node", async () => {
  const { violations, told } = setUp();
  for (const chain of [3, 3, 7]) await told(chain).describe(NAME);
  await told(1, false, "ffffffff").describe(NAME);
  expect(violations).toEqual([]);
  await told(6).describe(NAME);
  expect(violations).toEqual([expect.stringContaining("answer from the past")]);
});

it("what is closed stays closed", async () => {
  const { violations, told } = setUp();
  await told(3, true).describe(NAME);
  await told(3).describe(NAME);
  expect(violations).toEqual([expect.stringContaining("that it is closed")]);
});

it("what was asked before another one was answered may be older", async () => {
  const { violations, freshness, told } = setUp();
  const waiting = Promise.withResolvers<void>();
  const slow = {
    describe: async () => {
      await waiting.promise;
      return { nextOffset: offset(2), closed: false };
    },
  };
  const asked = freshness.watch(slow as unknown as StreamService, "slow").describe(NAME);
  await told(9, true).describe(NAME);
  waiting.resolve();
  await asked;
  expect(violations).toEqual([]);
});

it("less may be told once something was lost", async () => {
  const { violations, told, forget } = setUp();
  await told(7).describe(NAME);
  forget();
  await told(3).describe(NAME);
  expect(violations).toEqual([]);
});
