import { createMemoryBus } from "@tributary/common/engines/memory-bus";
import { type ErrorCode, TributaryError } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { LIMITS } from "@tributary/common/limits";
import { createLogger } from "@tributary/common/logger";
import type { EventPack } from "@tributary/common/stream-service";
import {
  type AppendAnswer,
  type ControlRequest,
  type FetchAnswer,
  type HelloAnswer,
  type LevelsAnswer,
  type ResolveAnswer,
  SLICE_STATUS,
  UPLINK_SUBJECTS,
} from "@tributary/common/uplink-protocol";
import { afterEach, describe, expect, test, vi } from "vitest";
import { type Core, openCore } from "./core.ts";
import { FakeContainer, FakeWal } from "./service/testing/fake-container.ts";
import { fastClock, NEVER_MS, seededRandom } from "./service/testing/fast-clock.ts";
import { Death, FaultyMetaStore } from "./service/testing/faulty-meta-store.ts";
import { type BlockSlice, gatewayBlock } from "./service/testing/gateway-block.ts";
import { MemoryObjectStore } from "./service/testing/memory-engines.ts";
import { MemoryMetaStore } from "./service/testing/memory-meta-store.ts";

const CLUSTER = "test";
const WRITER = "0123456789abcdef0123456789abcdef";
const WITHIN = { timeoutMs: 20_000 };
const NAME = { scope: "plant", stream: "press" };
const P1 = "11".repeat(16);
const P2 = "22".repeat(16);

/** A cluster's disks and network; cores come and go on it. */
class World {
  readonly meta = new MemoryMetaStore();
  readonly objects = new MemoryObjectStore();
  readonly bus = createMemoryBus();
  readonly wals = new Map<number, FakeWal>();
  /** Every instance ever made. */
  readonly instances: FakeContainer[] = [];
  readonly logged: string[] = [];
  #seed = 1;

