import { createMemoryBus } from "@tributary/common/engines/memory-bus";
import { TributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import { ManualClock } from "@tributary/common/testing/manual-clock";
import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";
import { type Gateway, openGateway } from "../gateway/gateway.ts";
import { MemoryEdgeStore } from "../gateway/testing/memory-edge-store.ts";
import { seededRandom } from "../gateway/testing/seeded-random.ts";
import { FaultyBus } from "./testing/faulty-bus.ts";
import { ModelCore } from "./testing/model-core.ts";
import type { UplinkOptions } from "./uplink.ts";

const CLUSTER = "main";
const NAME = { scope: "default", stream: "s" };
const BYTES = { contentType: "application/octet-stream", segments: 1, closed: false };
const silent: Logger = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

async function world(
  options: { uplink?: Partial<UplinkOptions>; seed?: number; diskBytesMax?: number; whenFull?: "reject" | "drop-oldest" } = {},
) {
  const clock = new ManualClock();
  const random = seededRandom(options.seed ?? 7);
  const inner = createMemoryBus({ clock });
  const bus = new FaultyBus(inner, clock, random);
  const core = new ModelCore(inner, CLUSTER, 3);
  const store = new MemoryEdgeStore(random);
  const gateway = await openGateway({
    store,
    bus,
    cluster: CLUSTER,
    clock,
    random,
    log: silent,
    phases: { begin: () => {}, end: () => {} },
    options: {
      name: "gw",
      version: "1",
      quota: { diskBytesMax: options.diskBytesMax ?? 1e9, whenFull: options.whenFull ?? "reject" },
      lingerMsMax: 5,
      streamsMax: 100,
      uplink: { freeAt: "tiered", ...options.uplink },
    },
  });
  const step = async (ms = 10) => {
    clock.advance(ms);
    for (let i = 0; i < 4; i++) await settle();
  };
  const until = async (condition: () => boolean, ms = 50) => {
    for (let i = 0; i < 5_000 && !condition(); i++) await step(ms);
    expect(condition()).toBe(true);
  };
  let sent = 0;
  const put = (stream: string, key = "k") => {
    // No stream can be created while the log is being reopened.
    if (gateway.ingest.stream({ scope: "default", stream }) === undefined && gateway.status().trouble !== "") return "full";
    const handle = gateway.ingest.createStream({ scope: "default", stream }, BYTES);
    const source = new TextEncoder().encode(`${stream} ${++sent}`);
    return gateway.ingest.append(handle, key, 1, source, 0, source.length, undefined, 0);
  };
  const idOf = (stream: string) => gateway.ingest.stream({ scope: "default", stream })?.id ?? "";
  return { clock, bus, core, store, gateway, step, until, put, idOf };
}

describe("uplink", () => {
  let open: Gateway | undefined;
  afterEach(async () => {
    await open?.close();
  });
  const start = async (options: Parameters<typeof world>[0] = {}) => {
    const all = await world(options);
    open = all.gateway;
    return all;
  };

  test("writes offline, registers and sends once the core is there, frees when it is tiered", async () => {
    const { core, store, gateway, until, step, put, idOf } = await start();
    for (let i = 0; i < 5; i++) put("s");
    put("t");
    await until(() => store.eventsHeld === 6);
    expect(gateway.status().uplink?.lastError).toMatch(/^BUS_NO_RESPONDER/);
    await core.start();
    await until(() => core.events.length === 6);
    expect(core.textsOf(idOf("s"))).toEqual(["s 1", "s 2", "s 3", "s 4", "s 5"]);
    expect(gateway.status().uplink).toMatchObject({ state: "sending", lastError: "" });
    for (let i = 0; i < 5; i++) await step(1_000);
    expect(store.eventsHeld).toBe(6);
    core.flush(true);
    await until(() => store.eventsHeld === 0, 1);
    expect(gateway.status().uplink?.unitsOutstanding).toBe(0);
  });

  test("a lost word about a flush is made up for at intervals", async () => {
    const { core, store, until, put } = await start();
    await core.start();
    put("s");
    await until(() => core.events.length === 1);
    core.flush(false);
    await until(() => store.eventsHeld === 0, 100);
  });

  test("level committed frees what the core accepted", async () => {
    const { core, store, until, put } = await start({ uplink: { freeAt: "committed" } });
    await core.start();
    put("s");
    await until(() => core.events.length === 1 && store.eventsHeld === 0);
  });

  test("stops sending while the tier is slow", async () => {
    const { core, store, gateway, until, step, put } = await start({ uplink: { unitsMax: 3 } });
    await core.start();
    for (let i = 0; i < 10; i++) {
      put("s");
      await step();
    }
    await until(() => gateway.status().uplink?.unitsOutstanding === 3);
    const stoppedAt = core.events.length;
    expect(stoppedAt).toBeLessThan(10);
    for (let i = 0; i < 5; i++) await step(5_000);
    expect(core.events).toHaveLength(stoppedAt);
    core.flush(true);
    await until(() => core.events.length === 10);
    core.flush(true);
    await until(() => store.eventsHeld === 0);
  });

  test("goes on after the connection was lost", async () => {
    const { bus, core, gateway, until, put } = await start();
    await core.start();
    put("s");
    await until(() => core.events.length === 1);
    bus.setConnected(false);
    expect(gateway.status().uplink?.state).toBe("offline");
    put("s");
    bus.setConnected(true);
    await until(() => core.events.length === 2);
    expect(core.hellos).toHaveLength(2);
  });

  test("an overloaded core is left in peace for a while, and nothing is sent twice into the stream", async () => {
    const { core, gateway, until, put, idOf } = await start();
    await core.start();
    put("s");
    await until(() => core.events.length === 1);
    core.appendErrors.push(new TributaryError("OVERLOADED", "slow down"), new TributaryError("OVERLOADED", "slow down"));
    for (let i = 0; i < 5; i++) put("s");
    await until(() => core.events.length === 6);
    expect(core.textsOf(idOf("s"))).toHaveLength(6);
    expect(gateway.status().uplink?.counters.failures).toBe(2);
  });

  test("a core that went back gets everything again that was not freed", async () => {
    const { core, store, gateway, until, put, idOf } = await start();
    await core.start();
    put("s");
    await until(() => core.events.length === 1);
    core.flush(true);
    await until(() => store.eventsHeld === 0);
    for (let i = 0; i < 3; i++) put("s");
    await until(() => core.events.length === 4);
    core.loseUntiered();
    put("s");
    await until(() => core.events.length === 5);
    expect(core.textsOf(idOf("s"))).toEqual(["s 1", "s 2", "s 3", "s 4", "s 5"]);
    expect(gateway.status().uplink?.counters.rewinds).toBeGreaterThan(0);
  });

  test("a forked writer stops, loudly, and frees nothing", async () => {
    const { core, store, gateway, until, step, put } = await start();
    await core.start();
    put("s");
    await until(() => core.events.length === 1);
    core.forked = true;
    put("s");
    await until(() => gateway.status().uplink?.state === "forked");
    expect(gateway.status().uplink?.lastError).toMatch(/^WRITER_FORKED/);
    core.flush(true);
    for (let i = 0; i < 5; i++) await step(1_000);
    expect(store.eventsHeld).toBe(2);
    // Devices are served all the same.
    expect(put("s")).toBe("accepted");
  });

  test.each(["conflict", "deleted"] as const)("a stream that cannot be mapped (%s) goes to a quarantine stream", async (problem) => {
    const { core, store, gateway, until, put, idOf } = await start();
    put("s");
    put("t");
    if (problem === "conflict") core.streams.set("default/s", { id: "cc".repeat(16), contentType: "text/plain", segments: 1 });
    else core.deletedIds.add(idOf("s"));
    await core.start();
    await until(() => core.events.length === 2);
    const quarantine = core.streams.get(`default/s.quarantine-${store.writer.slice(0, 8)}`);
    expect(core.textsOf(quarantine?.id ?? "")).toEqual(["s 1"]);
    expect(core.textsOf(idOf("t"))).toEqual(["t 2"]);
    expect(gateway.status().uplink?.counters.streamsQuarantined).toBe(1);
  });

  test("a stream that is deleted at the core later on is looked up again", async () => {
    const { core, store, until, put, idOf } = await start();
    await core.start();
    put("s");
    await until(() => core.events.length === 1);
    core.flush(true);
    await until(() => store.eventsHeld === 0);
    core.deletedIds.add(idOf("s"));
    core.streams.delete("default/s");
    store.forgetSent(idOf("s"));
    put("s");
    await until(() => core.events.length === 2);
    const quarantine = core.streams.get(`default/s.quarantine-${store.writer.slice(0, 8)}`);
    expect(core.textsOf(quarantine?.id ?? "")).toEqual(["s 2"]);
  });

  test("a name deleted and created again here never numbers on in the stream of the first", async () => {
    const { core, store, gateway, until, step, put, idOf } = await start();
    await core.start();
    put("s");
    await until(() => core.events.length === 1);
    core.flush(true);
    await until(() => store.eventsHeld === 0);
    const first = idOf("s");
    const deleting = gateway.streams.delete(NAME);
    await step();
    await deleting;
    put("s");
    await until(() => core.events.length === 2);
    expect(core.textsOf(first)).toEqual(["s 1"]);
    expect(gateway.status().uplink?.counters.streamsQuarantined).toBe(1);
  });

  test("a new incarnation after a failed commit says hello before it sends", async () => {
    const { core, store, until, put, gateway } = await start();
    await core.start();
    put("s");
    await until(() => core.events.length === 1);
    store.failNext = new TributaryError("STORAGE_FULL", "no space left");
    put("s");
    await until(() => store.reopens === 1);
    put("s");
    await until(() => core.events.length === 2);
    expect(core.hellos.at(-1)).toBe(gateway.status().incarnation);
    expect(core.events.map((event) => [event.incarnation, event.number])).toEqual([
      [core.hellos[0], 1],
      [core.hellos.at(-1), 1],
    ]);
  });

  test("stops while the core does not answer", async () => {
    const { bus, core, until, put, gateway } = await start();
    await core.start();
    put("s");
    await until(() => core.events.length === 1);
    bus.faults = { lostRequests: 1, lostAnswers: 0, doubled: 0, delayed: 0, lostMessages: 0 };
    put("s");
    await gateway.close();
    expect(gateway.status().uplink?.state).toBe("stopped");
  });

  test("the quota rejects until the core has made room", async () => {
    const { core, store, gateway, until, step, put } = await start({ diskBytesMax: 400 });
    let taken = 0;
    while (put("s") === "accepted") {
      taken++;
      await step();
      if (taken > 1_000) break;
    }
    expect(taken).toBeGreaterThan(10);
    expect(taken).toBeLessThan(200);
    expect(store.diskBytes).toBeLessThanOrEqual(400);
    expect(gateway.status().overQuota || put("s") === "quota").toBe(true);
    await core.start();
    await until(() => core.events.length === taken);
    core.flush(true);
    await until(() => !gateway.status().overQuota && store.eventsHeld === 0);
    await until(() => put("s") === "accepted");
  });

  test("drop-oldest keeps taking events and stays below the cap", async () => {
    const { store, gateway, step, put } = await start({ diskBytesMax: 400, whenFull: "drop-oldest" });
    let taken = 0;
    for (let i = 0; i < 200; i++) {
      if (put("s") === "accepted") taken++;
      await step();
      expect(store.diskBytes).toBeLessThanOrEqual(400);
    }
    expect(taken).toBeGreaterThan(150);
    expect(gateway.status().eventsDropped).toBeGreaterThan(0);
    expect(gateway.status().eventsDropped + store.eventsHeld).toBe(gateway.status().counters.eventsDurable);
  });

  // Lost, doubled and late requests and answers, disconnections, a core that comes and goes, failing commits: in the end every
  // acknowledged event is in the core exactly once, in order, and the gateway holds nothing.
  test("exactly once through a bad network", async () => {
    const share = fc.double({ min: 0, max: 0.3, noNaN: true });
    const faults = fc.record({ lostRequests: share, lostAnswers: share, doubled: share, delayed: share, lostMessages: share });
    const step = fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({
          type: fc.constant("put" as const),
          stream: fc.constantFrom("s", "t", "u", "v"),
          count: fc.integer({ min: 1, max: 20 }),
        }),
      },
      { weight: 5, arbitrary: fc.record({ type: fc.constant("time" as const), ms: fc.integer({ min: 1, max: 3_000 }) }) },
      { weight: 2, arbitrary: fc.record({ type: fc.constant("flush" as const), tell: fc.boolean() }) },
      { weight: 1, arbitrary: fc.constant({ type: "cut" as const }) },
      { weight: 1, arbitrary: fc.constant({ type: "fail" as const }) },
    );
    await fc.assert(
      fc.asyncProperty(
        fc.nat(),
        faults,
        fc.array(step, { minLength: 5, maxLength: 40 }),
        fc.constantFrom("tiered" as const, "committed" as const),
        async (seed, faults, steps, freeAt) => {
          const { bus, core, store, gateway, put, until, step, idOf } = await world({ seed, uplink: { freeAt, unitsMax: 4 } });
          bus.faults = faults;
          await core.start();
          for (const move of steps) {
            if (move.type === "put") for (let i = 0; i < move.count; i++) put(move.stream, `key ${i % 3}`);
            else if (move.type === "time") await step(move.ms);
            else if (move.type === "flush") core.flush(move.tell);
            else if (move.type === "cut") bus.setConnected(!bus.connected());
            else store.failNext = new TributaryError("STORAGE_FULL", "no space left");
          }
          store.failNext = undefined;
          bus.setConnected(true);
          bus.faults = undefined;
          await until(() => {
            core.flush(true);
            return (
              gateway.ingest.stream({ scope: "default", stream: "-" }) === undefined &&
              store.eventsHeld === 0 &&
              store.waiting === 0 &&
              gateway.status().trouble === ""
            );
          }, 500);
          const { eventsDurable } = gateway.status().counters;
          expect(core.events).toHaveLength(eventsDurable);
          for (const stream of ["s", "t", "u", "v"]) {
            const texts = core.textsOf(idOf(stream));
            const order = texts.map((text) => Number(text.split(" ")[1]));
            expect(order).toEqual([...new Set(order)].sort((a, b) => a - b));
          }
          await gateway.close();
        },
      ),
      { numRuns: 40 },
    );
  });
});
