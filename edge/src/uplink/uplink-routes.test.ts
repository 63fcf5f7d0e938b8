import { createMemoryBus } from "@tributary/common/engines/memory-bus";
import { LIMITS } from "@tributary/common/limits";
import type { Bus } from "@tributary/common/ports/bus";
import { ManualClock } from "@tributary/common/testing/manual-clock";
import { UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";
import { ContainerQueue } from "./container-queue.ts";
import { followCore } from "./core-news.ts";
import { RouteTable } from "./route-table.ts";
import { World, type WorldOptions } from "./testing/world.ts";
import type { TrackedUnit } from "./unit-tracker.ts";

describe("routes of the uplink", () => {
  let world: World | undefined;
  afterEach(async () => {
    await world?.gateway.close();
    await world?.core.stop();
  });
  const start = async (options: WorldOptions = {}) => {
    world = new World(options);
    await world.start();
    await world.core.start();
    return world;
  };
  const texts = (w: World) => w.core.textsOf(w.idOf("s"));
  const numbered = (count: number) => Array.from({ length: count }, (_, i) => `s ${i + 1}`);
  const containerOf = (w: World) => Number.parseInt(w.idOf("s").slice(0, 6), 16) % 3;
  const first = async (w: World) => {
    w.put("s");
    await w.until(() => texts(w).length === 1);
  };

  test("blocks and questions go straight to the owner that the hello named", async () => {
    const w = await start();
    await first(w);
    w.put("s");
    await w.until(() => texts(w).length === 2);
    expect(w.core.directAppends).toBe(w.core.appends);
    w.core.flush(true);
    await w.until(async () => (await w.held()) === 0);
    expect(w.uplink.counters.detours).toBe(0);
  });

  test("an owner that takes over and says so is asked next, without a failure", async () => {
    const w = await start();
    await first(w);
    await w.core.move(containerOf(w), { tell: true, paused: false });
    w.put("s");
    await w.until(() => texts(w).length === 2);
    expect(w.uplink.counters).toMatchObject({ detours: 0, failures: 0 });
    expect(w.core.directAppends).toBe(w.core.appends);
  });

  test("an owner that is gone without a word is found through any node, and straight from then on", async () => {
    const w = await start();
    await first(w);
    await w.core.move(containerOf(w), { tell: false, paused: false });
    w.put("s");
    await w.until(() => texts(w).length === 2);
    expect(w.uplink.counters).toMatchObject({ detours: 1, failures: 0 });
    expect(w.core.appends - w.core.directAppends).toBe(1);
    w.put("s");
    await w.until(() => texts(w).length === 3);
    expect(w.core.appends - w.core.directAppends).toBe(1);
    w.core.flush(true);
    await w.until(async () => (await w.held()) === 0);
  });

  test("what waits for a paused owner goes to the next one as soon as that one says that it is there", async () => {
    const w = await start();
    await first(w);
    await w.core.move(containerOf(w), { tell: false, paused: true });
    w.put("s");
    await w.until(() => w.uplink.counters.blocksSent === 2, 1);
    expect(texts(w)).toHaveLength(1);
    await w.core.move(containerOf(w), { tell: true, paused: true });
    await w.until(() => texts(w).length === 2, 1);
    expect(w.uplink.counters).toMatchObject({ detours: 0, failures: 0 });
  });

  test("a paused owner whose successor is not heard of costs one request's time, and nothing is lost, doubled or out of order", async () => {
    const w = await start();
    await first(w);
    await w.core.move(containerOf(w), { tell: false, paused: true });
    for (let i = 0; i < 20; i++) {
      w.put("s");
      await w.step();
    }
    await w.until(() => texts(w).length === 21);
    expect(texts(w)).toEqual(numbered(21));
    expect(w.uplink.counters).toMatchObject({ detours: 1, failures: 0 });
  });

  test("levels, too, are asked of whoever owns the container now", async () => {
    const w = await start();
    await first(w);
    await w.core.move(containerOf(w), { tell: false, paused: true });
    w.core.flush(true);
    await w.until(async () => (await w.held()) === 0);
  });

  test("an owner that answers through others but not directly is asked through others, and tried again later", async () => {
    const w = await start();
    await first(w);
    w.bus.refuses = (subject) => subject.includes(".at.");
    for (let i = 0; i < 5; i++) {
      w.put("s");
      await w.until(() => texts(w).length === i + 2);
    }
    expect(w.uplink.counters).toMatchObject({ detours: 1, failures: 0 });
    w.bus.refuses = () => false;
    const direct = w.core.directAppends;
    await w.step(11_000);
    w.put("s");
    await w.until(() => texts(w).length === 7);
    expect(w.core.directAppends).toBe(direct + 1);
  });

  test("exactly once and in order while owners move, pause and go unheard of", async () => {
    const move = fc.oneof(
      { weight: 4, arbitrary: fc.record({ type: fc.constant("put" as const), count: fc.integer({ min: 1, max: 8 }) }) },
      { weight: 3, arbitrary: fc.record({ type: fc.constant("time" as const), ms: fc.integer({ min: 1, max: 2_000 }) }) },
      { weight: 2, arbitrary: fc.record({ type: fc.constant("move" as const), tell: fc.boolean(), paused: fc.boolean() }) },
    );
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.array(move, { minLength: 3, maxLength: 30 }), async (seed, moves) => {
        const w = await start({ seed });
        w.bus.faults = { lostRequests: 0.1, lostAnswers: 0.1, doubled: 0.1, delayed: 0.1, lostMessages: 0.2 };
        w.put("s");
        let count = 1;
        for (const each of moves) {
          if (each.type === "put") for (let i = 0; i < each.count; i++) if (w.put("s") === "accepted") count++;
          if (each.type === "time") await w.step(each.ms);
          if (each.type === "move") await w.core.move(containerOf(w), each);
        }
        w.bus.faults = undefined;
        await w.until(async () => {
          w.core.flush(true);
          return (await w.held()) === 0 && texts(w).length === count;
        }, 500);
        expect(texts(w)).toEqual(numbered(count));
        await w.gateway.close();
        await w.core.stop();
      }),
      { numRuns: 25 },
    );
  });
});