  start(options: { containers?: number; meta?: MemoryMetaStore | FaultyMetaStore } = {}): Promise<Core> {
    return openCore({
      meta: options.meta ?? this.meta,
      bus: this.bus,
      objects: this.objects,
      containerFactory: (id, epoch) => {
        const wal = this.wals.get(id) ?? new FakeWal();
        this.wals.set(id, wal);
        const container = new FakeContainer(id, epoch, wal);
        this.instances.push(container);
        return container;
      },
      clock: fastClock(),
      random: seededRandom(this.#seed++),
      options: { cluster: CLUSTER, name: "aa", containers: options.containers ?? 1, shared: undefined },
      logger: createLogger({ level: "info", clock: fastClock(), write: (line) => void this.logged.push(line) }),
    });
  }

  async control<T>(request: ControlRequest): Promise<T> {
    return decodeCbor(await this.bus.request(UPLINK_SUBJECTS.control(CLUSTER), encodeCbor(request), WITHIN)) as T;
  }

  async send(container: number, block: Uint8Array): Promise<AppendAnswer["slices"]> {
    const answer = decodeCbor(await this.bus.request(UPLINK_SUBJECTS.append(CLUSTER, container), block, WITHIN)) as AppendAnswer;
    return answer.slices;
  }

  resolve(...wishes: { id: string; name?: typeof NAME; create?: boolean; contentType?: string }[]): Promise<ResolveAnswer["streams"]> {
    const streams = wishes.map(({ id, name, create, contentType }) => ({
      name: name ?? NAME,
      provisionalId: id,
      contentType: contentType ?? "text/plain",
      segments: 2,
      createdAtMs: 7,
      create: create ?? true,
    }));
    return this.control<ResolveAnswer>({ type: "resolve", streams }).then((answer) => answer.streams);
  }
}

const cores: Core[] = [];
afterEach(async () => {
  for (const core of cores.splice(0)) await core.close();
});

async function running(options: { containers?: number } = {}): Promise<{ world: World; core: Core }> {
  const world = new World();
  const core = await world.start(options);
  cores.push(core);
  return { world, core };
}

function pack(...texts: string[]): EventPack {
  const payloads = texts.map((text) => Buffer.from(text));
  let end = 0;
  return {
    count: texts.length,
    payload: Buffer.concat(payloads),
    ends: payloads.map((payload) => {
      end += payload.length;
      return end;
    }),
    keys: undefined,
    timesMs: undefined,
  };
}

function block(slices: readonly BlockSlice[]): Uint8Array {
  return gatewayBlock(WRITER, "0011223344556677", slices);
}

async function texts(core: Core, offset = "-1", name = NAME): Promise<string[]> {
  const page = await core.streams.read(name, { offset, eventsMax: 1_000, bytesMax: 1_000_000 });
  return page.events.map((event) => Buffer.from(event.data).toString());
}

function code(expected: ErrorCode): object {
  return { code: expected };
}

describe("streams of the core", () => {
  test("are created, written, read, described, listed, closed and deleted", async () => {
    const { core } = await running({ containers: 4 });
    const { streams } = core;
    const { created, info } = await streams.create(NAME, { contentType: "text/plain", segments: 3 });
    expect(created).toBe(true);
    expect(info).toMatchObject({ name: NAME, contentType: "text/plain", closed: false, events: 0 });
    expect(info.segments.map(({ id, range }) => [id, range.from])).toEqual([
      ["0.0.0", 0],
      ["0.0.1", Math.floor(2 ** 32 / 3)],
      ["0.0.2", Math.floor((2 * 2 ** 32) / 3)],
    ]);
    const { nextOffset } = await streams.append(NAME, { events: pack("a", "b"), contentType: "TEXT/plain; charset=utf-8" });
    expect(await texts(core)).toEqual(["a", "b"]);
    await streams.append(NAME, { events: pack("c"), contentType: undefined });
    const page = await streams.read(NAME, { offset: nextOffset, eventsMax: 10, bytesMax: 10 });
    expect(page).toMatchObject({ upToDate: true, closed: false, contentType: "text/plain" });
    expect(await streams.read(NAME, { offset: "now", eventsMax: 1, bytesMax: 1 })).toMatchObject({
      events: [],
      nextOffset: page.nextOffset,
    });
    expect(await streams.read(NAME, { offset: "-1", eventsMax: 1, bytesMax: 1 })).toMatchObject({ upToDate: false });
    expect(await streams.append(NAME, { events: undefined, contentType: undefined, close: true })).toMatchObject({ closed: true });
    for (const contentType of [undefined, "text/html"]) {
      const refused = { code: "STREAM_CLOSED", details: { nextOffset: page.nextOffset } };
      await expect(streams.append(NAME, { events: pack("d"), contentType })).rejects.toMatchObject(refused);
    }
    expect(await streams.read(NAME, { offset: page.nextOffset, eventsMax: 1, bytesMax: 1 })).toMatchObject({ closed: true });
    expect(await streams.describe(NAME)).toMatchObject({ events: 3, closed: true, nextOffset: page.nextOffset });
    expect(await streams.listScopes()).toEqual(["plant"]);
    expect(core.status()).toMatchObject({ streams: 1, eventsDurable: 3 });

    await streams.delete(NAME);
    for (const gone of [streams.describe(NAME), streams.delete(NAME), texts(core)]) {
      await expect(gone).rejects.toMatchObject(code("STREAM_UNKNOWN"));
    }
    const again = await streams.create(NAME, { contentType: "text/plain" });
    expect(again.info.id).not.toBe(info.id);
    await expect(texts(core, page.nextOffset)).rejects.toMatchObject(code("OFFSET_FOREIGN"));
    expect(await texts(core)).toEqual([]);
  });

  test("creating again with the same configuration changes nothing, with another is refused", async () => {
    const { core } = await running();
    const first = await core.streams.create(NAME, { contentType: "text/plain", closed: true });
    expect(first.info.closed).toBe(true);
    const second = await core.streams.create(NAME, { contentType: "Text/Plain", closed: true });
    expect(second).toMatchObject({ created: false, info: { id: first.info.id } });
    for (const other of [
      { contentType: "text/html", closed: true },
      { contentType: "text/plain" },
      { contentType: "text/plain", closed: true, segments: 2 },
    ]) {
      await expect(core.streams.create(NAME, other)).rejects.toMatchObject(code("STREAM_EXISTS"));
    }
  });

  test("creating again without a number of segments leaves the stream what it has", async () => {
    const { core } = await running();
    await core.streams.create(NAME, { segments: 4 });
    const again = await core.streams.create(NAME, {});
    expect(again.created).toBe(false);
    expect(again.info.segments).toHaveLength(4);
  });

  test.each([
    { segments: 0 },
    { segments: 1_025 },
    { segments: 1.5 },
    { contentType: "" },
    { contentType: "text" },
    { contentType: "text/plain\r\nX: y" },
    { contentType: `text/${"x".repeat(256)}` },
  ])("cannot be created with %j", async (options) => {
    const { core } = await running();
    await expect(core.streams.create(NAME, options)).rejects.toMatchObject(code("INVALID_REQUEST"));
    expect(await core.streams.list({ limit: 10 })).toEqual([]);
  });

  test("refuse bad names, other content types and offsets that are not theirs", async () => {
    const { world, core } = await running();
    const { streams } = core;
    await expect(streams.create({ scope: "a/b", stream: "c" }, {})).rejects.toMatchObject(code("INVALID_NAME"));
    const { info } = await streams.create(NAME, { contentType: "text/plain" });
    const { nextOffset } = await streams.append(NAME, { events: pack("a", "b"), contentType: undefined });
    await expect(streams.append(NAME, { events: pack("a"), contentType: "text/html" })).rejects.toMatchObject(
      code("CONTENT_TYPE_MISMATCH"),
    );
    const tag = info.id.slice(0, 8);
    await expect(texts(core, `c1_0000000000000003_${tag}`)).rejects.toMatchObject({
      code: "OFFSET_UNKNOWN",
      details: { nextOffset },
    });
    await expect(texts(core, "g1_0000000000000001_x")).rejects.toMatchObject(code("OFFSET_FOREIGN"));
    await expect(texts(core, "seven")).rejects.toMatchObject(code("OFFSET_INVALID"));
    const stream = world.wals.get(0)?.streams.get(info.id);
    if (stream) stream.firstChain = 1;
    await expect(texts(core, `c1_0000000000000000_${tag}`)).rejects.toMatchObject(code("OFFSET_GONE"));
    expect(await texts(core)).toEqual(["b"]);
  });

  test("are listed page by page, in order of name", async () => {
    const { core } = await running({ containers: 4 });
    const names = Array.from({ length: 25 }, (_, i) => ({ scope: i % 2 ? "b" : "a", stream: `s${i}` }));
    for (const name of names) await core.streams.create(name, {});
    const seen: string[] = [];
    for (let after: typeof NAME | undefined; ; ) {
      const page = await core.streams.list({ limit: 7, ...(after ? { after } : {}) });
      seen.push(...page.map(({ name }) => `${name.scope}/${name.stream}`));
      after = page.at(-1)?.name;
      if (!after) break;
    }
    expect(seen).toEqual(names.map(({ scope, stream }) => `${scope}/${stream}`).sort());
    expect(await core.streams.list({ scope: "b", limit: 100 })).toHaveLength(12);
    expect(await core.streams.listScopes()).toEqual(["a", "b"]);
  });

  test("one of two concurrent creations creates; both learn the same id", async () => {
    const { core } = await running();
    const results = await Promise.all(Array.from({ length: 8 }, () => core.streams.create(NAME, {})));
    expect(new Set(results.map(({ info }) => info.id)).size).toBe(1);
    expect(results.filter(({ created }) => created)).toHaveLength(1);
  });

  test("creations and deletions of one name may meet in any order", async () => {
    const { world, core } = await running();
    const random = seededRandom(7);
    const ids = new Set<string>();
    for (let round = 0; round < 30; round++) {
      await Promise.all(
        Array.from({ length: 8 }, async () => {
          if (random.float() < 0.5) ids.add((await core.streams.create(NAME, {})).info.id);
          else await core.streams.delete(NAME).catch((error: unknown) => expect(error).toMatchObject(code("STREAM_UNKNOWN")));
        }),
      );
    }
    const left = await core.streams.list({ limit: 10 });
    expect([...(world.wals.get(0)?.streams.keys() ?? [])]).toEqual(left.map((info) => info.id));
    expect(core.status().streams).toBe(left.length);
    expect(new Set(world.wals.get(0)?.registered).size).toBe(world.wals.get(0)?.registered.length);
    expect(ids.size).toBeGreaterThan(10);
  });

  test("a reader waits until there is something, the time is over, or the stream goes", async () => {
    const { core } = await running();
    await core.streams.create(NAME, {});
    const wait = (timeoutMs: number, signal = new AbortController().signal) => core.streams.waitForData(NAME, "now", { timeoutMs, signal });
    await wait(10);
    const abort = new AbortController();
    const aborted = expect(wait(NEVER_MS, abort.signal)).resolves.toBeUndefined();
    abort.abort();
    await aborted;
    await core.streams.append(NAME, { events: pack("x"), contentType: undefined });
    await core.streams.waitForData(NAME, "-1", { timeoutMs: NEVER_MS, signal: new AbortController().signal });
  });
});

describe("uplink", () => {
  test("blocks of a gateway become readable; its levels and its own events come back", async () => {
    const { world, core } = await running();
    const [stream] = await world.resolve({ id: P1 });
    expect(stream).toEqual({ id: P1, contentType: "text/plain", segments: 2, containers: [0, 0], problem: "" });
    expect(await world.send(0, block([{ streamId: P1, first: 1, texts: ["a", "b"] }]))).toEqual([[SLICE_STATUS.accepted, 0]]);
    expect(await world.send(0, block([{ streamId: P1, first: 4, texts: ["d"] }]))).toEqual([[SLICE_STATUS.previousNotReached, 2]]);
    await core.streams.append(NAME, { events: pack("by HTTP"), contentType: undefined });
    expect(await texts(core)).toEqual(["a", "b", "by HTTP"]);
    expect(await core.streams.describe(NAME)).toMatchObject({ id: P1, createdAtMs: 7 });

    const entry = { streamId: P1, segment: { generation: 0, epoch: 0, number: 0 }, incarnation: "0011223344556677", lane: "live" as const };
    const levels = await world.bus.request(UPLINK_SUBJECTS.levels(CLUSTER, 0), encodeCbor({ writer: WRITER, entries: [entry] }), WITHIN);
    expect((decodeCbor(levels) as LevelsAnswer).entries).toEqual([[2, 0]]);

    const fetched = await world.control<FetchAnswer>({ type: "fetch", name: NAME, writer: WRITER, offset: "-1", bytesMax: 1e6 });
    expect(fetched.events.map(({ number, data }) => [number, Buffer.from(data).toString()])).toEqual([
      [1, "a"],
      [2, "b"],
    ]);
    expect(fetched).toMatchObject({ upToDate: true, streamId: P1, gaps: [] });
    const fetchUnknown = world.control({ type: "fetch", name: { ...NAME, stream: "other" }, writer: WRITER, offset: "-1", bytesMax: 1 });
    await expect(fetchUnknown).rejects.toMatchObject(code("STREAM_UNKNOWN"));
  });

  test("a fetch works through a long stream in bounded steps", async () => {
    const { world, core } = await running();
    await world.resolve({ id: P1 });
    for (let i = 0; i < 7; i++) {
      await core.streams.append(NAME, { events: pack(...new Array<string>(10_000).fill("foreign")), contentType: undefined });
    }
    await world.send(0, block([{ streamId: P1, first: 1, texts: ["mine"] }]));
    const found: string[] = [];
    let calls = 0;
    for (let offset = "-1", upToDate = false; !upToDate; calls++) {
      const answer = await world.control<FetchAnswer>({ type: "fetch", name: NAME, writer: WRITER, offset, bytesMax: 1e6 });
      found.push(...answer.events.map((event) => Buffer.from(event.data).toString()));
      ({ nextOffset: offset, upToDate } = answer);
    }
    expect(found).toEqual(["mine"]);
    expect(calls).toBeGreaterThan(1);
  });

  test("a stream that nobody knows is gone, one of another container is elsewhere, and both leave the others alone", async () => {
    const { world, core } = await running({ containers: 4 });
    const ids = Array.from({ length: 16 }, (_, i) => i.toString(16).repeat(32));
    const streams = await world.resolve(...ids.map((id, i) => ({ id, name: { scope: "many", stream: `s${i}` } })));
    const [here, there] = [0, 1].map((container) => streams.find((stream) => stream.containers[0] === container)?.id ?? "");
    const answer = await world.send(
      0,
      block([
        { streamId: "ab".repeat(16), first: 1, texts: ["x"] },
        { streamId: there ?? "", first: 1, texts: ["y"] },
        { streamId: here ?? "", first: 1, texts: ["z"] },
      ]),
    );
    expect(answer.map(([status]) => status)).toEqual([SLICE_STATUS.streamGone, SLICE_STATUS.wrongContainer, SLICE_STATUS.accepted]);
    expect(core.status()).toMatchObject({ eventsDurable: 1 });
  });

  test("blocks of one writer keep their order while streams of the first are looked up", async () => {
    const { world, core } = await running();
    const other = { scope: "plant", stream: "other" };
    await world.resolve({ id: P1 }, { id: P2, name: other });
    await world.send(0, block([{ streamId: P1, first: 1, texts: ["a"] }]));
    // The first needs to register P2, the second does not.
    const answers = await Promise.all([
      world.send(
        0,
        block([
          { streamId: P1, first: 2, texts: ["b"] },
          { streamId: P2, first: 1, texts: ["x"] },
        ]),
      ),
      world.send(0, block([{ streamId: P1, first: 3, texts: ["c"] }])),
      world.send(0, block([{ streamId: P1, first: 4, texts: ["d"] }])),
    ]);
    expect(answers.flat().every(([status]) => status === SLICE_STATUS.accepted)).toBe(true);
    expect(await texts(core)).toEqual(["a", "b", "c", "d"]);
  });

  test("looks a stream up once, not once a block", async () => {
    const { world } = await running();
    await world.resolve({ id: P1 });
    const get = vi.spyOn(world.meta, "get");
    await Promise.all(Array.from({ length: 10 }, (_, i) => world.send(0, block([{ streamId: P1, first: i + 1, texts: ["x"] }]))));
    expect(get.mock.calls.filter(([key]) => key === `ids/${P1}`)).toHaveLength(1);
    expect(world.wals.get(0)?.registered).toEqual([P1]);
  });

  test("tells gateways when a container has flushed", async () => {
    const { world } = await running({ containers: 2 });
    const heard: string[] = [];
    await world.bus.subscribe(UPLINK_SUBJECTS.tiered(CLUSTER, 1), (_, subject) => void heard.push(subject));
    world.instances.find((container) => container.id === 1)?.flush();
    await vi.waitFor(() => expect(heard).toEqual([UPLINK_SUBJECTS.tiered(CLUSTER, 1)]));
  });

  test("a container that is overloaded, and too many requests at once, reach the gateway as OVERLOADED", async () => {
    const { world, core } = await running();
    await world.resolve({ id: P1 });
    await world.send(0, block([{ streamId: P1, first: 1, texts: ["a"] }]));
    const container = world.instances[0];
    if (!container) throw new Error("no container");
    vi.spyOn(container, "appendBlock").mockRejectedValueOnce(new TributaryError("OVERLOADED", "by the test"));
    await expect(world.send(0, block([{ streamId: P1, first: 2, texts: ["b"] }]))).rejects.toMatchObject(code("OVERLOADED"));
    await world.send(0, block([{ streamId: P1, first: 2, texts: ["b"] }]));

    const held = Promise.withResolvers<void>();
    vi.spyOn(container, "read").mockImplementation(async () => {
      await held.promise;
      return { events: [], nextChain: 2 };
    });
    const fetches = Array.from({ length: LIMITS.controlRequestsInFlightMax + 1 }, () =>
      world.control({ type: "fetch", name: NAME, writer: WRITER, offset: "-1", bytesMax: 1 }),
    );
    await expect(fetches.at(-1)).rejects.toMatchObject(code("OVERLOADED"));
    held.resolve();
    await Promise.all(fetches.slice(0, -1));
    vi.restoreAllMocks();
    expect(await texts(core)).toEqual(["a", "b"]);
  });

  test("answers garbage with the code for it", async () => {
    const { world } = await running();
    const append = (bytes: Uint8Array) => world.bus.request(UPLINK_SUBJECTS.append(CLUSTER, 0), bytes, WITHIN);
    await expect(append(Buffer.from("garbage"))).rejects.toMatchObject(code("BLOCK_CORRUPT"));
    const damaged = Uint8Array.from(block([{ streamId: P1, first: 1, texts: ["x"] }]));
    damaged[20] = (damaged[20] ?? 0) ^ 1;
    await expect(append(damaged)).rejects.toMatchObject(code("BLOCK_CORRUPT"));
    const stream = { name: NAME, provisionalId: P1, contentType: "a/b", segments: 1, createdAtMs: 0, create: true };
    const hello = { type: "hello", writer: WRITER, incarnation: "00".repeat(8), parent: undefined, name: "", version: "" };
    const bad: unknown[] = [
      undefined,
      [],
      "hello",
      { type: "bye" },
      { ...hello, writer: "../../etc" },
      { ...hello, incarnation: "AA".repeat(8) },
      { ...hello, parent: 5 },
      { ...hello, name: "x".repeat(1_000) },
      { type: "resolve", streams: {} },
      { type: "resolve", streams: [null] },
      ...[
        { name: "x" },
        { name: { scope: "a", stream: "*" } },
        { segments: 0 },
        { segments: 2n ** 60n },
        { create: 1 },
        { contentType: "none" },
      ].map((change) => ({ type: "resolve", streams: [{ ...stream, ...change }] })),
      { type: "resolve", streams: new Array(1_025).fill(stream) },
      { type: "fetch", name: NAME, writer: WRITER, offset: "-1", bytesMax: 0 },
    ];
    for (const request of bad) {
      await expect(world.bus.request(UPLINK_SUBJECTS.control(CLUSTER), encodeCbor(request), WITHIN)).rejects.toMatchObject(
        code("INVALID_REQUEST"),
      );
    }
    const control = world.bus.request(UPLINK_SUBJECTS.control(CLUSTER), Uint8Array.of(0xff, 0x00), WITHIN);
    await expect(control).rejects.toMatchObject(code("INVALID_REQUEST"));
    const levels = world.bus.request(
      UPLINK_SUBJECTS.levels(CLUSTER, 0),
      encodeCbor({ writer: WRITER, entries: [{ lane: "fast" }] }),
      WITHIN,
    );
    await expect(levels).rejects.toMatchObject(code("INVALID_REQUEST"));
    expect(await world.meta.list("streams")).toEqual([]);
  });
});

describe("a stream that was deleted", () => {
  test("is not brought back by a record that was read too late", async () => {
    const world = new World();
    const first = await world.start();
    await world.resolve({ id: P1 });
    await world.send(0, block([{ streamId: P1, first: 1, texts: ["a"] }]));
    await first.streams.delete(NAME);
    await first.close();
    // The next core's first reads show the record as it was before the deletion, and the id as it was before its removal.
    const stale = new Map<string, number>();
    const staleBy = (key: string) => {
      const by = stale.get(key) ?? 0;
      stale.delete(key);
      return by;
    };
    const second = await world.start({ meta: new FaultyMetaStore(world.meta, { staleBy }) });
    cores.push(second);
    stale.set("streams/plant/press", 2);
    await expect(second.streams.append(NAME, { events: pack("b"), contentType: undefined })).rejects.toMatchObject(code("STREAM_UNKNOWN"));
    stale.set("streams/plant/press", 2).set(`ids/${P1}`, 1);
    const answer = await world.send(0, block([{ streamId: P1, first: 2, texts: ["b"] }]));
    expect(answer).toEqual([[SLICE_STATUS.streamGone, 0]]);
    expect(stale.size).toBe(0);
    expect(world.wals.get(0)?.registered).toEqual([P1]);
  });
});

describe("resolve", () => {
  test("gives the same answer to every retry, also after another core took over and after the deletion", async () => {
    const world = new World();
    const first = await world.start();
    const answers = await Promise.all([1, 2, 3].map(() => world.resolve({ id: P1 })));
    expect(answers.every(([stream]) => stream?.id === P1 && stream.problem === "")).toBe(true);
    await first.close();
    const second = await world.start({ containers: 3 });
    cores.push(second);
    expect(await world.resolve({ id: P1 })).toEqual(answers[0]);
    await second.streams.delete(NAME);
    expect(await world.resolve({ id: P1 })).toMatchObject([{ id: undefined, problem: "deleted" }]);
    expect(await world.resolve({ id: P2 })).toMatchObject([{ id: P2, problem: "" }]);
    expect(await world.resolve({ id: P1 })).toMatchObject([{ id: undefined, problem: "deleted" }]);
  });

  test("maps to what exists, and says what cannot be mapped", async () => {
    const { world, core } = await running();
    const { info } = await core.streams.create(NAME, { contentType: "text/plain", segments: 5 });
    const other = { scope: "plant", stream: "other" };
    expect(
      await world.resolve(
        { id: P1 },
        { id: P1, contentType: "text/html" },
        { id: P1, create: false },
        { id: P1, name: other, create: false },
        { id: P2, name: other },
        { id: P2, name: { scope: "plant", stream: "third" } },
      ),
    ).toMatchObject([
      { id: info.id, segments: 5, problem: "" },
      { id: undefined, contentType: "text/plain", problem: "conflict" },
      { id: info.id, problem: "" },
      { id: undefined, problem: "unknown" },
      { id: P2, problem: "" },
      { id: undefined, problem: "conflict" },
    ]);
  });
});

describe("hello", () => {
  const hello = (world: World, incarnation: number, parent: number | undefined) => {
    const id = (n: number) => n.toString(16).padStart(16, "0");
    return world.control<HelloAnswer>({
      type: "hello",
      writer: WRITER,
      incarnation: id(incarnation),
      parent: parent === undefined ? undefined : id(parent),
      name: "gateway",
      version: "1",
    });
  };

  test("reports incarnations with the same parent, however often it is said", async () => {
    const { world, core } = await running({ containers: 2 });
    expect(await hello(world, 1, undefined)).toMatchObject({ containers: 2, siblings: [] });
    expect((await hello(world, 2, 1)).siblings).toEqual([]);
    expect((await hello(world, 3, 2)).siblings).toEqual([]);
    expect((await hello(world, 3, 2)).siblings).toEqual([]);
    // A backup from the time of incarnation 2 is started.
    expect((await hello(world, 4, 2)).siblings).toEqual(["0000000000000003"]);
    expect((await hello(world, 3, 2)).siblings).toEqual(["0000000000000004"]);
    expect((await hello(world, 5, undefined)).siblings).toEqual(["0000000000000001"]);
    expect(core.status().writers).toBe(1);
    expect(world.logged.some((line) => line.includes(" warn "))).toBe(true);
  });

  test("keeps the last 64 incarnations, and always the one that speaks", async () => {
    const { world } = await running();
    for (let i = 1; i <= 100; i++) await hello(world, i, i - 1);
    const kept = await world.meta.list(`writers/${WRITER}`);
    expect(kept).toHaveLength(64);
    expect(kept.some((entry) => entry.key.endsWith((100).toString(16).padStart(16, "0")))).toBe(true);
    expect((await hello(world, 999, 99)).siblings).toEqual([(100).toString(16).padStart(16, "0")]);
  });

  test("a damaged record keeps no gateway away", async () => {
    const { world } = await running();
    await world.meta.create(`writers/${WRITER}/damaged`, Uint8Array.of(0xff));
    expect((await hello(world, 1, undefined)).siblings).toEqual([]);
    expect(world.logged.some((line) => line.includes(" error "))).toBe(true);
  });

  test("the cluster keeps its id", async () => {
    const world = new World();
    const first = await world.start();
    const { cluster } = await hello(world, 1, undefined);
    expect(first.status().clusterId).toBe(cluster);
    await first.close();
    cores.push(await world.start());
    expect((await hello(world, 1, undefined)).cluster).toBe(cluster);
  });
});

describe("hosting", () => {
  test("a container that fails is opened again with the next epoch; readers and gateways meanwhile wait and are answered", async () => {
    const { world, core } = await running();
    await core.streams.create(NAME, {});
    await core.streams.append(NAME, { events: pack("a"), contentType: undefined });
    const waiting = core.streams.waitForData(NAME, "now", { timeoutMs: NEVER_MS, signal: new AbortController().signal });
    const before = core.status().containers[0];
    world.instances.at(-1)?.fail("LOG_RESULT_UNKNOWN");
    // The host learns of it in a later turn.
    while (core.status().containers[0]?.status) await Promise.resolve();
    const read = texts(core);
    const sent = world.send(0, block([{ streamId: P1, first: 1, texts: ["x"] }]));
    expect(await read).toEqual(["a"]);
    expect(await sent).toEqual([[SLICE_STATUS.streamGone, 0]]);
    expect(core.status().containers[0]).toMatchObject({ state: "serving", restarts: 1, lastError: "LOG_RESULT_UNKNOWN" });
    expect(core.status().containers[0]?.epoch).toBe((before?.epoch ?? 0) + 1);
    await core.streams.append(NAME, { events: pack("b"), contentType: undefined });
    await waiting;
    expect(await texts(core)).toEqual(["a", "b"]);
    expect(world.instances).toHaveLength(2);
  });

  test("what only a person can mend is refused at the start", async () => {
    const world = new World();
    vi.spyOn(FakeContainer.prototype, "open").mockRejectedValueOnce(new TributaryError("FORMAT_UNSUPPORTED", "by the test"));
    await expect(world.start()).rejects.toMatchObject(code("FORMAT_UNSUPPORTED"));
    vi.restoreAllMocks();
    cores.push(await world.start());
  });

  test("what may pass is tried again", async () => {
    const world = new World();
    vi.spyOn(FakeContainer.prototype, "open").mockRejectedValueOnce(new TributaryError("LOG_RESULT_UNKNOWN", "by the test"));
    const core = await world.start();
    cores.push(core);
    await vi.waitFor(() => expect(core.status().containers[0]).toMatchObject({ state: "serving", restarts: 1, epoch: 2 }));
    vi.restoreAllMocks();
  });

  test("more containers take new streams; what exists stays where it is", async () => {
    const world = new World();
    const first = await world.start({ containers: 1 });
    await first.streams.create(NAME, {});
    await first.streams.append(NAME, { events: pack("a"), contentType: undefined });
    await first.close();
    const second = await world.start({ containers: 4 });
    expect(second.status().containers).toHaveLength(4);
    expect(await texts(second)).toEqual(["a"]);
    await second.close();
    const third = await world.start({ containers: 2 });
    cores.push(third);
    expect(third.status().containers).toHaveLength(4);
  });

  test("a stopped core refuses politely", async () => {
    const world = new World();
    const core = await world.start();
    await core.streams.create(NAME, {});
    await core.close();
    await core.close();
    await expect(texts(core)).rejects.toMatchObject(code("SHUTTING_DOWN"));
    await expect(world.resolve({ id: P1 })).rejects.toMatchObject(code("BUS_NO_RESPONDER"));
  });
});

describe.each(["before", "after"] as const)("a core that dies %s an operation of its MetaStore", (when) => {
  /** What a gateway and an operator do; each step may fail, and is not repeated. */
  const story = async (world: World, core: Core) => {
    await world.resolve({ id: P1 });
    await world.send(0, block([{ streamId: P1, first: 1, texts: ["a"] }]));
    await core.streams.delete(NAME);
    await core.streams.create(NAME, { contentType: "text/plain", segments: 2 });
    await core.streams.append(NAME, { events: pack("b"), contentType: undefined });
  };

  test("leaves a world in which the next core finishes what was begun", async () => {
    let deaths = 0;
    for (let operation = 0; ; operation++) {
      const world = new World();
      const mortal = new FaultyMetaStore(world.meta, { diesAt: { operation, when } });
      const dying = await world.start({ meta: mortal }).catch((error: unknown) => {
        if (error instanceof Death) return undefined;
        throw error;
      });
      if (dying) await story(world, dying).catch(() => {});
      await dying?.close();
      if (!mortal.dead) break;
      deaths++;

      const next = await world.start();
      await vi.waitFor(async () => {
        for (const entry of await world.meta.list("streams")) expect(Buffer.from(entry.value).includes("deleting")).toBe(false);
      });
      const [stream] = await world.resolve({ id: P1 });
      expect(stream?.problem === "" || stream?.problem === "deleted").toBe(true);
      if (stream?.id === P1) {
        const [answer] = await world.send(0, block([{ streamId: P1, first: 1, texts: ["a"] }]));
        expect(answer?.[0]).toBe(SLICE_STATUS.accepted);
        expect(await texts(next)).toEqual(["a"]);
      } else {
        const [answer] = await world.send(0, block([{ streamId: P1, first: 1, texts: ["a"] }]));
        expect(answer?.[0]).toBe(SLICE_STATUS.streamGone);
      }
      // Whatever the container holds, the directory knows.
      const known = new Set((await next.streams.list({ limit: 100 })).map((info) => info.id));
      for (const id of world.wals.get(0)?.streams.keys() ?? []) expect(known.has(id)).toBe(true);
      await next.close();
    }
    expect(deaths).toBeGreaterThan(20);
  });
});
