import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Clock, systemClock } from "@tributary/common/clock";
import { openFsObjectStore } from "@tributary/common/engines/fs-object-store";
import { createMemoryBus } from "@tributary/common/engines/memory-bus";
import { openSqliteLog } from "@tributary/common/engines/sqlite-log";
import { openSqliteMetaStore } from "@tributary/common/engines/sqlite-meta-store";
import { hasCode } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import type { Logger } from "@tributary/common/logger";
import { newId, STREAM_ID_BYTES, type StreamName } from "@tributary/common/names";
import type { Log } from "@tributary/common/ports/log";
import type { MetaStore } from "@tributary/common/ports/meta-store";
import type { ObjectStore } from "@tributary/common/ports/object-store";
import type { ReadEvent } from "@tributary/common/stream-service";
import {
  type AppendAnswer,
  type ControlRequest,
  type LevelsAnswer,
  type ResolveAnswer,
  SLICE_STATUS,
  UPLINK_SUBJECTS,
} from "@tributary/common/uplink-protocol";
import { afterEach, describe, expect, test, vi } from "vitest";
import { createContainer } from "./container/create-container.ts";
import { type Core, openCore } from "./core.ts";
import { winEpoch } from "./service/cluster-record.ts";
import { seededRandom } from "./service/testing/fast-clock.ts";
import { FaultyMetaStore } from "./service/testing/faulty-meta-store.ts";
import { gatewayBlock } from "./service/testing/gateway-block.ts";
import { MemoryLog, MemoryObjectStore } from "./service/testing/memory-engines.ts";
import { MemoryMetaStore } from "./service/testing/memory-meta-store.ts";

const CLUSTER = "test";
const WRITER = "0123456789abcdef0123456789abcdef";
const INCARNATION = "0011223344556677";
const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} };

let worlds = 0;

/** What outlives a core: its stores and the network. In memory unless other engines are given. */
class World {
  readonly store = new MemoryMetaStore();
  readonly meta: MetaStore;
  readonly objects: ObjectStore;
  readonly bus = createMemoryBus();
  readonly logs = new Map<number, Log>();
  readonly random = seededRandom(1000 + ++worlds);

  constructor(engines: { meta?: MetaStore; objects?: ObjectStore } = {}) {
    this.meta = engines.meta ?? this.store;
    this.objects = engines.objects ?? new MemoryObjectStore();
  }

  start(containers: number, options: { meta?: FaultyMetaStore; clock?: Clock } = {}): Promise<Core> {
    return openCore({
      meta: options.meta ?? this.meta,
      bus: this.bus,
      objects: this.objects,
      clock: options.clock ?? systemClock,
      random: this.random,
      logger: SILENT,
      options: { cluster: CLUSTER, name: "aa", containers, shared: undefined },
      containerFactory: (id, epoch) => {
        const log = this.logs.get(id) ?? new MemoryLog();
        this.logs.set(id, log);
        const { random, objects } = this;
        return createContainer({ id, epoch, log, objects, clock: systemClock, random, options: { flushIntervalMs: 20 } });
      },
    });
  }

  async ask<T>(subject: string, request: object): Promise<T> {
    return decodeCbor(await this.bus.request(subject, encodeCbor(request), { timeoutMs: 20_000 })) as T;
  }

  control<T>(request: ControlRequest): Promise<T> {
    return this.ask(UPLINK_SUBJECTS.control(CLUSTER), request);
  }
}

/** The uplink of a gateway at its plainest: one event at a time for each of its streams, sent until it is accepted. */
class Gateway {
  readonly #world: World;
  readonly #streams: { readonly name: StreamName; readonly provisionalId: string; readonly sent: string[] }[];

  constructor(world: World, names: readonly StreamName[]) {
    this.#world = world;
    this.#streams = names.map((name) => ({ name, provisionalId: newId(world.random, STREAM_ID_BYTES), sent: [] }));
  }