describe("a route table", () => {
  test("believes the highest epoch it heard, what an owner answered, and for a while not what failed", () => {
    const clock = new ManualClock();
    const routes = new RouteTable(clock);
    expect(routes.directEpoch(1)).toBe(0);
    expect(routes.heard(1, 5)).toBe(true);
    expect(routes.heard(1, 4)).toBe(false);
    expect(routes.directEpoch(1)).toBe(5);
    routes.failed(1, 4);
    expect(routes.directEpoch(1)).toBe(5);
    routes.failed(1, 5);
    routes.answered(1, 5);
    expect(routes.directEpoch(1)).toBe(0);
    clock.advance(10_000);
    expect(routes.directEpoch(1)).toBe(5);
    routes.answered(1, 2);
    expect(routes.directEpoch(1)).toBe(2);
    for (const nonsense of [0, -1, 1.5, Number.NaN]) {
      expect(routes.heard(2, nonsense)).toBe(false);
      routes.answered(2, nonsense);
    }
    expect(routes.directEpoch(2)).toBe(0);
    expect(routes.heard(LIMITS.containersMax, 1)).toBe(false);
  });
});

describe("a container's queue", () => {
  const queueOf = (count: number) => {
    const queue = new ContainerQueue(0);
    const unit = {} as TrackedUnit;
    for (let i = 0; i < count; i++) queue.push({ container: 0, unit, bytes: Uint8Array.of(i), rowsMin: 1 });
    return queue;
  };

  test("sends a window straight to an owner, and one after the other through any node", () => {
    const queue = queueOf(12);
    const direct = Array.from({ length: 12 }, () => queue.takeNext(3)).filter((block) => block !== undefined);
    expect(direct).toHaveLength(8);
    queue.resend();
    expect(queue.takeNext(0)?.bytes[0]).toBe(0);
    expect(queue.takeNext(0)).toBeUndefined();
  });

  test("does not change the way while something is on it", () => {
    const queue = queueOf(3);
    const block = queue.takeNext(3);
    expect(queue.directEpoch).toBe(3);
    expect(queue.takeNext(4)).toBeUndefined();
    expect(block && queue.accepted(block)).toBe(true);
    expect(queue.takeNext(4)?.bytes[0]).toBe(1);
  });
});

test("however many gateways share a bus, they cost it two subscriptions", async () => {
  const bus = createMemoryBus();
  const subjects: string[] = [];
  const counted: Bus = Object.assign(Object.create(bus) as Bus, {
    connected: () => bus.connected(),
    subscribe: (subject: string, handler: (payload: Uint8Array, subject: string) => void) => {
      subjects.push(subject);
      return bus.subscribe(subject, handler);
    },
  });
  const heard: number[] = [];
  const listener = () => ({ tiered: (container: number) => void heard.push(container), moved: () => {} });
  const all = Array.from({ length: 50 }, () => followCore(counted, "c", listener()));
  expect(subjects).toHaveLength(1);
  await new Promise((resolve) => setImmediate(resolve));
  expect(subjects).toEqual([UPLINK_SUBJECTS.tiered("c", "*"), UPLINK_SUBJECTS.moved("c", "*")]);
  for (const news of all.splice(1)) await news.close();
  bus.publish(UPLINK_SUBJECTS.tiered("c", 7), new Uint8Array(0));
  await new Promise((resolve) => setImmediate(resolve));
  expect(heard).toEqual([7]);
  await all[0]?.close();
  bus.publish(UPLINK_SUBJECTS.tiered("c", 8), new Uint8Array(0));
  await new Promise((resolve) => setImmediate(resolve));
  expect(heard).toEqual([7]);
});
