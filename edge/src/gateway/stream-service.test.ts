import type { TributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import type { AppendRequest, AppendResult } from "@tributary/common/stream-service";
import { ManualClock } from "@tributary/common/testing/manual-clock";
import fc from "fast-check";
import { beforeEach, describe, expect, test } from "vitest";
import type { MemoryDisk } from "../store/testing/memory-log.ts";
import { GatewayStreamService } from "./stream-service.ts";
import { commitAll, groupCommitHarness, type Harness, LINGER_MS_MAX, settle } from "./testing/group-commit-harness.ts";

const name = (stream: string) => ({ scope: "default", stream });
const code = (expected: string) => expect.objectContaining({ code: expected });
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const event = (data: string) => {
  const payload = new TextEncoder().encode(data);
  return { count: 1, payload, ends: [payload.length], keys: undefined, timesMs: undefined };
};
const post = (data: string, more: Partial<AppendRequest> = {}): AppendRequest => ({ events: event(data), contentType: undefined, ...more });
const producer = (epoch: number, seq: number) => ({ producer: { id: "p", epoch, seq } });
const page = { eventsMax: 1_000, bytesMax: 1_000_000 };

describe("the streams of a gateway", () => {
  let clock: ManualClock;
  let harness: Harness;
  let service: GatewayStreamService;

  const serviceOf = ({ ingest, store, writer }: Harness) =>
    new GatewayStreamService({ ingest, store, clock, writer: () => writer, storeFailed: () => {}, history: undefined });
  /** Lets commits happen until the promise is settled. */
  const done = async <T>(promise: Promise<T>): Promise<T> => {
    let settled = false;
    const watched = promise.finally(() => {
      settled = true;
    });
    watched.catch(() => {});
    while (!settled) await commitAll(clock);
    return watched;
  };
  const create = (stream: string, options = {}) => done(service.create(name(stream), options));
  const readAll = async (stream: string) => (await service.read(name(stream), { offset: "-1", ...page })).events.map((e) => text(e.data));

  beforeEach(async () => {
    clock = new ManualClock();
    harness = await groupCommitHarness(clock);
    service = serviceOf(harness);
  });

  test("create is durable before it is answered, and idempotent", async () => {
    const { store } = harness;
    const first = await create("a", { contentType: "Text/Plain", segments: 3 });
    expect(first).toMatchObject({ created: true, info: { contentType: "text/plain", closed: false, events: 0 } });
    expect(store.commits).toHaveLength(1);
    expect(await create("a", { contentType: "text/plain; charset=utf-8" })).toMatchObject({ created: false });
    await expect(create("a", { contentType: "application/json" })).rejects.toEqual(code("STREAM_EXISTS"));
    await expect(create("a", { contentType: "text/plain", segments: 2 })).rejects.toEqual(code("STREAM_EXISTS"));
    await expect(create("a", { contentType: "text/plain", closed: true })).rejects.toEqual(code("STREAM_EXISTS"));
    await expect(create("b", { segments: 0 })).rejects.toEqual(code("INVALID_REQUEST"));
    await expect(create("no such name!")).rejects.toEqual(code("INVALID_NAME"));
  });

  test("two creations at once make one stream, and both wait for it", async () => {
    const [one, other] = await done(Promise.all([service.create(name("a"), {}), service.create(name("a"), {})]));
    expect([one.created, other.created]).toEqual([true, false]);
    expect(one.info.id).toBe(other.info.id);
  });

  test("append, read and describe", async () => {
    await expect(service.append(name("a"), post("x"))).rejects.toEqual(code("STREAM_UNKNOWN"));
    await create("a");
    const results = await done(Promise.all(["one", "two", "three"].map((data) => service.append(name("a"), post(data)))));
    expect(await readAll("a")).toEqual(["one", "two", "three"]);
    const offset = results[1]?.nextOffset ?? "";
    const rest = await service.read(name("a"), { offset, ...page });
    expect(rest.events.map((e) => [e.ordinal, e.number, e.segment, text(e.data)])).toEqual([[2, 3, "0.0.0", "three"]]);
    expect(rest).toMatchObject({ upToDate: true, closed: false, nextOffset: results[2]?.nextOffset });
    expect(await service.describe(name("a"))).toMatchObject({ events: 3, nextOffset: rest.nextOffset });
    const first = await service.read(name("a"), { offset: "-1", eventsMax: 2, bytesMax: 100 });
    expect(first).toMatchObject({ upToDate: false, nextOffset: offset });
    expect(await service.read(name("a"), { offset: "now", ...page })).toMatchObject({
      events: [],
      upToDate: true,
      nextOffset: rest.nextOffset,
    });
  });

  test("only durable events can be read", async () => {
    await create("a");
    const { store } = harness;
    store.held = true;
    const pending = service.append(name("a"), post("x"));
    clock.advance(LINGER_MS_MAX);
    await settle();
    expect(await readAll("a")).toEqual([]);
    store.held = false;
    store.release();
    await done(pending);
    expect(await readAll("a")).toEqual(["x"]);
  });

  test("bad offsets get their own errors", async () => {
    await create("a");
    await create("b");
    await done(service.append(name("a"), post("x")));
    await done(service.append(name("b"), post("x")));
    const info = await service.describe(name("a"));
    const read = (offset: string) => service.read(name("a"), { offset, ...page });
    await expect(read("rubbish")).rejects.toEqual(code("OFFSET_INVALID"));
    await expect(read((await service.describe(name("b"))).nextOffset)).rejects.toEqual(code("OFFSET_FOREIGN"));
    await expect(read("c1_0000000000000000_00000000")).rejects.toEqual(code("OFFSET_FOREIGN"));
    const beyond = info.nextOffset.replace("0000000000000001", "0000000000000007");
    await expect(read(beyond)).rejects.toMatchObject({ code: "OFFSET_UNKNOWN", details: { nextOffset: info.nextOffset } });
  });

  test("a log that is set back, or copied, refuses the offsets of what it does not have (simulation, seeds 7, 42)", async () => {
    await create("a");
    const append = (data: string) => done(service.append(name("a"), post(data)));
    const restart = async (disk: MemoryDisk, seed: number) => {
      await harness.store.kill();
      harness = await groupCommitHarness(clock, 10, disk, seed);
      service = serviceOf(harness);
    };
    const read = async (offset: string) => (await service.read(name("a"), { offset, ...page })).events.map((e) => text(e.data));
    const { nextOffset: one } = await append("one");
    const { nextOffset: common } = await append("two");
    const backup = harness.store.disk.copy();
    const { nextOffset: lost } = await append("three, lost");
    await restart(harness.store.disk, 2);
    expect(await read(lost)).toEqual([]);
    expect(await service.read(name("a"), { offset: "now", ...page })).toMatchObject({ nextOffset: lost });
    const { nextOffset: lostChild } = await append("four, lost");

    await restart(backup, 3);
    for (const data of ["three", "four", "five"]) await append(data);
    expect(await read(one)).toEqual(["two", "three", "four", "five"]);
    expect(await read(common)).toEqual(["three", "four", "five"]);
    // Of an incarnation that goes on elsewhere we know where it ends here, of one that is not ours nothing.
    await expect(read(lost)).rejects.toMatchObject({ code: "OFFSET_UNKNOWN", details: { nextOffset: common } });
    await expect(read(lostChild)).rejects.toEqual(code("OFFSET_GONE"));
    const waiting = service.waitForData(name("a"), lost, { timeoutMs: 1, signal: new AbortController().signal });
    await expect(waiting).rejects.toEqual(code("OFFSET_UNKNOWN"));
    // As ever after the next start.
    await restart(harness.store.disk, 4);
    expect(await read(common)).toEqual(["three", "four", "five"]);
    await expect(read(lost)).rejects.toEqual(code("OFFSET_UNKNOWN"));
  });

  test("what was freed is gone without the core, and the beginning is where the rest begins", async () => {
    await create("a");
    const { store, ingest, writer } = harness;
    for (const data of ["one", "two", "three"]) await done(service.append(name("a"), post(data)));
    const { nextOffset } = await service.read(name("a"), { offset: "-1", eventsMax: 1, bytesMax: 100 });
    const { firstOffset } = await service.describe(name("a"));
    const readLocal: typeof store.readLocal = (id, from, bounds) => store.readLocal(id, Math.max(from, 1), bounds);
    service = new GatewayStreamService({
      ingest,
      store: { readLocal },
      clock,
      writer: () => writer,
      storeFailed: () => {},
      history: undefined,
    });
    expect(await readAll("a")).toEqual(["two", "three"]);
    await expect(service.read(name("a"), { offset: firstOffset, ...page })).rejects.toMatchObject({
      code: "OFFSET_GONE",
      details: { firstHeldOffset: nextOffset },
    });
    expect((await service.read(name("a"), { offset: nextOffset, ...page })).events).toHaveLength(2);
  });

  test("content types", async () => {
    await create("a", { contentType: "application/json" });
    await expect(service.append(name("a"), post("1", { contentType: "text/plain" }))).rejects.toEqual(code("CONTENT_TYPE_MISMATCH"));
    await done(service.append(name("a"), post("1", { contentType: "application/json; charset=utf-8" })));
    await expect(service.append(name("a"), { events: undefined, contentType: undefined })).rejects.toEqual(code("PAYLOAD_EMPTY"));
  });

  test("Stream-Seq ascends as text", async () => {
    await create("a");
    await done(service.append(name("a"), post("x", { streamSeq: "b" })));
    await expect(service.append(name("a"), post("y", { streamSeq: "b" }))).rejects.toEqual(code("SEQUENCE_CONFLICT"));
    await expect(service.append(name("a"), post("y", { streamSeq: "a" }))).rejects.toEqual(code("SEQUENCE_CONFLICT"));
    await done(service.append(name("a"), post("y", { streamSeq: "c" })));
  });

  test("closing", async () => {
    await create("a");
    const closing = await done(service.append(name("a"), post("last", { close: true, ...producer(0, 0) })));
    expect(closing).toMatchObject({ closed: true, duplicate: false });
    expect(await done(service.append(name("a"), { events: undefined, contentType: undefined, close: true }))).toMatchObject({
      closed: true,
    });
    await expect(service.append(name("a"), post("more", { contentType: "text/plain" }))).rejects.toMatchObject({
      code: "STREAM_CLOSED",
      details: { nextOffset: closing.nextOffset },
    });
    // The closing request again, its answer having been lost.
    expect(await done(service.append(name("a"), post("last", { close: true, ...producer(0, 0) })))).toMatchObject({
      duplicate: true,
      closed: true,
    });
    expect(await service.read(name("a"), { offset: "-1", ...page })).toMatchObject({ closed: true, upToDate: true });
    await service.waitForData(name("a"), closing.nextOffset, { timeoutMs: 1e9, signal: new AbortController().signal });
  });

  test("what comes behind a pending close learns of it only once it is durable", async () => {
    await create("a");
    const { store } = harness;
    store.held = true;
    const closing = service.append(name("a"), { events: undefined, contentType: undefined, close: true });
    clock.advance(LINGER_MS_MAX);
    const late = service.append(name("a"), post("late"));
    let answered = false;
    late.catch(() => {
      answered = true;
    });
    await settle();
    expect(answered).toBe(false);
    store.held = false;
    store.release();
    await done(closing);
    await expect(late).rejects.toEqual(code("STREAM_CLOSED"));
  });

  test("a duplicate of a pending append waits for its commit", async () => {
    await create("a");
    const { store } = harness;
    store.held = true;
    const order: string[] = [];
    const first = service.append(name("a"), post("x", producer(0, 0))).then((result) => order.push(`first ${result.duplicate}`));
    clock.advance(LINGER_MS_MAX);
    const again = service
      .append(name("a"), post("x", producer(0, 0)))
      .then((result) => order.push(`again ${result.duplicate} ${result.producerSeq}`));
    await settle();
    expect(order).toEqual([]);
    store.held = false;
    store.release();
    await done(Promise.all([first, again]));
    expect(order).toEqual(["first false", "again true 0"]);
    expect(await readAll("a")).toEqual(["x"]);
  });

  test("a failed commit takes the producer's sequence back", async () => {
    await create("a");
    const { store } = harness;
    store.held = true;
    const first = service.append(name("a"), post("x", producer(0, 0)));
    const second = service.append(name("a"), post("y", producer(0, 1)));
    clock.advance(LINGER_MS_MAX);
    const again = service.append(name("a"), post("x", producer(0, 0)));
    store.failNext = true;
    store.held = false;
    store.release();
    const results = await done(Promise.allSettled([first, second, again]));
    expect(results.map((result) => result.status === "rejected" && (result.reason as TributaryError).code)).toEqual([
      "STORAGE_FULL",
      "STORAGE_FULL",
      "STORAGE_FULL",
    ]);
    await expect(service.append(name("a"), post("y", producer(0, 1)))).rejects.toEqual(code("PRODUCER_SEQUENCE_GAP"));
    expect(await done(service.append(name("a"), post("x", producer(0, 0))))).toMatchObject({ duplicate: false });
    expect(await readAll("a")).toEqual(["x"]);
  });

  test("a restart remembers producers", async () => {
    await create("a");
    await done(service.append(name("a"), post("x", producer(2, 0))));
    const { store } = harness;
    store.failNext = true;
    await expect(done(service.append(name("a"), post("y", producer(2, 1))))).rejects.toEqual(code("STORAGE_FULL"));
    await commitAll(clock);
    expect(await done(service.append(name("a"), post("x", producer(2, 0))))).toMatchObject({ duplicate: true });
    await expect(service.append(name("a"), post("x", producer(1, 0)))).rejects.toMatchObject({
      code: "PRODUCER_EPOCH_STALE",
      details: { producerEpoch: 2 },
    });
  });

  test("appends wait for room in order, and give up after a while", async () => {
    await create("a");
    const { store } = harness;
    store.held = true;
    const big = "x".repeat(LIMITS.eventBytesMax);
    const filling = [0, 1, 2].map((seq) => service.append(name("a"), post(big, producer(0, seq))));
    const waiting = [3, 4].map((seq) => service.append(name("a"), post(`${seq}`, producer(0, seq))));
    await settle();
    store.held = false;
    store.release();
    const results = await done(Promise.all([...filling, ...waiting]));
    expect(results.map((result) => result.producerSeq)).toEqual([0, 1, 2, 3, 4]);
    store.held = true;
    const more = [5, 6, 7].map((seq) => service.append(name("a"), post(big, producer(0, seq))));
    const refused = service.append(name("a"), post("8", producer(0, 8)));
    refused.catch(() => {});
    clock.advance(5_000);
    await expect(refused).rejects.toEqual(code("OVERLOADED"));
    store.held = false;
    store.release();
    await done(Promise.all(more));
  });

  test("a full disk is said at once", async () => {
    await create("a");
    const { store } = harness;
    store.failNext = true;
    store.diskFull = true;
    await expect(done(service.append(name("a"), post("x")))).rejects.toEqual(code("STORAGE_FULL"));
    await expect(service.append(name("a"), post("y"))).rejects.toEqual(code("STORAGE_FULL"));
    await expect(service.create(name("b"), {})).rejects.toEqual(code("STORAGE_FULL"));
    expect((await service.describe(name("a"))).events).toBe(0);
  });

  test("knows no levels: whoever asks for one is sent to the core", async () => {
    await create("a");
    const refused = { code: "INVALID_REQUEST", message: expect.stringContaining("ask the core") };
    for (const level of ["committed", "tiered"] as const) {
      const { signal } = new AbortController();
      await expect(service.read(name("a"), { offset: "-1", eventsMax: 1, bytesMax: 1, level })).rejects.toMatchObject(refused);
      await expect(service.waitForData(name("a"), "now", { timeoutMs: 1e9, signal, level })).rejects.toMatchObject(refused);
    }
  });

  test("waitForData wakes on a commit, an end of the time, an abort and a deletion", async () => {
    await create("a");
    const { nextOffset } = await service.describe(name("a"));
    const wait = (timeoutMs: number, signal = new AbortController().signal) =>
      service.waitForData(name("a"), nextOffset, { timeoutMs, signal });
    let woken = 0;
    const waiting = wait(1e9).then(() => woken++);
    await settle();
    expect(woken).toBe(0);
    await done(service.append(name("a"), post("x")));
    await waiting;
    await wait(1e9);
    const end = (await service.describe(name("a"))).nextOffset;
    const timers = clock.timers;
    const timed = service.waitForData(name("a"), end, { timeoutMs: 50, signal: new AbortController().signal });
    await settle();
    clock.advance(50);
    await timed;
    const abort = new AbortController();
    const aborted = service.waitForData(name("a"), end, { timeoutMs: 1e9, signal: abort.signal });
    abort.abort();
    await aborted;
    const deleted = service.waitForData(name("a"), "now", { timeoutMs: 1e9, signal: new AbortController().signal });
    await done(service.delete(name("a")));
    await deleted;
    expect(clock.timers).toBe(timers);
  });

  test("delete, list and scopes", async () => {
    for (const stream of ["b", "a", "c"]) await create(stream);
    await done(service.create({ scope: "other", stream: "z" }, {}));
    const names = async (options: Parameters<typeof service.list>[0]) => (await service.list(options)).map((info) => info.name.stream);
    expect(await names({ limit: 10 })).toEqual(["a", "b", "c", "z"]);
    expect(await names({ limit: 2, after: name("a") })).toEqual(["b", "c"]);
    expect(await names({ limit: 10, scope: "other" })).toEqual(["z"]);
    await done(service.delete(name("b")));
    expect(await names({ limit: 10, scope: "default" })).toEqual(["a", "c"]);
    await expect(service.describe(name("b"))).rejects.toEqual(code("STREAM_UNKNOWN"));
    await expect(service.delete(name("b"))).rejects.toEqual(code("STREAM_UNKNOWN"));
    expect(await service.listScopes()).toEqual(["default", "other"]);
    const again = await create("b");
    expect(again).toMatchObject({ created: true, info: { events: 0 } });
  });

  // Clients with lost answers, failing commits and repetitions: each sequence number is in the stream once, in order.
  test("a producer that repeats until it is answered writes everything once", async () => {
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.constant("send" as const) },
      { weight: 2, arbitrary: fc.constant("again" as const) },
      { weight: 3, arbitrary: fc.constant("time" as const) },
      { weight: 2, arbitrary: fc.constant("release" as const) },
      { weight: 1, arbitrary: fc.constant("fail" as const) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 50 }), async (steps) => {
        clock = new ManualClock();
        harness = await groupCommitHarness(clock);
        service = serviceOf(harness);
        const { store } = harness;
        await create("a");
        store.held = true;
        const confirmed = new Set<number>();
        let next = 0;
        const send = (seq: number): Promise<AppendResult | undefined> =>
          service.append(name("a"), post(`${seq}`, producer(0, seq))).then(
            (result) => {
              confirmed.add(seq);
              return result;
            },
            () => undefined,
          );
        const running: Promise<unknown>[] = [];
        for (const step of steps) {
          if (step === "send") running.push(send(next++));
          else if (step === "again" && next > 0) running.push(send(next - 1));
          else if (step === "time") clock.advance(LINGER_MS_MAX);
          else if (step === "release") store.release(1);
          else if (step === "fail") store.failNext = true;
          await Promise.resolve();
        }
        store.failNext = false;
        store.held = false;
        store.release();
        await done(Promise.all(running));
        const before = await readAll("a");
        for (const seq of confirmed) expect(before).toContain(`${seq}`);
        // Now it sends everything once more, in order, as a client does that has lost all answers.
        for (let seq = 0; seq < next; seq++) expect(await done(send(seq))).toBeDefined();
        expect(await readAll("a")).toEqual(Array.from({ length: next }, (_, seq) => `${seq}`));
      }),
      { numRuns: 40 },
    );
  });
});
