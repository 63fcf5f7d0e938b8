import { systemClock } from "@tributary/common/clock";
import { decodeBlock } from "@tributary/common/format/block";
import { LIMITS } from "@tributary/common/limits";
import { describe, expect, it } from "vitest";
import { decodeCheckpoint } from "./checkpoint-record.ts";
import type { StateChange } from "./edge-store.ts";
import { decodeEntry } from "./log-cursor.ts";
import { createEdgeStore } from "./log-edge-store.ts";
import { createStream, mapStream, seededRandom } from "./testing/gateway-model.ts";
import { MemoryDisk, MemoryLog } from "./testing/memory-log.ts";
import { Site } from "./testing/site.ts";

/** Text that hardly compresses. */
function noise(seed: number, bytes: number): string {
  const random = seededRandom(seed);
  return Buffer.from(random.bytes(Math.ceil((bytes * 3) / 4)))
    .toString("base64")
    .slice(0, bytes);
}

async function openSite(segments = 1): Promise<Site> {
  const site = new Site(21);
  await site.open();
  await site.create(segments);
  return site;
}

const commitTexts = (site: Site, texts: readonly string[], changes: readonly StateChange[] = []) =>
  site.gateway.commit(
    site.store,
    texts.map((text) => ({ stream: site.id(0), key: "k", text })),
    changes,
  );