  async send(text: string): Promise<void> {
    const { streams } = await this.#world.control<ResolveAnswer>({
      type: "resolve",
      streams: this.#streams.map(({ name, provisionalId }) => {
        return { name, provisionalId, contentType: "text/plain", segments: 2, createdAtMs: 1, create: true };
      }),
    });
    for (const [i, stream] of this.#streams.entries()) {
      if (stream.sent.at(-1) === `${stream.name.stream} ${text}`) continue;
      const { id = "", containers = [] } = streams[i] ?? {};
      const first = stream.sent.length + 1;
      const container = containers[0] ?? -1;
      const slice = { streamId: id, first, texts: [`${stream.name.stream} ${text}`] };
      const bytes = gatewayBlock(WRITER, INCARNATION, [slice]);
      const answer = await this.#world.bus.request(UPLINK_SUBJECTS.append(CLUSTER, container), bytes, { timeoutMs: 20_000 });
      expect((decodeCbor(answer) as AppendAnswer).slices[0]?.[0]).toBe(SLICE_STATUS.accepted);
      stream.sent.push(slice.texts[0] as string);
    }
  }

  /** Highest number of each stream that is safe in the tier. */
  async tiered(): Promise<number[]> {
    const { streams } = await this.#world.control<ResolveAnswer>({
      type: "resolve",
      streams: this.#streams.map(({ name, provisionalId }) => {
        return { name, provisionalId, contentType: "text/plain", segments: 2, createdAtMs: 1, create: false };
      }),
    });
    return Promise.all(
      streams.map(async ({ id, containers }) => {
        const segment = { generation: 0, epoch: 0, number: 0 };
        const entries = [{ streamId: id, segment, incarnation: INCARNATION, lane: "live" }];
        const answer = await this.#world.ask<LevelsAnswer>(UPLINK_SUBJECTS.levels(CLUSTER, containers[0] ?? -1), {
          writer: WRITER,
          entries,
        });
        return answer.entries[0]?.[1] ?? 0;
      }),
    );
  }

  async checkEverythingReadable(core: Core): Promise<void> {
    for (const { name, sent } of this.#streams) {
      expect((await readAll(core, name)).map((event) => Buffer.from(event.data).toString())).toEqual(sent);
    }
  }
}

async function readAll(core: Core, name: StreamName): Promise<ReadEvent[]> {
  const events: ReadEvent[] = [];
  for (let offset = "-1"; ; ) {
    const page = await core.streams.read(name, { offset, eventsMax: 7, bytesMax: 1_000_000 });
    events.push(...page.events);
    expect(page.nextOffset > offset || page.upToDate).toBe(true);
    offset = page.nextOffset;
    if (page.upToDate) return events;
  }
}

const cores: Core[] = [];
afterEach(async () => {
  for (const core of cores.splice(0)) await core.close();
});

const NAMES = Array.from({ length: 5 }, (_, i) => ({ scope: "plant", stream: `s${i}` }));

