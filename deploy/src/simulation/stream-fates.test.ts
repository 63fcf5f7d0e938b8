import { block } from "@tributary/core/container/testing/gateway";
import { describe, expect, test } from "vitest";
import { incarnationOf, STREAM_ID, WRITER } from "../check/testing/hand-made-log.ts";
import { Ledger } from "./ledger.ts";
import { StreamFates } from "./stream-fates.ts";

describe("what deletions allow for", () => {
  test("a log gives up what was deleted where its copy is held, and nothing else (seed 166)", () => {
    let nowMs = 0;
    const fates = new StreamFates(new Ledger(() => nowMs), () => nowMs);
    const ledger = new Ledger(() => nowMs);
    const submit = (stream: string) => {
      const event = ledger.submit({ client: "c", writer: "disk", stream, key: "k", promise: "exactly-once", fromSeq: 1 });
      ledger.sent([event]);
      return event;
    };
    const [event, elsewhere] = [submit("plant/a"), submit("plant/b")];
    nowMs = 10;
    fates.done(fates.ask("disk of the clone", "plant/a"));
    nowMs = 20;
    const later = submit("plant/a");
    const heldBy = new Set(["disk", "disk of the clone"]);
    expect(fates.mayBeGivenUp(event, heldBy)).toBe(true);
    expect(fates.mayBeGivenUp(event, new Set(["disk", "disk of another"]))).toBe(false);
    expect(fates.mayBeGivenUp(elsewhere, heldBy)).toBe(false);
    expect(fates.mayBeGivenUp(later, heldBy)).toBe(false);
    // Whoever reads the core finds it, or a gap record: only a deletion at the gateway that took it excuses more.
    expect(fates.excuse(event).missing).toBe(false);
  });
});

test("a deletion counts from when it is asked for", () => {
  let nowMs = 0;
  const fates = new StreamFates(new Ledger(() => nowMs), () => nowMs);
  nowMs = 10;
  fates.ask("core", "plant/a");
  expect([9, 10, undefined].map((throughMs) => fates.wasAsked("core", "plant/a", throughMs))).toEqual([false, true, true]);
  expect(fates.wasAsked("core", "plant/b") || fates.wasAsked("disk", "plant/a")).toBe(false);
});

describe("gap records", () => {
  const run = `${WRITER}/${incarnationOf("a")}/live`;
  const inStream = new Set([STREAM_ID]);

  /** Of what the core knew already it took the rest: 2 of the numbers 5 to 8, or all of the numbers 6 to 8. */
  function told(count: number, frame: { readonly counts: boolean }): StreamFates {
    const fates = new StreamFates(new Ledger(() => 0), () => 0);
    const writer = { writer: WRITER, incarnation: incarnationOf("a"), lane: "live" } as const;
    const segment = { generation: 0, epoch: 0, number: 1 };
    const lost = { first: 4, last: 8, count, reason: "quota", timeMinMs: 0, timeMaxMs: 0 } as const;
    const gap = { kind: "gap", streamId: STREAM_ID, segment, previous: 3, ...lost } as const;
    const decisions = [{ slice: 0, skip: count === 2 ? 1 : 2, ordinal: 0, chain: 0 }];
    fates.apply({ type: "append-block", block: block(writer, [], [gap]), own: false, decisions }, frame);
    return fates;
  }

  test("tell of the numbers of their segment, or, where they tell of all, of every segment (seeds 1798, 4713)", () => {
    const gapsOf = (fates: StreamFates, number: number, segment: number) => fates.gapsOf({ run, number }, inStream, () => segment);
    const [lost, there] = [{ counts: false }, { counts: true }];
    const some = told(2, lost);
    expect([4, 5, 8, 9].map((number) => gapsOf(some, number, 1).length)).toEqual([0, 1, 1, 0]);
    expect(gapsOf(some, 5, 0)).toEqual([]);
    const all = told(5, there);
    expect([5, 6, 8, 9].map((number) => gapsOf(all, number, 0).length)).toEqual([0, 1, 1, 0]);
    expect(all.gapsOf({ run, number: 6 }, new Set(["f".repeat(32)]), () => 1)).toEqual([]);
    expect(all.gapsOf({ run: "another", number: 6 }, inStream, () => 1)).toEqual([]);
    // Whether a log lost them is known of each.
    expect([gapsOf(some, 5, 1), gapsOf(all, 6, 0)]).toMatchObject([
      [{ streamId: STREAM_ID, frame: lost }],
      [{ streamId: STREAM_ID, frame: there }],
    ]);
  });
});
