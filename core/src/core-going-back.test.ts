import { systemClock } from "@tributary/common/clock";
import { createMemoryBus } from "@tributary/common/engines/memory-bus";
import { TributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import type { StreamName } from "@tributary/common/names";
import type { ObjectStore } from "@tributary/common/ports/object-store";
import { afterEach, describe, expect, test, vi } from "vitest";
import { createContainer } from "./container/create-container.ts";
import { generationOf } from "./container/generation.ts";
import { RestorableLog } from "./container/testing/past.ts";
import { type Core, openCore } from "./core.ts";
import { seededRandom } from "./service/testing/fast-clock.ts";
import { MemoryObjectStore } from "./service/testing/memory-engines.ts";
import { MemoryMetaStore } from "./service/testing/memory-meta-store.ts";

const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} };
/** Waits a hundredth of what it is told to: hosts come back soon. */
const hasty = { ...systemClock, setTimer: (delayMs: number, callback: () => void) => systemClock.setTimer(delayMs / 100, callback) };
const WAIT = { timeout: 20_000 };
let worlds = 0;

class World {
  meta = new MemoryMetaStore();
  readonly objects = new MemoryObjectStore();
  readonly logs = new Map<string, RestorableLog>();
  flushIntervalMs = 20;
  #lake = { away: false };
  readonly #random = seededRandom(5_000 + ++worlds);