describe("core with its containers", () => {
  test("a gateway's events are readable at once, tiered soon, and the same after a restart", async () => {
    const world = new World();
    const core = await world.start(3);
    const gateway = new Gateway(world, NAMES);
    const tieredBy = new Set<string>();
    for (let c = 0; c < 3; c++) await world.bus.subscribe(UPLINK_SUBJECTS.tiered(CLUSTER, c), (_, subject) => void tieredBy.add(subject));
    for (let i = 0; i < 20; i++) await gateway.send(`event ${i}`);
    await gateway.checkEverythingReadable(core);
    await vi.waitFor(async () => expect(await gateway.tiered()).toEqual(NAMES.map(() => 20)), { timeout: 10_000 });
    expect(tieredBy.size).toBeGreaterThan(0);
    expect(core.status()).toMatchObject({ streams: 5, eventsDurable: 100, eventsTiered: 100 });
    await core.close();

    const next = await world.start(3);
    cores.push(next);
    await gateway.checkEverythingReadable(next);
    for (let i = 20; i < 25; i++) await gateway.send(`event ${i}`);
    await gateway.checkEverythingReadable(next);
  });

  test("the same on the embedded engines", async () => {
    const folder = await mkdtemp(join(tmpdir(), "tributary-core-"));
    const open = async () => {
      const meta = await openSqliteMetaStore(join(folder, "meta.db"));
      const objects = await openFsObjectStore(join(folder, "lake"));
      const log = await openSqliteLog(join(folder, "wal-0.db"));
      const world = new World({ meta, objects });
      world.logs.set(0, log);
      const core = await world.start(1);
      const close = async () => {
        await core.close();
        for (const engine of [log, objects, meta]) await engine.close();
      };
      return { world, core, close };
    };
    try {
      const first = await open();
      const gateway = new Gateway(first.world, NAMES);
      for (let i = 0; i < 5; i++) await gateway.send(`event ${i}`);
      await gateway.checkEverythingReadable(first.core);
      const [name = { scope: "", stream: "" }] = NAMES;
      const { id } = await first.core.streams.describe(name);
      await first.close();

      const second = await open();
      await gateway.checkEverythingReadable(second.core);
      await second.core.streams.delete(name);
      expect((await second.core.streams.create(name, {})).info.id).not.toBe(id);
      expect(await second.core.streams.list({ limit: 10 })).toHaveLength(NAMES.length);
      await second.close();
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test("create, append, close, delete and create again through the StreamService", async () => {
    const world = new World();
    const core = await world.start(1);
    cores.push(core);
    const [name = { scope: "", stream: "" }] = NAMES;
    const { info } = await core.streams.create(name, { contentType: "text/plain" });
    const payload = Buffer.from("one");
    const events = { count: 1, payload, ends: [payload.length], keys: "k", timesMs: 5 };
    const producer = { id: "p", epoch: 0, seq: 0 };
    const first = await core.streams.append(name, { events, contentType: "text/plain", producer });
    const again = await core.streams.append(name, { events, contentType: "text/plain", producer });
    expect([first.duplicate, again.duplicate, again.nextOffset]).toEqual([false, true, first.nextOffset]);
    const waiting = core.streams.waitForData(name, first.nextOffset, { timeoutMs: 20_000, signal: new AbortController().signal });
    const closing = await core.streams.append(name, { events: undefined, contentType: undefined, close: true });
    expect(closing).toMatchObject({ closed: true, nextOffset: first.nextOffset });
    await waiting;
    expect(await core.streams.append(name, { events: undefined, contentType: undefined, close: true })).toMatchObject({ closed: true });
    const refused = { code: "STREAM_CLOSED", details: { nextOffset: first.nextOffset } };
    await expect(core.streams.append(name, { events, contentType: undefined })).rejects.toMatchObject(refused);
    expect(await readAll(core, name)).toMatchObject([{ key: "k", timeMs: 5, segment: "0.0.0", ordinal: 0 }]);
    await core.streams.delete(name);
    await expect(readAll(core, name)).rejects.toMatchObject({ code: "STREAM_UNKNOWN" });
    const second = await core.streams.create(name, { contentType: "text/plain" });
    expect(second.info.id).not.toBe(info.id);
    expect(await readAll(core, name)).toEqual([]);
    const closed = await core.streams.create({ scope: "plant", stream: "sealed" }, { closed: true });
    expect(closed.info.closed).toBe(true);
  });

  test("deleting an unregistered stream, or deleting twice, is fine", async () => {
    const world = new World();
    const core = await world.start(1);
    cores.push(core);
    const gateway = new Gateway(world, NAMES);
    await gateway.tiered().catch(() => {});
    const [name = { scope: "", stream: "" }] = NAMES;
    await world.control({
      type: "resolve",
      streams: [{ name, provisionalId: "11".repeat(16), contentType: "a/b", segments: 1, createdAtMs: 1, create: true }],
    });
    const results = await Promise.allSettled([1, 2, 3].map(() => core.streams.delete(name)));
    expect(results.some((result) => result.status === "fulfilled")).toBe(true);
    for (const result of results) if (result.status === "rejected") expect(hasCode(result.reason, "STREAM_UNKNOWN")).toBe(true);
    expect(await core.streams.list({ limit: 10 })).toEqual([]);
  });

  test("two nodes that both believe to be the owner double and lose nothing", async () => {
    const world = new World();
    // Hosts that do not tire of taking the containers from each other.
    const clock = { ...systemClock, setTimer: (delayMs: number, callback: () => void) => systemClock.setTimer(delayMs / 1_000, callback) };
    const [one, two] = [await world.start(2, { clock }), await world.start(2, { clock })];
    cores.push(one, two);
    const gateway = new Gateway(world, NAMES);
    const send = (text: string) => vi.waitFor(() => gateway.send(text), { timeout: 20_000 });
    for (let i = 0; i < 10; i++) await send(`event ${i}`);
    expect([one, two].some((core) => core.status().containers.some((container) => container.restarts > 0))).toBe(true);
    await one.close();
    // Without leases a deposed owner learns of it when it appends next; until then its reads end where its log ended.
    await send("the last");
    await vi.waitFor(() => gateway.checkEverythingReadable(two), { timeout: 20_000 });
  });

  test("a MetaStore that was lost does not keep containers from being owned, whatever epoch they had", async () => {
    const world = new World();
    const epochs = 400;
    for (let i = 0; i < epochs; i++) {
      const wish = { container: 0, node: "aa", above: 0, mayTake: () => true };
      await winEpoch({ meta: world.store, clock: systemClock, random: world.random }, wish);
    }
    const before = await world.start(1);
    await before.close();
    const log = world.logs.get(0);
    const restored = new World({ objects: world.objects });
    if (log) restored.logs.set(0, log);
    const core = await restored.start(1);
    cores.push(core);
    await vi.waitFor(() => expect(core.status().containers[0]).toMatchObject({ state: "serving", epoch: epochs + 2 }), 20_000);
  });

  test("a node that loses its MetaStore forever can be replaced at any moment", async () => {
    for (let operation = 8; operation < 60; operation += 3) {
      const world = new World();
      const mortal = new FaultyMetaStore(world.store, { diesAt: { operation, when: "after" } });
      const dying = await world.start(2, { meta: mortal }).catch(() => undefined);
      const gateway = new Gateway(world, NAMES);
      try {
        for (let i = 0; i < 3; i++) await gateway.send(`event ${i}`);
      } catch {
        // The node died; the gateway goes on with the next one.
      }
      await dying?.close();
      const next = await world.start(2);
      for (let i = 3; i < 5; i++) await gateway.send(`event ${i}`);
      await gateway.checkEverythingReadable(next);
      await next.close();
    }
  });
});
