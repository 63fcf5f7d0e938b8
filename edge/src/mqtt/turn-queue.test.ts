import type { Clock } from "@tributary/common/clock";
import { describe, expect, it } from "vitest";
import { TurnQueue } from "./turn-queue.ts";

describe("TurnQueue", () => {
  it("lets others work when the turn's time is used up, and those who wait go on in their order, over several turns", async () => {
    let now = 0;
    let turn = 0;
    let running = true;
    const countTurns = () => {
      turn++;
      if (running) setImmediate(countTurns);
    };
    const clock = { monotonicMs: () => now } as Clock;
    const turns = new TurnQueue(clock);
    const seen: { who: number; turn: number }[] = [];

    expect(turns.mayWork()).toBe(true);
    now += 3;
    expect(turns.mayWork()).toBe(true);
    now += 3;
    expect(turns.mayWork()).toBe(false);
    setImmediate(countTurns);
    await new Promise<void>((resolve) => {
      for (let who = 0; who < 9; who++) {
        turns.wait({
          turnAgain: () => {
            seen.push({ who, turn });
            // Nobody overtakes those who wait, early in a turn as it may be.
            if (who < 8) expect(turns.mayWork()).toBe(false);
            now += 2.5;
            if (who === 8) resolve();
          },
        });
      }
    });
    running = false;
    expect(seen.map(({ who }) => who)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
    // Two of them fill the 4 ms of a turn.
    expect(new Set(seen.map((entry) => entry.turn)).size).toBe(5);
    await new Promise((resolve) => setImmediate(resolve));
    expect(turns.mayWork()).toBe(true);
  });
});