describe("uplink units", () => {
  it("pass a large commit as it is in the log; only its first one in an incarnation is linked to the parent", async () => {
    const site = await openSite();
    await commitTexts(site, ["x"], site.mapping(0, false, 1));
    await site.restart();
    for (const n of [1, 2, 3]) await commitTexts(site, [noise(n, 60_000)]);
    const units = await site.store.uplinkNext(Number.POSITIVE_INFINITY);
    expect(units.map((unit) => unit.blocks.length)).toEqual([1, 1, 1, 1]);
    const [, second, third, fourth] = units.map((unit) => unit.blocks[0]?.bytes as Uint8Array);
    const inLog = (bytes: Uint8Array) => [...site.disk.records.values()].some((data) => Buffer.from(data).includes(Buffer.from(bytes)));
    expect([second, third, fourth].map((bytes) => inLog(bytes as Uint8Array))).toEqual([false, true, true]);
    expect(decodeBlock(second as Uint8Array).slices.at(0)?.parent?.last).toBe(1);
    for (const unit of units) for (const block of unit.blocks) site.core.append(block);
    site.checkCore();
  });

  it("merge small commits, across streams, into few blocks", async () => {
    const site = await openSite();
    await commitTexts(site, [], site.mapping(0, false, 1));
    for (let n = 0; n < 500; n++) await commitTexts(site, [`event ${n}`]);
    const units = await site.store.uplinkNext(Number.POSITIVE_INFINITY);
    expect(units).toHaveLength(1);
    const slices = [...decodeBlock(units[0]?.blocks[0]?.bytes as Uint8Array).slices];
    expect(slices).toMatchObject([{ first: 1, last: 500, count: 500, previous: 0 }]);
    expect(units[0]).toMatchObject({ events: 500, payloadBytes: 4390 });
  });

  it("respect the largest block with a batch that does not compress", async () => {
    const site = await openSite(2);
    const texts = Array.from({ length: 9 }, (_, n) => noise(n + 1, LIMITS.eventBytesMax));
    await site.gateway.commit(
      site.store,
      texts.map((text, n) => ({ stream: site.id(0), key: n % 2 === 0 ? "a" : "engine-1", text })),
      site.mapping(0, false, 2),
    );
    const units = await site.store.uplinkNext(1);
    for (const unit of units) {
      for (const block of unit.blocks) {
        expect(block.bytes.length).toBeLessThanOrEqual(LIMITS.blockBytesMax);
        site.core.append(block);
      }
    }
    site.checkCore();
  });

  it("wait for a stream that is not mapped, and send everything before it", async () => {
    const site = await openSite();
    await site.create(1);
    await commitTexts(site, ["a"], site.mapping(0, false, 1));
    await site.gateway.commit(site.store, [{ stream: site.id(1), key: "", text: "b" }]);
    await commitTexts(site, ["c"]);
    expect(await site.send(1_000_000, 10, true)).toBe(1);
    expect(await site.send(1_000_000, 10, true)).toBe(0);
    expect(await site.store.usage()).toMatchObject({ eventsHeld: 2, eventsUnsent: 2 });
    await site.gateway.commit(site.store, [], site.mapping(1, true, 1));
    expect(await site.send(1_000_000, 10, true)).toBe(1);
    site.checkCore();
  });

  it("wait for a mapping until it is durable: a crash before would undo it (simulation, seed 6475)", async () => {
    const disk = new MemoryDisk();
    let written = Promise.resolve();
    class SlowLog extends MemoryLog {
      override async append(data: Uint8Array, expectedLast: number): Promise<number> {
        await written;
        return super.append(data, expectedLast);
      }
    }
    const site = new Site(21);
    site.store = createEdgeStore({
      log: async () => ({ log: new SlowLog(disk), report: { recordsQuarantined: 0, quarantinePath: "" } }),
      random: seededRandom(21),
      clock: systemClock,
    });
    await site.open();
    await site.create(1);
    await commitTexts(site, ["a"]);
    const slow = Promise.withResolvers<void>();
    written = slow.promise;
    const mapped = site.gateway.commit(site.store, [], site.mapping(0, false, 1));
    expect(await site.store.uplinkNext(1_000_000)).toEqual([]);
    slow.resolve();
    await mapped;
    expect(await site.send(1_000_000, 10, true)).toBe(1);
    site.checkCore();
  });

  it("give up the events of a deleted stream: with gap records where the core has it, else by themselves", async () => {
    const site = await openSite();
    await site.create(1);
    await commitTexts(site, ["a", "b"], site.mapping(0, false, 1));
    await site.gateway.commit(site.store, [{ stream: site.id(1), key: "", text: "c" }]);
    const deleted: StateChange[] = [0, 1].map((n) => ({ type: "delete-stream", id: site.id(n) }));
    await site.gateway.commit(site.store, [], deleted);
    const units = await site.store.uplinkNext(1_000_000);
    const slices = units.flatMap((unit) => unit.blocks.flatMap((block) => [...decodeBlock(block.bytes).slices]));
    expect(slices).toMatchObject([{ kind: "gap", first: 1, last: 2, count: 2, reason: "quarantined" }]);
    await site.store.uplinkFree(units.at(-1)?.unit as number);
    expect(await site.store.usage()).toMatchObject({ eventsHeld: 0, eventsSkipped: 3 });
    // Nothing of them is held: the next incarnation knows them no more, once a checkpoint has said so.
    for (let n = 0; n < 20; n++) await site.gateway.commit(site.store, [], [{ type: "packet-id", clientId: "c", packetId: n + 1 }]);
    await site.store.uplinkNext(1);
    await site.store.close();
    const opened = await site.store.open();
    expect(opened.state.streams).toEqual([]);
  });

  it("do not bring what is freed again, after a crash, once the stream goes on in another one of the core (simulation, seed 4)", async () => {
    const site = await openSite();
    await commitTexts(site, ["a"], site.mapping(0, false, 1));
    await site.restart();
    await commitTexts(site, ["b"]);
    await site.send(1_000_000, 10, true);
    const id = site.id(1000);
    const { containers } = site.core.register(id, 1, [0]);
    await site.gateway.commit(site.store, [], [mapStream(site.id(0), { id, segments: 1, containers })]);
    await site.store.uplinkRewind();
    await commitTexts(site, ["c"]);
    await site.send(1_000_000, 10, false);
    await site.restart();
    await commitTexts(site, ["d"]);
    await site.send(1_000_000, 10, true);
    expect(site.core.streams.get(id)?.events.map(({ text }) => text)).toEqual(["c", "d"]);
  });

  it("name no unit from before a rewind, and report what is held from then on", async () => {
    const site = await openSite();
    await commitTexts(site, ["a"], site.mapping(0, false, 1));
    const [before] = await site.store.uplinkNext(1);
    await site.store.uplinkRewind();
    expect(await site.store.uplinkFree(before?.unit as number)).toEqual({ events: 0, firstOrdinals: [] });
    const [after] = await site.store.uplinkNext(1);
    expect(after?.unit).toBeGreaterThan(before?.unit as number);
    const freed = await site.store.uplinkFree(after?.unit as number);
    expect(freed).toEqual({ events: 1, firstOrdinals: [{ streamId: site.id(0), firstOrdinal: 1 }] });
  });

  it("refuse a second stream under an id that is taken", async () => {
    const site = await openSite();
    await site.create(1);
    const mapping = { id: site.id(0), segments: 1, containers: [0] };
    await site.gateway.commit(site.store, [], [mapStream(site.id(0), mapping)]);
    await expect(site.gateway.commit(site.store, [], [mapStream(site.id(1), mapping)])).rejects.toMatchObject({ code: "INTERNAL" });
    await expect(site.store.usage()).rejects.toMatchObject({ code: "LOG_CLOSED" });
    await site.reopen();
    expect(await site.store.usage()).toMatchObject({ eventsHeld: 0 });
  });
});

