import { expect, test } from "vitest";
import { busContract } from "../contracts/bus.contract.ts";
import { ManualClock } from "../testing/manual-clock.ts";
import { createMemoryBus } from "./memory-bus.ts";

busContract("in process", async () => {
  const bus = createMemoryBus();
  return { client: bus, server: bus, close: () => bus.close() };
});

test("refuses requests when too many wait; a timeout makes room again", async () => {
  const clock = new ManualClock();
  const bus = createMemoryBus({ clock });
  await bus.serve("slow", {}, () => new Promise(() => {}));
  const waiting = Array.from({ length: 1024 }, () => bus.request("slow", new Uint8Array(), { timeoutMs: 100 }));
  await expect(bus.request("slow", new Uint8Array(), { timeoutMs: 100 })).rejects.toMatchObject({ code: "OVERLOADED" });
  clock.advance(100);
  for (const result of await Promise.allSettled(waiting)) expect(result).toMatchObject({ reason: { code: "BUS_TIMEOUT" } });
  const next = bus.request("slow", new Uint8Array(), { timeoutMs: 100 });
  clock.advance(100);
  await expect(next).rejects.toMatchObject({ code: "BUS_TIMEOUT" });
});

test("closing fails what waits as perhaps carried out, and tells the listeners", async () => {
  const bus = createMemoryBus();
  const seen: boolean[] = [];
  bus.onStatus((connected) => seen.push(connected));
  let release = (): void => {};
  await bus.serve("slow", {}, () => new Promise((resolve) => (release = () => resolve(new Uint8Array()))));
  const waiting = bus.request("slow", new Uint8Array(), { timeoutMs: 60_000 });
  await Promise.resolve();
  const closed = bus.close();
  await expect(waiting).rejects.toMatchObject({ code: "BUS_TIMEOUT" });
  release();
  await closed;
  expect(seen).toEqual([false]);
});
