import type { Server } from "@nats-io/transport-node";
import { expect, test } from "vitest";
import { redialOptions } from "./nats-redial.ts";

test("after the wall clock was set back each server is dialled once without delay, then at the usual pace", () => {
  let [wallMs, monotonicMs] = [10_000_000, 5_000];
  const clock = { nowMs: () => wallMs, monotonicMs: () => monotonicMs, setTimer: () => () => {} };
  const { reconnectDelayHandler, reconnectToServer } = redialOptions(clock, () => 700);
  const dial = (listen: string) => expect(reconnectToServer([{ listen } as Server], null)).toBeNull();
  expect(reconnectDelayHandler()).toBe(700);
  dial("a:1");
  dial("b:1");
  // Both clocks go on; then the wall clock alone goes forward, which delays nothing.
  wallMs += 60_000;
  monotonicMs += 60_000;
  expect(reconnectDelayHandler()).toBe(700);
  wallMs += 3_600_000;
  expect(reconnectDelayHandler()).toBe(700);
  dial("a:1");
  // Set back to what is right: "a:1" was dialled in what is the future now, "b:1" was not.
  wallMs -= 3_600_000;
  expect(reconnectDelayHandler()).toBe(Number.NEGATIVE_INFINITY);
  dial("b:1");
  expect(reconnectDelayHandler()).toBe(Number.NEGATIVE_INFINITY);
  dial("a:1");
  expect(reconnectDelayHandler()).toBe(700);
});