describe("recovery", () => {
  it("reads no more than what lies behind the last checkpoint, however large the backlog", async () => {
    const site = await openSite();
    for (let n = 0; n < 3_000; n++) await commitTexts(site, [`event ${n}`]);
    await site.store.close();
    const opened = await site.store.open();
    expect(opened.report.recordsRead).toBeLessThan(20);
    expect(opened.state.streams[0]).toMatchObject({ nextOrdinal: 3_000, firstOrdinal: 0 });
    expect(await site.store.usage()).toMatchObject({ eventsHeld: 3_000, eventsUnsent: 3_000 });
  });

  it("does not carry deleted streams on once nothing of them is held", async () => {
    const site = await openSite();
    await commitTexts(site, [], site.mapping(0, false, 1));
    for (let n = 0; n < 300; n++) {
      const id = site.id(100 + n);
      const mapped = n % 2 === 0;
      if (mapped) site.core.register(id, 1, [0]);
      const changes = [createStream(id, 1), ...(mapped ? [mapStream(id, { id, segments: 1, containers: [0] })] : [])];
      await site.gateway.commit(site.store, [{ stream: id, key: "", text: `${n}` }], changes);
      await commitTexts(site, [`event ${n}`], [{ type: "delete-stream", id }]);
      await site.send(1_000_000, 10, true);
    }
    // Only now: a name that came again in the same incarnation must not be mapped where events have the same numbers.
    await site.restart();
    for (let n = 0; n < 100; n++) {
      await commitTexts(site, [`event ${300 + n}`]);
      await site.send(1_000_000, 10, true);
    }
    const checkpoints = [...site.disk.records].flatMap(([seq, data]) => {
      const entry = decodeEntry({ seq, data });
      return entry?.kind === "checkpoint" ? [decodeCheckpoint(entry.raw)] : [];
    });
    const { state, fold, numbers } = checkpoints.at(-1) as (typeof checkpoints)[number];
    expect(state.streams.length).toBeLessThan(40);
    expect(fold.chains.length + fold.cursors.length + numbers.length).toBeLessThan(120);
    await commitTexts(site, ["last"]);
    await site.drain();
    expect(site.core.streams.get(site.id(0))?.events.at(-1)?.text).toBe("last");
  });

  it("remembers where a deleted stream went while another of its name holds events of the same incarnation (seed 9)", async () => {
    const site = await openSite();
    const name = { scope: "test", stream: "again" };
    const [first, second] = [site.id(100), site.id(101)];
    site.core.register(first, 1, [0]);
    const created = (id: string) => ({ ...createStream(id, 1), name }) as StateChange;
    const mapping = { id: first, segments: 1, containers: [0] };
    await site.gateway.commit(site.store, [{ stream: first, key: "", text: "one" }], [created(first), mapStream(first, mapping)]);
    await commitTexts(site, [], [...site.mapping(0, false, 1), { type: "delete-stream", id: first }]);
    await site.drain();
    await site.gateway.commit(site.store, [{ stream: second, key: "", text: "two" }], [created(second)]);
    const mapped = async () => {
      await site.store.close();
      const { state } = await site.store.open();
      return state.streams.filter((stream) => stream.name.stream === "again").map((stream) => stream.mapping?.id);
    };
    expect(await mapped()).toEqual([first, undefined]);
    expect(await mapped()).toEqual([first, undefined]);
  });

  it("keeps a few checkpoints' worth of the log once everything is freed", async () => {
    const site = await openSite();
    for (let n = 0; n < 600; n++) {
      await commitTexts(site, [`event ${n}`], n === 0 ? site.mapping(0, false, 1) : []);
      await site.send(1_000_000, 10, true);
    }
    expect(site.disk.records.size).toBeLessThan(60);
    // A reader at the beginning gets what is still there.
    await commitTexts(site, ["held"]);
    const { events, nextOrdinal } = await site.store.readLocal(site.id(0), 0, { eventsMax: 1_000, bytesMax: 100_000 });
    expect(events[0]?.ordinal).toBeGreaterThan(500);
    expect(events.some((event) => event.gap)).toBe(false);
    expect(nextOrdinal).toBe(601);
    expect(Buffer.from(events.at(-1)?.data ?? []).toString()).toBe("held");
  });
});
