import { TributaryError } from "@tributary/common/errors";
import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";
import type { ModelCore } from "./testing/model-core.ts";
import { name, World, type WorldOptions } from "./testing/world.ts";

describe("uplink", () => {
  let world: World | undefined;
  afterEach(async () => {
    await world?.gateway.close();
  });
  const start = async (options: WorldOptions = {}) => {
    world = new World(options);
    await world.start();
    return world;
  };

  test("writes offline, registers and sends once the core is there, frees when it is tiered", async () => {
    const w = await start();
    for (let i = 0; i < 5; i++) w.put("s");
    w.put("t");
    await w.until(async () => (await w.held()) === 6);
    await w.until(() => w.uplink.lastError.startsWith("BUS_NO_RESPONDER"));
    await w.core.start();
    await w.until(() => w.core.events.length === 6);
    expect(w.core.textsOf(w.idOf("s"))).toEqual(["s 1", "s 2", "s 3", "s 4", "s 5"]);
    await w.until(() => w.uplink.state === "sending" && w.uplink.lastError === "");
    for (let i = 0; i < 5; i++) await w.step(1_000);
    expect(await w.held()).toBe(6);
    w.core.flush(true);
    await w.until(async () => (await w.held()) === 0, 1);
    expect(w.uplink.unitsOutstanding).toBe(0);
  });

  test("a lost word about a flush is made up for at intervals", async () => {
    const w = await start();
    await w.core.start();
    w.put("s");
    await w.until(() => w.core.events.length === 1);
    w.core.flush(false);
    await w.until(async () => (await w.held()) === 0, 100);
  });

  test("a core that answers nonsense as it is asked what is safe is told of, and events are freed once it does better", async () => {
    const w = await start();
    await w.core.start();
    w.put("s");
    await w.until(() => w.core.events.length === 1 && w.uplink.lastError === "");
    w.bus.garbles = (subject) => subject.includes(".levels");
    w.core.flush(true);
    await w.until(() => w.uplink.counters.answersInvalid > 2);
    expect(w.uplink.lastError).toMatch(/^CORE_ANSWER_INVALID/);
    expect(w.warnings.filter((code) => code === "CORE_ANSWER_INVALID")).toHaveLength(1);
    expect(w.uplink.state).toBe("sending");
    w.put("s");
    await w.until(() => w.core.events.length === 2);
    // That sending works heals nothing.
    await w.step();
    expect(w.uplink.lastError).toMatch(/^CORE_ANSWER_INVALID/);
    expect(await w.held()).toBe(2);
    w.bus.garbles = () => false;
    w.core.flush(true);
    await w.until(async () => (await w.held()) === 0);
    expect(w.uplink.lastError).toBe("");
  });

  test("level committed frees what the core accepted", async () => {
    const w = await start({ uplink: { freeAt: "committed" } });
    await w.core.start();
    w.put("s");
    await w.until(async () => w.core.events.length === 1 && (await w.held()) === 0);
  });

  test("stops sending while the tier is slow", async () => {
    const w = await start({ uplink: { unitsMax: 3 } });
    await w.core.start();
    for (let i = 0; i < 10; i++) {
      w.put("s");
      await w.step();
    }
    await w.until(() => w.uplink.unitsOutstanding === 3);
    const stoppedAt = w.core.events.length;
    expect(stoppedAt).toBeLessThan(10);
    for (let i = 0; i < 5; i++) await w.step(5_000);
    expect(w.core.events).toHaveLength(stoppedAt);
    await w.until(async () => {
      w.core.flush(true);
      return w.core.events.length === 10 && (await w.held()) === 0;
    });
  });

  test("goes on after the connection was lost", async () => {
    const w = await start();
    await w.core.start();
    w.put("s");
    await w.until(() => w.core.events.length === 1);
    w.bus.setConnected(false);
    expect(w.uplink.state).toBe("offline");
    w.put("s");
    w.bus.setConnected(true);
    await w.until(() => w.core.events.length === 2);
    expect(w.core.hellos).toHaveLength(2);
  });

  test("an overloaded core is left in peace for a while, and nothing comes twice", async () => {
    const w = await start();
    await w.core.start();
    w.put("s");
    await w.until(() => w.core.events.length === 1);
    const before = w.uplink.counters.failures;
    w.core.appendErrors.push(new TributaryError("OVERLOADED", "slow down"), new TributaryError("OVERLOADED", "slow down"));
    for (let i = 0; i < 5; i++) w.put("s");
    await w.until(() => w.core.events.length === 6);
    expect(w.core.textsOf(w.idOf("s"))).toEqual(w.acked.get("s"));
    expect(w.uplink.counters.failures - before).toBe(2);
  });

  test("a core that went back gets everything again that was not freed", async () => {
    const w = await start();
    await w.core.start();
    w.put("s");
    await w.until(() => w.core.events.length === 1);
    w.core.flush(true);
    await w.until(async () => (await w.held()) === 0);
    for (let i = 0; i < 3; i++) w.put("s");
    await w.until(() => w.core.events.length === 4);
    w.core.loseUntiered();
    w.put("s");
    await w.until(() => w.core.events.length === 5);
    expect(w.core.textsOf(w.idOf("s"))).toEqual(["s 1", "s 2", "s 3", "s 4", "s 5"]);
    expect(w.uplink.counters.rewinds).toBeGreaterThan(0);
  });

  test("a core that went back gets it again also when nothing new follows", async () => {
    const w = await start();
    await w.core.start();
    w.put("s");
    await w.until(() => w.core.events.length === 1);
    w.core.loseUntiered();
    await w.until(() => w.core.events.length === 1);
    w.core.flush(true);
    await w.until(async () => (await w.held()) === 0);
  });

  test.each([false, true])(
    "freed events that the core lost become a gap, and what the log still has comes again (restart: %s)",
    async (restarts) => {
      const w = await start({ uplink: { freeAt: "committed" } });
      await w.core.start();
      for (let i = 0; i < 65; i++) {
        w.put("s");
        if (i % 10 === 0) w.put("t");
        await w.step();
      }
      await w.until(async () => w.core.events.length === 72 && (await w.held()) === 0);
      w.core.loseUntiered();
      expect(w.core.events).toEqual([]);
      if (restarts) await w.restart();
      w.put("s");
      w.put("t");
      const all = w.acked.get("s") ?? [];
      await w.until(async () => w.core.textsOf(w.idOf("s")).includes("s 73") && (await w.held()) === 0);
      const texts = w.core.textsOf(w.idOf("s"));
      const lost = w.core.gaps.filter((gap) => gap.stream === w.idOf("s")).reduce((sum, gap) => sum + gap.count, 0);
      expect(all).toHaveLength(66);
      expect(lost + texts.length).toBe(66);
      expect(texts).toEqual(all.slice(lost));
      // Of what was freed some is still in the log.
      expect(lost).toBeLessThan(65);
      expect(w.core.gaps.every((gap) => gap.reason === "lost-by-core")).toBe(true);
      expect(w.core.textsOf(w.idOf("t")).at(-1)).toBe("t 74");
    },
  );

  test("a forked writer stops, loudly, and frees nothing", async () => {
    const w = await start();
    await w.core.start();
    w.put("s");
    await w.until(() => w.core.events.length === 1);
    w.core.forkedIds.add(w.idOf("s"));
    for (const stream of ["s", "t", "u", "v"]) w.put(stream);
    await w.until(() => w.uplink.state === "forked");
    w.core.flush(true);
    for (let i = 0; i < 5; i++) await w.step(1_000);
    // What other containers had on their way was accepted, and makes nothing well.
    expect(w.core.events.length).toBeGreaterThan(1);
    expect(w.uplink.lastError).toMatch(/^WRITER_FORKED/);
    expect(await w.held()).toBe(5);
    // Devices are served all the same.
    expect(w.put("s")).toBe("accepted");
  });

  test.each(["conflict", "deleted"] as const)("a stream that cannot be mapped (%s) goes to a quarantine stream", async (problem) => {
    const w = await start();
    w.put("s");
    w.put("t");
    if (problem === "conflict") w.core.streams.set("default/s", { id: "cc".repeat(16), contentType: "text/plain", segments: 1 });
    else w.core.deletedIds.add(w.idOf("s"));
    await w.core.start();
    await w.until(() => w.core.events.length === 2);
    expect(w.core.textsOf(w.quarantineOf("s"))).toEqual(["s 1"]);
    expect(w.core.textsOf(w.idOf("t"))).toEqual(["t 2"]);
    expect(w.uplink.counters.streamsQuarantined).toBe(1);
  });

  test.each(["deleted", "closed"] as const)("a stream that is %s at the core later on goes on in a quarantine stream", async (how) => {
    const w = await start();
    await w.core.start();
    w.put("s");
    await w.until(() => w.core.events.length === 1);
    w.core.flush(true);
    await w.until(async () => (await w.held()) === 0);
    if (how === "closed") w.core.closedIds.add(w.idOf("s"));
    else w.core.delete("s");
    w.put("s");
    await w.until(() => w.core.events.length === 2);
    expect(w.core.textsOf(w.quarantineOf("s"))).toEqual(["s 2"]);
  });

  test("a stream deleted at the core between acceptance and tier holds up nothing", async () => {
    const w = await start({ uplink: { unitsMax: 3 } });
    await w.core.start();
    w.put("s");
    w.put("t");
    await w.until(() => w.core.events.length === 2);
    w.core.delete("s");
    await w.until(async () => {
      w.core.flush(true);
      return (await w.held()) === 0;
    });
    expect(w.core.textsOf(w.quarantineOf("s"))).toEqual(["s 1"]);
  });

  test("a name deleted and created again many times holds up nothing", async () => {
    const w = await start({ uplink: { freeAt: "committed" } });
    await w.core.start();
    for (let i = 1; i <= 8; i++) {
      w.put("s");
      await w.until(() => w.core.events.length === i);
      const deleting = w.gateway.streams.delete(name("s"));
      await w.step();
      await deleting;
    }
    expect(w.core.streams.size).toBe(8);
  });

  test("a name deleted and created again here never numbers on in the stream of the first", async () => {
    const w = await start();
    await w.core.start();
    w.put("s");
    await w.until(() => w.core.events.length === 1);
    w.core.flush(true);
    await w.until(async () => (await w.held()) === 0);
    const first = w.idOf("s");
    const deleting = w.gateway.streams.delete(name("s"));
    await w.step();
    await deleting;
    w.put("s");
    await w.until(() => w.core.events.length === 2);
    expect(w.core.textsOf(first)).toEqual(["s 1"]);
    expect(w.core.textsOf(w.quarantineOf("s"))).toEqual(["s 2"]);
  });

  test("a name deleted and created again here never numbers alike with what a clone has of the first (simulation, seed 140)", async () => {
    const w = await start();
    for (let i = 1; i <= 3; i++) w.put("s");
    await w.until(async () => (await w.held()) === 3);
    const clone = new World({ cloneOf: w });
    await clone.start();
    try {
      const deleting = w.gateway.streams.delete(name("s"));
      await w.step();
      await deleting;
      for (let i = 4; i <= 8; i++) w.put("s");
      w.put("t");
      await w.until(async () => (await w.held()) >= 6);
      await w.core.start();
      // Both are in the stream that the name has at the core, those of the clone too.
      await w.until(() => w.core.textsOf(w.core.streams.get("default/s")?.id ?? "").length === 8);
      w.core.flush(true);
      await w.until(async () => (await w.held()) === 0 && (await clone.held()) === 0);
      expect(w.core.events.map((event) => event.text).sort()).toEqual(["s 1", "s 2", "s 3", "s 4", "s 5", "s 6", "s 7", "s 8", "t 9"]);
      const { incarnation } = w.gateway.status();
      expect(w.core.hellos).toContain(incarnation);
      expect(w.core.events.find((event) => event.text === "t 9")).toMatchObject({ incarnation, number: 1 });
    } finally {
      await clone.gateway.close();
    }
  });

  test("a new incarnation that begins while blocks are under way disturbs none of them", async () => {
    const w = await start();
    await w.core.start();
    w.put("s");
    await w.until(() => w.uplink.state === "sending" && w.core.events.length === 1);
    const { hellos } = w.uplink.counters;
    w.put("t");
    const deleting = w.gateway.streams.delete(name("s"));
    await w.step();
    await deleting;
    w.put("s");
    w.put("t");
    await w.until(() => w.core.events.length === 4);
    w.core.flush(true);
    await w.until(async () => (await w.held()) === 0);
    expect(w.core.events.map((event) => event.text).sort()).toEqual(["s 1", "s 3", "t 2", "t 4"]);
    expect(w.uplink.counters).toMatchObject({ rewinds: 0, failures: 0, hellos: hellos + 1 });
    expect(w.core.hellos.at(-1)).toBe(w.gateway.status().incarnation);
  });

  test("names that are created again faster than the core answers do not keep anything from being sent", async () => {
    const w = await start();
    await w.core.start();
    w.put("t");
    await w.until(() => w.uplink.state === "sending" && w.core.events.length === 1);
    const { request } = w.bus;
    w.bus.request = async (...asked) => {
      await new Promise<void>((resolve) => w.clock.setTimer(60, resolve));
      return request.apply(w.bus, asked);
    };
    const { hellos } = w.uplink.counters;
    const before = w.gateway.status().incarnation;
    for (let round = 0; round < 100; round++) {
      w.put("t");
      w.put("s");
      await w.step();
      const deleting = w.gateway.streams.delete(name("s"));
      await w.step();
      await deleting;
    }
    expect(w.gateway.status().incarnation).not.toBe(before);
    expect(w.core.textsOf(w.core.streams.get("default/t")?.id ?? "").length).toBeGreaterThan(50);
    expect(w.uplink.counters).toMatchObject({ failures: 0 });
    // One behind the other, not one for each.
    expect(w.uplink.counters.hellos - hellos).toBeLessThan(50);
    await w.until(() => w.core.hellos.at(-1) === w.gateway.status().incarnation);
  });

  test("a new incarnation after a failed commit says hello before it sends", async () => {
    const w = await start();
    await w.core.start();
    w.put("s");
    await w.until(() => w.core.events.length === 1);
    w.store.failNext = true;
    w.put("s");
    await w.until(() => w.store.reopens === 1 && w.gateway.status().trouble === "");
    w.put("s");
    await w.until(() => w.core.events.length === 2);
    expect(w.core.hellos.at(-1)).toBe(w.gateway.status().incarnation);
    expect(w.core.events.map((event) => [event.incarnation, event.number])).toEqual([
      [w.core.hellos[0], 1],
      [w.core.hellos.at(-1), 1],
    ]);
  });

  test("a log that closes while nothing is committed is opened again", async () => {
    const w = await start();
    await w.core.start();
    w.put("s");
    await w.until(() => w.core.events.length === 1);
    await w.store.close();
    w.core.flush(true);
    await w.until(() => w.store.reopens === 1 && w.gateway.status().trouble === "");
    await w.until(async () => (await w.held()) === 0);
    await w.store.close();
    await expect(w.gateway.streams.read(name("s"), { offset: "-1", eventsMax: 1, bytesMax: 1 })).rejects.toMatchObject({
      code: "LOG_CLOSED",
    });
    await w.until(() => w.store.reopens === 2 && w.gateway.status().trouble === "");
    w.put("s");
    await w.until(() => w.core.events.length === 2);
  });

  test("stops while the core does not answer", async () => {
    const w = await start();
    await w.core.start();
    w.put("s");
    await w.until(() => w.core.events.length === 1);
    w.bus.faults = { lostRequests: 1, lostAnswers: 0, doubled: 0, delayed: 0, lostMessages: 0 };
    w.put("s");
    await w.gateway.close();
    expect(w.uplink.state).toBe("stopped");
    expect(w.acked.get("s")).toHaveLength(2);
  });

  test("the quota rejects until the core has made room", async () => {
    const w = await start({ diskBytesMax: 20_000 });
    let taken = 0;
    while (w.put("s") === "accepted" && taken < 1_000) {
      taken++;
      await w.step();
    }
    expect(taken).toBeGreaterThan(10);
    expect(taken).toBeLessThan(1_000);
    expect(w.store.disk.bytes).toBeLessThanOrEqual(20_000);
    expect(w.put("s")).toBe("quota");
    await expect(w.gateway.streams.create(name("new"), {})).rejects.toMatchObject({ code: "QUOTA_EXCEEDED" });
    await w.core.start();
    await w.until(() => w.core.events.length === taken);
    w.core.flush(true);
    await w.until(async () => (await w.held()) === 0);
    await w.until(() => w.put("s") === "accepted");
  });

  test("drop-oldest keeps taking events, stays below the cap, and leaves gap records", async () => {
    const w = await start({ diskBytesMax: 20_000, whenFull: "drop-oldest" });
    let taken = 0;
    for (let i = 0; i < 300; i++) {
      if (w.put("s") === "accepted") taken++;
      await w.step();
      expect(w.store.disk.bytes).toBeLessThanOrEqual(20_000);
    }
    expect(taken).toBeGreaterThan(250);
    const { eventsDropped } = w.gateway.status();
    expect(eventsDropped).toBeGreaterThan(0);
    await w.core.start();
    await w.until(() => w.core.events.length === taken - eventsDropped);
    expect(gapCount(w.core)).toBe(eventsDropped);
    expect(w.core.textsOf(w.idOf("s"))).toEqual(w.acked.get("s")?.slice(eventsDropped));
  });

  test("what is dropped while it is out is told to the core as a gap, once", async () => {
    const w = await start({ diskBytesMax: 20_000, whenFull: "drop-oldest" });
    await w.core.start();
    w.put("s");
    await w.until(() => w.core.events.length === 1);
    // The core takes blocks and never says that they are safe.
    for (let i = 0; i < 300; i++) {
      w.put("s");
      await w.step();
      expect(w.store.disk.bytes).toBeLessThanOrEqual(20_000);
    }
    expect(w.gateway.status().eventsDropped).toBeGreaterThan(0);
    const all = w.acked.get("s") ?? [];
    await w.until(() => w.core.events.length + gapCount(w.core) === all.length);
    const texts = w.core.textsOf(w.idOf("s"));
    expect(texts).toEqual(all.filter((text) => texts.includes(text)));
    w.core.flush(true);
    await w.until(async () => (await w.held()) === 0);
  });

  test("events of a stream that was deleted before the core knew it hold up nothing", async () => {
    const w = await start();
    w.put("s");
    await w.step();
    const deleting = w.gateway.streams.delete(name("s"));
    await w.step();
    await deleting;
    await w.core.start();
    await w.until(async () => (await w.held()) === 0);
    expect(w.core.streams.size).toBe(0);
    w.put("t");
    await w.until(() => w.core.events.length === 1);
  });

  // Lost, doubled and late requests and answers, disconnections, failing commits, kills: in the end every acknowledged event is in
  // the core exactly once, in order, and the gateway holds nothing.
  test("exactly once through a bad network", async () => {
    const share = fc.double({ min: 0, max: 0.3, noNaN: true });
    const faults = fc.record({ lostRequests: share, lostAnswers: share, doubled: share, delayed: share, lostMessages: share });
    const streams = ["s", "t", "u", "v"];
    const put = fc.record({
      type: fc.constant("put" as const),
      stream: fc.constantFrom(...streams),
      count: fc.integer({ min: 1, max: 20 }),
    });
    const move = fc.oneof(
      { weight: 6, arbitrary: put },
      { weight: 5, arbitrary: fc.record({ type: fc.constant("time" as const), ms: fc.integer({ min: 1, max: 3_000 }) }) },
      { weight: 2, arbitrary: fc.record({ type: fc.constant("flush" as const), tell: fc.boolean() }) },
      { weight: 1, arbitrary: fc.constant({ type: "cut" as const }) },
      { weight: 1, arbitrary: fc.constant({ type: "fail" as const }) },
      { weight: 1, arbitrary: fc.constant({ type: "kill" as const }) },
    );
    const moves = fc.array(move, { minLength: 5, maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(
        fc.nat(),
        faults,
        moves,
        fc.constantFrom("tiered" as const, "committed" as const),
        async (seed, faults, moves, freeAt) => {
          const w = await start({ seed, uplink: { freeAt, unitsMax: 4 } });
          w.bus.faults = faults;
          await w.core.start();
          for (const move of moves) {
            if (move.type === "put") for (let i = 0; i < move.count; i++) w.put(move.stream, `key ${i % 3}`);
            else if (move.type === "time") await w.step(move.ms);
            else if (move.type === "flush") w.core.flush(move.tell);
            else if (move.type === "cut") w.bus.setConnected(!w.bus.connected());
            else if (move.type === "kill") await w.restart();
            else w.store.failNext = true;
          }
          w.store.failNext = false;
          w.bus.setConnected(true);
          w.bus.faults = undefined;
          await w.until(async () => {
            w.core.flush(true);
            const { counters, trouble } = w.gateway.status();
            const settled = counters.eventsAccepted === counters.eventsDurable + counters.eventsFailed;
            return (await w.held()) === 0 && trouble === "" && settled;
          }, 500);
          for (const stream of streams) {
            const texts = w.core.textsOf(w.idOf(stream));
            expect(texts).toEqual(byNumber([...new Set(texts)]));
            // What was durable but could not be acknowledged any more is there as well.
            const acked = new Set(w.acked.get(stream));
            expect(texts.filter((text) => acked.has(text))).toEqual(w.acked.get(stream) ?? []);
          }
          expect(w.core.gaps).toEqual([]);
          await w.gateway.close();
        },
      ),
      { numRuns: 40 },
    );
  });
});

function gapCount(core: ModelCore): number {
  return core.gaps.reduce((sum, gap) => sum + gap.count, 0);
}

function byNumber(texts: string[]): string[] {
  return texts.sort((a, b) => Number(a.split(" ")[1]) - Number(b.split(" ")[1]));
}
