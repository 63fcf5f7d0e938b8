import { ManualClock } from "@tributary/common/testing/manual-clock";
import { expect, test } from "vitest";
import { type CoreStreamParts, CoreStreamService } from "./core-stream-service.ts";

test("a wait ends in its time, or as its reader leaves, also where the stream cannot be found", async () => {
  const clock = new ManualClock();
  const directory = { find: () => new Promise(() => {}) };
  const streams = new CoreStreamService({ clock, directory } as unknown as CoreStreamParts);
  const wait = (signal: AbortSignal) => streams.waitForData({ scope: "plant", stream: "press" }, "-1", { timeoutMs: 20_000, signal });
  const late = wait(new AbortController().signal);
  clock.advance(20_000);
  await late;
  const leaving = new AbortController();
  const left = wait(leaving.signal);
  leaving.abort();
  await left;
  await wait(leaving.signal);
  expect(clock.timers).toBe(0);
});
