import { systemClock } from "@tributary/common/clock";
import { createMemoryBus } from "@tributary/common/engines/memory-bus";
import { TributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import type { ObjectStore } from "@tributary/common/ports/object-store";
import type { ReadEvent } from "@tributary/common/stream-service";
import { createContainer } from "@tributary/core/container/create-container";
import { generationOf } from "@tributary/core/container/generation";
import { RestorableLog } from "@tributary/core/container/testing/past";
import { type Core, openCore } from "@tributary/core/core";
import { seededRandom } from "@tributary/core/service/testing/fast-clock";
import { MemoryObjectStore } from "@tributary/core/service/testing/memory-engines";
import { MemoryMetaStore } from "@tributary/core/service/testing/memory-meta-store";
import { type Gateway, openGateway } from "@tributary/edge/gateway/gateway";
import { createEdgeStore } from "@tributary/edge/store/log-edge-store";
import { MemoryDisk, MemoryLog } from "@tributary/edge/store/testing/memory-log";
import { afterEach, describe, expect, test, vi } from "vitest";

const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} };
const WAIT = { timeout: 20_000 };
const NAME = { scope: "plant", stream: "press" };
const closers: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const closer of closers.splice(0).reverse()) await closer();
});

/** A gateway and a core in one process, on logs that can be set back. */
class Site {
  readonly #bus = createMemoryBus();
  readonly #random = seededRandom(77);
  readonly #objects = new MemoryObjectStore();
  readonly #meta = new MemoryMetaStore();
  readonly logs = new Map<number, RestorableLog>();
  flushIntervalMs = 20;

  /** `lake.away`: nothing of this core reaches the lake any more, not even what it would rescue. */
  async startCore(lake: { away: boolean } = { away: false }): Promise<Core> {
    const objects = this.#objectsOf(lake);
    const core = await openCore({
      meta: this.#meta,
      bus: this.#bus,
      objects,
      clock: systemClock,
      random: this.#random,
      logger: SILENT,
      options: { cluster: "site", name: "core", containers: 1, shared: undefined },
      containerFactory: (id, epoch) => {
        const generation = generationOf(epoch);
        const log = this.logs.get(generation) ?? new RestorableLog();
        this.logs.set(generation, log);
        const ports = { log, objects, clock: systemClock, random: this.#random };
        return createContainer({ id, epoch, ...ports, options: { flushIntervalMs: this.flushIntervalMs, closeTimeoutMs: 100 } });
      },
    });
    closers.push(() => core.close());
    return core;
  }

  #objectsOf(lake: { readonly away: boolean }): ObjectStore {
    const store = this.#objects;
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

  async startGateway(freeAt: "committed" | "tiered"): Promise<Gateway> {
    const disk = new MemoryDisk();
    const log = async () => ({ log: new MemoryLog(disk), report: { recordsQuarantined: 0, quarantinePath: "" } });
    const gateway = await openGateway({
      store: createEdgeStore({ log, random: this.#random, clock: systemClock, checkpointBytesMin: 1 }),
      bus: this.#bus,
      cluster: "site",
      clock: systemClock,
      random: this.#random,
      log: SILENT,
      phases: { begin() {}, end() {} },
      options: {
        name: "gateway",
        version: "0",
        quota: { diskBytesMax: 2 ** 40, whenFull: "reject" },
        lingerMsMax: 2,
        streamsMax: 10,
        uplink: { freeAt, levelsIntervalMs: 20, backoffFirstMs: 5, backoffMaxMs: 50 },
      },
    });
    closers.push(() => gateway.close());
    await gateway.streams.create(NAME, { contentType: "text/plain" });
    return gateway;
  }
}

async function write(gateway: Gateway, from: number, to: number): Promise<void> {
  for (let i = from; i <= to; i++) {
    const payload = Buffer.from(`${i}`);
    await gateway.streams.append(NAME, {
      events: { count: 1, payload, ends: [payload.length], keys: undefined, timesMs: undefined },
      contentType: undefined,
    });
  }
}

async function read(core: Core): Promise<readonly ReadEvent[]> {
  return (await core.streams.read(NAME, { offset: "-1", eventsMax: 1_000, bytesMax: 1_000_000 })).events;
}

const texts = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => `${from + i}`);
const textsOf = (events: readonly ReadEvent[]) =>
  events.map((event) => (event.gap ? `gap ${event.gap.reason}` : Buffer.from(event.data).toString()));
const held = (gateway: Gateway) => gateway.status().usage.eventsHeld;

describe("a core whose log went back", () => {
  test("is sent again what a gateway holds, and nothing is doubled", async () => {
    const site = new Site();
    const first = await site.startCore();
    const gateway = await site.startGateway("tiered");
    await write(gateway, 1, 20);
    await vi.waitFor(() => expect(held(gateway)).toBe(0), WAIT);
    const saved = site.logs.get(0)?.save();
    await first.close();
    site.flushIntervalMs = 3_600_000;
    const lake = { away: false };
    const second = await site.startCore(lake);
    await write(gateway, 21, 40);
    await vi.waitFor(async () => expect(await read(second)).toHaveLength(40), WAIT);
    // It dies with its last minutes: what it knew is in nobody's hands but the gateway's.
    lake.away = true;
    await second.close();
    expect(held(gateway)).toBe(20);
    site.logs.get(0)?.restore(saved ?? { records: [], last: 0 });
    site.flushIntervalMs = 20;
    const third = await site.startCore();
    await write(gateway, 41, 45);
    await vi.waitFor(async () => expect(textsOf(await read(third))).toEqual(texts(1, 45)), WAIT);
    await vi.waitFor(() => expect(held(gateway)).toBe(0), WAIT);
  });

  test("gets a gap record for exactly the numbers that nobody has any more", async () => {
    const site = new Site();
    site.flushIntervalMs = 3_600_000;
    await site.startCore();
    const gateway = await site.startGateway("committed");
    await write(gateway, 1, 10);
    await vi.waitFor(() => expect(held(gateway)).toBe(0), WAIT);
    const saved = site.logs.get(0)?.save();
    await write(gateway, 11, 20);
    await vi.waitFor(() => expect(held(gateway)).toBe(0), WAIT);
    site.logs.get(0)?.restore(saved ?? { records: [], last: 0 });
    const next = await site.startCore();
    await write(gateway, 21, 25);
    await vi.waitFor(async () => expect((await read(next)).at(-1)?.number).toBe(25), WAIT);
    const events = await read(next);
    const lost = events.filter((event) => event.gap);
    const present = events.flatMap((event) => (event.gap ? [] : [Number(Buffer.from(event.data))]));
    // What its log still had behind its last checkpoint came again.
    const missing = texts(1, 25)
      .map(Number)
      .filter((number) => !present.includes(number));
    expect(lost.flatMap((event) => Array.from({ length: event.gap?.count ?? 0 }, (_, i) => (event.gap?.first ?? 0) + i))).toEqual(missing);
    for (const event of lost) expect(event.gap?.reason).toBe("lost-by-core");
    expect(missing.length).toBeGreaterThan(0);
    expect(present).toEqual([...present].sort((a, b) => a - b));
    await vi.waitFor(() => expect(held(gateway)).toBe(0), WAIT);
  });
});