  async start(containers: number): Promise<Core> {
    const core = await openCore({
      meta: this.meta,
      bus: createMemoryBus(),
      objects: this.objects,
      clock: hasty,
      random: this.#random,
      logger: SILENT,
      options: { cluster: "test", name: "aa", containers, shared: undefined },
      containerFactory: (id, epoch) => {
        const key = `${id} ${generationOf(epoch)}`;
        const log = this.logs.get(key) ?? new RestorableLog();
        this.logs.set(key, log);
        const objects = this.#objectsOf(this.#lake);
        const options = { flushIntervalMs: this.flushIntervalMs };
        return createContainer({ id, epoch, log, objects, clock: systemClock, random: this.#random, options });
      },
    });
    cores.push(core);
    return core;
  }

  /** Nothing of the cores that run reaches the lake any more; those that are started later have it. */
  cutOff(): void {
    this.#lake.away = true;
    this.#lake = { away: false };
  }

  #objectsOf(lake: { readonly away: boolean }): ObjectStore {
    const store = this.objects;
    return {
      put: async (name, data) => {
        if (lake.away) throw new TributaryError("STORAGE_FULL", "cut off by the test");
        return store.put(name, data);
      },
      get: (name, range) => store.get(name, range),
      head: (name) => store.head(name),
      list: (prefix, options) => store.list(prefix, options),
      delete: (name) => store.delete(name),
      close: () => store.close(),
    };
  }

  saveMeta(): MemoryMetaStore["history"] {
    return new Map(Array.from(this.meta.history, ([key, versions]) => [key, [...versions]]));
  }

  restoreMeta(saved: MemoryMetaStore["history"]): void {
    this.meta.history.clear();
    for (const [key, versions] of saved) this.meta.history.set(key, [...versions]);
  }

  saveLogs(): ReadonlyMap<string, ReturnType<RestorableLog["save"]>> {
    return new Map(Array.from(this.logs, ([key, log]) => [key, log.save()]));
  }

  restoreLogs(saved: ReadonlyMap<string, ReturnType<RestorableLog["save"]>>): void {
    for (const [key, log] of this.logs) log.restore(saved.get(key) ?? { records: [], last: 0 });
  }
}

const cores: Core[] = [];
afterEach(async () => {
  for (const core of cores.splice(0)) await core.close();
});

const name = (stream: string): StreamName => ({ scope: "plant", stream });

async function append(core: Core, stream: string, ...texts: string[]): Promise<string> {
  let nextOffset = "";
  for (const text of texts) {
    const payload = Buffer.from(text);
    const events = { count: 1, payload, ends: [payload.length], keys: undefined, timesMs: 5 };
    ({ nextOffset } = await core.streams.append(name(stream), { events, contentType: undefined }));
  }
  return nextOffset;
}

async function read(core: Core, stream: string, offset = "-1"): Promise<string[]> {
  const page = await core.streams.read(name(stream), { offset, eventsMax: 1_000, bytesMax: 1_000_000 });
  return page.events.map((event) => Buffer.from(event.data).toString());
}

const tiered = (core: Core) =>
  vi.waitFor(() => {
    const { eventsDurable, eventsTiered } = core.status();
    expect(eventsTiered).toBe(eventsDurable);
  }, WAIT);

const served = (core: Core) =>
  vi.waitFor(() => expect(core.status().containers.every(({ state }) => state === "serving")).toBe(true), WAIT);

describe("a MetaStore that is lost", () => {
  test("comes back from lake and containers: streams with their ids, what was deleted, and the number of containers", async () => {
    const world = new World();
    const before = await world.start(3);
    const ids = new Map<string, string>();
    for (let i = 0; i < 6; i++) {
      ids.set(`s${i}`, (await before.streams.create(name(`s${i}`), { contentType: "text/plain", segments: 2 })).info.id);
      await append(before, `s${i}`, `first of ${i}`);
    }
    await before.streams.delete(name("s5"));
    const { clusterId } = before.status();
    await before.close();

    world.meta = new MemoryMetaStore();
    const after = await world.start(1);
    await served(after);
    expect(after.status()).toMatchObject({ clusterId });
    expect(after.status().containers).toHaveLength(3);
    const infos = await after.streams.list({ limit: 10 });
    expect(infos.map((info) => [info.name.stream, info.id, info.contentType, info.segments.length])).toEqual(
      [...ids].slice(0, 5).map(([stream, id]) => [stream, id, "text/plain", 2]),
    );
    for (let i = 0; i < 5; i++) {
      expect((await after.streams.create(name(`s${i}`), { contentType: "text/plain" })).created).toBe(false);
      await append(after, `s${i}`, "second");
      expect(await read(after, `s${i}`)).toEqual([`first of ${i}`, "second"]);
    }
    await expect(read(after, "s5")).rejects.toMatchObject({ code: "STREAM_UNKNOWN" });
  });

  test("goes back to another moment than the logs: what was deleted stays so, what was created is there, names are whose they are", async () => {
    const world = new World();
    const before = await world.start(1);
    for (const stream of ["deleted", "again", "kept"]) {
      await before.streams.create(name(stream), {});
      await append(before, stream, `old ${stream}`);
    }
    const early = world.saveMeta();
    for (const stream of ["deleted", "again"]) await before.streams.delete(name(stream));
    for (const stream of ["again", "new"]) {
      await before.streams.create(name(stream), {});
      await append(before, stream, `new ${stream}`);
    }
    await before.close();

    world.restoreMeta(early);
    const after = await world.start(1);
    await served(after);
    await vi.waitFor(async () => {
      expect((await after.streams.list({ limit: 10 })).map((info) => info.name.stream)).toEqual(["again", "kept", "new"]);
      expect(await read(after, "again")).toEqual(["new again"]);
    }, WAIT);
    expect(await read(after, "new")).toEqual(["new new"]);
    expect(await read(after, "kept")).toEqual(["old kept"]);
  });
});

describe("logs that went back", () => {
  test("under a running core: readers beyond the end are told how far history is the same, and what was deleted is deleted again", async () => {
    const world = new World();
    const core = await world.start(1);
    for (const stream of ["s", "gone"]) await core.streams.create(name(stream), {});
    const first = await append(core, "s", "1", "2");
    await append(core, "gone", "x");
    await tiered(core);
    const saved = world.saveLogs();
    await core.close();
    // What it takes is in the log alone.
    world.flushIntervalMs = 3_600_000;
    const lost = await world.start(1);
    const beyond = await append(lost, "s", "3", "4");
    const seen = await lost.streams.read(name("s"), { offset: first, eventsMax: 10, bytesMax: 1_000 });
    await lost.streams.delete(name("gone"));
    world.restoreLogs(saved);

    const after = await world.start(1);
    await served(after);
    expect(seen.events).toHaveLength(2);
    await append(after, "s", "5");
    const error = (await after.streams
      .read(name("s"), { offset: beyond, eventsMax: 10, bytesMax: 1_000 })
      .catch((error: unknown) => error)) as TributaryError;
    expect(error).toMatchObject({ code: "OFFSET_UNKNOWN" });
    expect(await read(after, "s", String(error.details["nextOffset"]))).toEqual(["5"]);
    await vi.waitFor(async () => expect(after.streams.list({ limit: 10 })).resolves.toHaveLength(1), WAIT);
  });

  test("or are lost with the MetaStore: a reader at level tiered reads on as if nothing had happened", async () => {
    const world = new World();
    const page = (core: Core, offset: string, level: "committed" | "tiered") =>
      core.streams.read(name("s"), { offset, eventsMax: 1_000, bytesMax: 1_000_000, level });
    const texts = async (core: Core, offset: string) =>
      (await page(core, offset, "tiered")).events.map((event) => Buffer.from(event.data).toString());
    let offset = "-1";
    // Take-overs whose nonces only the logs know, between those that brought something into the lake.
    for (const [from, flushIntervalMs] of [20, 3_600_000, 20, 3_600_000, 3_600_000].entries()) {
      world.flushIntervalMs = flushIntervalMs;
      const core = await world.start(1);
      if (from === 0) await core.streams.create(name("s"), {});
      const { nextOffset: before } = await page(core, "now", "tiered");
      await append(core, "s", `${from}`);
      if (flushIntervalMs > 1_000) {
        // It waits there as if nothing came.
        expect(await page(core, before, "tiered")).toMatchObject({ events: [], nextOffset: before, upToDate: true });
        expect((await page(core, before, "committed")).events.map((event) => Buffer.from(event.data).toString())).toContain(`${from}`);
      } else {
        await tiered(core);
        const read = await page(core, offset, "tiered");
        expect(read.events.length).toBeGreaterThan(0);
        offset = read.nextOffset;
      }
      // It dies: nothing of what it holds is flushed.
      world.cutOff();
    }
    for (const [, log] of world.logs) log.restore({ records: [], last: 0 });
    world.meta = new MemoryMetaStore();
    const after = await world.start(1);
    await served(after);
    expect(after.status().containers[0]?.status).toMatchObject({ generation: 1 });
    expect(await texts(after, offset)).toEqual([]);
    await append(after, "s", "new");
    const waiting = after.streams.waitForData(name("s"), offset, { timeoutMs: 1e9, signal: new AbortController().signal, level: "tiered" });
    await after.close();
    await waiting;
    const last = await world.start(1);
    await served(last);
    expect(await texts(last, offset)).toEqual(["new"]);
    expect(await texts(last, "-1")).toEqual(["0", "1", "2", "new"]);
  });
});
