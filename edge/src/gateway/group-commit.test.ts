import { LIMITS } from "@tributary/common/limits";
import { ManualClock } from "@tributary/common/testing/manual-clock";
import fc from "fast-check";
import { beforeEach, describe, expect, test } from "vitest";
import { BYTES, commitAll, groupCommitHarness, type Harness, LINGER_MS_MAX, Notes, settle } from "./testing/group-commit-harness.ts";

const name = (stream: string) => ({ scope: "default", stream });
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

describe("group commit", () => {
  let clock: ManualClock;
  let harness: Harness;
  beforeEach(async () => {
    clock = new ManualClock();
    harness = await groupCommitHarness(clock);
  });

  test("events of many streams share one commit, and are answered only after it", async () => {
    const { ingest, store, notes, put } = harness;
    const a = ingest.createStream(name("a"), BYTES);
    const b = ingest.createStream(name("b"), BYTES);
    expect(put(a, "one", 1)).toBe("accepted");
    expect(put(b, "two", 2)).toBe("accepted");
    expect(put(a, "three", 3)).toBe("accepted");
    await settle();
    expect(notes.list).toEqual([]);
    expect(store.commits).toHaveLength(0);
    clock.advance(LINGER_MS_MAX);
    await settle();
    expect(store.commits).toHaveLength(1);
    expect(notes.list).toEqual(["+1", "+2", "+3", "flush"]);
    expect((await store.events(a.id)).map((event) => [event.number, text(event.data)])).toEqual([
      [1, "one"],
      [2, "three"],
    ]);
    expect((await store.events(b.id)).map((event) => [event.number, text(event.data)])).toEqual([[1, "two"]]);
  });

  test("each target flushes once a commit, however its events interleave", async () => {
    const { ingest, notes, put } = harness;
    const other = new Notes();
    const a = ingest.createStream(name("a"), BYTES);
    put(a, "x", 1);
    ingest.append(a, "k", 1, new Uint8Array(3), 0, 3, other, 7);
    put(a, "y", 2);
    await commitAll(clock);
    expect(notes.list).toEqual(["+1", "+2", "flush"]);
    expect(other.list).toEqual(["+7", "flush"]);
  });

  test("a barrier does not answer for what failed while the gateway stops", async () => {
    const { ingest, store, notes, put } = harness;
    const a = ingest.createStream(name("a"), BYTES);
    await commitAll(clock);
    put(a, "x", 1);
    store.failNext = true;
    await ingest.close();
    ingest.barrier(notes, 2);
    await settle();
    expect(notes.answers).toEqual(["-1:STORAGE_FULL", "-2:STORAGE_FULL"]);
  });

  test("with both commits busy the batch grows, and then it is full until one is done", async () => {
    const { ingest, store, notes, put } = harness;
    const a = ingest.createStream(name("a"), BYTES);
    store.held = true;
    put(a, "first", 1);
    clock.advance(LINGER_MS_MAX);
    put(a, "second", 2);
    clock.advance(LINGER_MS_MAX);
    expect(store.waiting).toBe(2);
    const big = "x".repeat(LIMITS.batchRawBytesTarget / 4);
    for (let token = 3; token < 7; token++) expect(put(a, big, token)).toBe("accepted");
    clock.advance(1_000);
    await settle();
    expect(store.waiting).toBe(2);
    expect(put(a, "more", 7)).toBe("full");
    let room = 0;
    ingest.onRoom(() => {
      room++;
      expect(put(a, "more", 7)).toBe("accepted");
    });
    await settle();
    expect(room).toBe(0);
    store.release(1);
    await settle();
    expect(room).toBe(1);
    expect(notes.list).toEqual(["+1", "flush"]);
    store.held = false;
    store.release();
    await settle();
    await commitAll(clock);
    expect(notes.answers).toEqual(["+1", "+2", "+3", "+4", "+5", "+6", "+7"]);
  });

  test("those who wait for room go on in order; who wants more stands behind the others", async () => {
    const { ingest, store, put } = harness;
    const a = ingest.createStream(name("a"), BYTES);
    store.held = true;
    const big = "x".repeat(LIMITS.batchRawBytesTarget);
    for (let token = 1; token <= 3; token++) expect(put(a, big, token)).toBe("accepted");
    const order: string[] = [];
    const goOn = (who: string) => {
      while (put(a, big, 9) === "accepted") order.push(who);
      ingest.onRoom(() => goOn(who));
    };
    for (const who of ["p", "q", "r"]) goOn(who);
    for (const expected of ["p", "q", "r", "p", "q", "r"]) {
      store.release(1);
      await settle();
      expect(order.at(-1)).toBe(expected);
    }
    expect(order).toHaveLength(6);
    store.held = false;
  });

  test("a failed commit fails everything pending, once, and numbers begin anew", async () => {
    const { ingest, store, notes, seen, put } = harness;
    const a = ingest.createStream(name("a"), BYTES);
    put(a, "kept", 1);
    await commitAll(clock);
    const before = (await store.events(a.id))[0]?.incarnation;
    store.held = true;
    store.failNext = true;
    put(a, "lost", 2);
    clock.advance(LINGER_MS_MAX);
    put(a, "lost too", 3);
    clock.advance(LINGER_MS_MAX);
    put(a, "not even sent", 4);
    store.held = false;
    store.release();
    await settle();
    expect(put(a, "while it is reopened", 5)).toBe("full");
    await commitAll(clock);
    expect(notes.list).toEqual(["+1", "flush", "-2:STORAGE_FULL", "flush", "-3:STORAGE_FULL", "flush", "-4:STORAGE_FULL", "flush"]);
    expect(seen).toContain("reopened");
    expect(put(a, "after", 6)).toBe("accepted");
    await commitAll(clock);
    expect(notes.list.at(-2)).toBe("+6");
    const events = await store.events(a.id);
    expect(events.map((event) => [event.ordinal, event.number, text(event.data)])).toEqual([
      [0, 1, "kept"],
      [1, 1, "after"],
    ]);
    expect(events[1]?.incarnation).not.toBe(before);
    expect(ingest.counters).toMatchObject({ eventsDurable: 2, eventsFailed: 3, commitFailures: 1, reopens: 1 });
  });

  test("a disk that stays full is tried again at growing intervals", async () => {
    const { ingest, store, seen, put } = harness;
    const a = ingest.createStream(name("a"), BYTES);
    await commitAll(clock);
    store.failNext = true;
    store.diskFull = true;
    put(a, "lost", 1);
    await commitAll(clock);
    for (let i = 0; i < 20; i++) {
      clock.advance(100);
      await settle();
    }
    const tries = seen.filter((note) => note.startsWith("reopenFailed")).length;
    expect(tries).toBeGreaterThan(2);
    expect(tries).toBeLessThan(10);
    expect(ingest.trouble?.code).toBe("STORAGE_FULL");
    store.diskFull = false;
    clock.advance(5_000);
    await settle();
    expect(ingest.trouble).toBeUndefined();
    expect(put(a, "again", 2)).toBe("accepted");
  });

  test("a stream whose creation failed is gone; its name can be created again", async () => {
    const { ingest, store, put } = harness;
    store.failNext = true;
    const lost = ingest.createStream(name("a"), BYTES);
    await commitAll(clock);
    expect(put(lost, "x", 1)).toBe("gone");
    expect(ingest.stream(name("a"))).toBeUndefined();
    const again = ingest.createStream(name("a"), BYTES);
    expect(again.id).not.toBe(lost.id);
    expect(put(again, "x", 1)).toBe("accepted");
  });

  test("a name that is created again begins a new incarnation where the deleted stream has numbers in this one (simulation, seed 140)", async () => {
    const { ingest, store, put } = harness;
    const [other, empty] = ["other", "empty"].map((stream) => ingest.createStream(name(stream), BYTES));
    const first = ingest.createStream(name("a"), BYTES);
    if (!other || !empty) throw new Error("they were created");
    put(first, "one", 1);
    put(other, "two", 2);
    await commitAll(clock);
    // Both commits are busy, and more is accepted: all of that goes with the present incarnation.
    store.held = true;
    for (const token of [3, 4, 5]) {
      put(other, `${token}`, token);
      clock.advance(LINGER_MS_MAX);
    }
    for (const { id } of [first, empty]) ingest.change({ type: "delete-stream", id }, undefined, 0);
    ingest.createStream(name("empty"), BYTES);
    put(other, "before", 6);
    const second = ingest.createStream(name("a"), BYTES);
    put(second, "three", 7);
    put(other, "behind", 8);
    store.held = false;
    store.release();
    await commitAll(clock);
    put(other, "last", 9);
    await commitAll(clock);
    const [one, two, three] = await Promise.all([first, second, other].map(({ id }) => store.events(id)));
    const [before, behind] = [one?.[0]?.incarnation, two?.[0]?.incarnation];
    expect(behind).not.toBe(before);
    expect(two?.map(({ number, data }) => [number, text(data)])).toEqual([[1, "three"]]);
    expect(three?.map(({ incarnation, number, data }) => [incarnation, number, text(data)])).toEqual([
      ...["two", "3", "4", "5", "before"].map((sent, i) => [before, i + 1, sent]),
      ...["behind", "last"].map((sent, i) => [behind, i + 1, sent]),
    ]);
  });

  test("a change lands in the commit of its event", async () => {
    const { ingest, store, notes } = harness;
    const a = ingest.createStream(name("a"), BYTES);
    await commitAll(clock);
    const change = { type: "packet-id", clientId: "c", packetId: 7 } as const;
    expect(ingest.append(a, "k", 1, new Uint8Array(1), 0, 1, notes, 1, change)).toBe("accepted");
    expect(ingest.holdsPacketId("c", 7)).toBe(true);
    await commitAll(clock);
    expect(store.commits.at(-1)).toEqual({ events: 1, changes: [change] });
    ingest.change({ type: "release-packet-id", clientId: "c", packetId: 7 }, notes, 2);
    expect(ingest.hasPacketIds("c")).toBe(false);
  });

  test("a barrier answers behind everything accepted before it", async () => {
    const { ingest, store, notes, put } = harness;
    const a = ingest.createStream(name("a"), BYTES);
    await commitAll(clock);
    ingest.barrier(notes, 1);
    expect(notes.list).toEqual([]);
    await settle();
    expect(notes.list).toEqual(["+1", "flush"]);
    store.held = true;
    put(a, "x", 2);
    clock.advance(LINGER_MS_MAX);
    ingest.barrier(notes, 3);
    await settle();
    expect(notes.list).toEqual(["+1", "flush"]);
    store.failNext = true;
    store.held = false;
    store.release();
    await settle();
    expect(notes.list.slice(2)).toEqual(["-2:STORAGE_FULL", "-3:STORAGE_FULL", "flush"]);
  });

  test("refuses what is too large, and what comes to a closed or deleted stream", async () => {
    const { ingest, put } = harness;
    const a = ingest.createStream(name("a"), BYTES);
    expect(put(a, "x".repeat(LIMITS.eventBytesMax + 1), 1)).toBe("too-large");
    expect(put(a, "x", 1, "é".repeat(LIMITS.routingKeyBytesMax / 2 + 1))).toBe("too-large");
    expect(put(a, "x", 1, "é".repeat(LIMITS.routingKeyBytesMax / 2))).toBe("accepted");
    expect(put(a, "x".repeat(LIMITS.eventBytesMax), 1)).toBe("accepted");
    ingest.change({ type: "close-stream", id: a.id }, undefined, 0);
    expect(put(a, "x", 1)).toBe("closed");
    ingest.change({ type: "delete-stream", id: a.id }, undefined, 0);
    expect(put(a, "x", 1)).toBe("gone");
  });

  test("streams are bounded", async () => {
    const { ingest } = await groupCommitHarness(clock, 2);
    ingest.createStream(name("a"), BYTES);
    ingest.createStream(name("b"), BYTES);
    expect(ingest.createStream(name("a"), BYTES).name.stream).toBe("a");
    expect(() => ingest.createStream(name("c"), BYTES)).toThrowError(expect.objectContaining({ code: "TOO_MANY_STREAMS" }));
  });

  test("close commits and answers what was accepted, and refuses the rest", async () => {
    const { ingest, notes, put } = harness;
    const a = ingest.createStream(name("a"), BYTES);
    put(a, "x", 1);
    let room = 0;
    ingest.onRoom(() => room++);
    const closed = ingest.close();
    expect(put(a, "y", 2)).toBe("stopping");
    expect(room).toBe(1);
    await closed;
    expect(notes.list).toEqual(["+1", "flush"]);
  });

  test("close ends also when the last commit fails", async () => {
    const { ingest, store, notes, put } = harness;
    const a = ingest.createStream(name("a"), BYTES);
    store.failNext = true;
    put(a, "x", 1);
    await ingest.close();
    expect(notes.list).toEqual(["-1:STORAGE_FULL", "flush"]);
  });

  test("a pack is taken whole, in one commit", async () => {
    const { ingest, store, notes, put } = harness;
    const a = ingest.createStream(name("a"), BYTES);
    put(a, "x".repeat(LIMITS.batchRawBytesTarget - 10), 1);
    const count = 100;
    const pack = {
      count,
      payload: new Uint8Array(count).map((_, i) => i),
      ends: Array.from({ length: count }, (_, i) => i + 1),
      keys: Array.from({ length: count }, (_, i) => `key ${i % 3}`),
      timesMs: Array.from({ length: count }, (_, i) => i * 10),
    };
    expect(ingest.appendPack(a, pack, 5, notes, 2)).toBe("accepted");
    await commitAll(clock);
    expect(store.commits.map((commit) => commit.events)).toEqual([1, count]);
    expect(notes.list).toEqual(["+1", "flush", "+2", "flush"]);
    const events = (await store.events(a.id)).slice(1);
    expect(events.map((event) => event.data[0])).toEqual(Array.from({ length: count }, (_, i) => i));
    expect(events[50]).toMatchObject({ key: "key 2", timeMs: 500, number: 52, ordinal: 51 });
  });

  // Whatever happens in whatever order: what was answered "committed" is durable exactly once, in order; nothing is answered twice.
  test("answers are true and single under random failures", async () => {
    const step = fc.oneof(
      { weight: 6, arbitrary: fc.record({ type: fc.constant("put" as const), stream: fc.nat(2), bytes: fc.nat(300_000) }) },
      { weight: 2, arbitrary: fc.record({ type: fc.constant("time" as const), ms: fc.nat(20) }) },
      { weight: 2, arbitrary: fc.record({ type: fc.constant("release" as const), count: fc.integer({ min: 1, max: 2 }) }) },
      { weight: 1, arbitrary: fc.constant({ type: "fail" as const }) },
      { weight: 1, arbitrary: fc.record({ type: fc.constant("again" as const), stream: fc.nat(2) }) },
      { weight: 2, arbitrary: fc.constant({ type: "settle" as const }) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const clock = new ManualClock();
        const { ingest, store, notes } = await groupCommitHarness(clock);
        const names = ["a", "b", "c"].map(name);
        for (const stream of names) ingest.createStream(stream, BYTES);
        await commitAll(clock);
        store.held = true;
        const accepted: { token: number; stream: string }[] = [];
        const nameOf = new Map<string, string>();
        let token = 0;
        for (const step of steps) {
          if (step.type === "put") {
            const source = new Uint8Array(Math.max(4, step.bytes));
            new DataView(source.buffer).setUint32(0, ++token);
            const stream = ingest.stream(names[step.stream] as (typeof names)[number]);
            if (stream && ingest.append(stream, "k", 1, source, 0, source.length, notes, token) === "accepted") {
              accepted.push({ token, stream: stream.id });
              nameOf.set(stream.id, stream.name.stream);
            }
          } else if (step.type === "again") {
            const stream = ingest.stream(names[step.stream] as (typeof names)[number]);
            if (ingest.trouble || store.waiting > 2 || !stream) continue;
            if (ingest.change({ type: "delete-stream", id: stream.id }, undefined, 0) === "accepted")
              ingest.createStream(stream.name, BYTES);
          } else if (step.type === "time") clock.advance(step.ms);
          else if (step.type === "release") store.release(step.count);
          else if (step.type === "fail") store.failNext = true;
          else await settle();
        }
        store.failNext = false;
        store.held = false;
        for (let i = 0; i < 6; i++) {
          store.release();
          await settle();
          clock.advance(10_000);
        }
        await settle();
        const answers = notes.answers;
        expect(answers).toHaveLength(accepted.length);
        expect(answers.map((note) => Number.parseInt(note.slice(1), 10))).toEqual(accepted.map((event) => event.token));
        const committed = new Set(answers.filter((note) => note.startsWith("+")).map((note) => Number(note.slice(1))));
        const numbered = new Map<string, string>();
        for (const id of new Set(accepted.map((event) => event.stream))) {
          const expected = accepted.filter((event) => event.stream === id && committed.has(event.token)).map((event) => event.token);
          const durable = expected.length > 0 ? await store.events(id) : [];
          // In one incarnation a name has one stream with numbers.
          for (const { incarnation } of durable) {
            const run = `${incarnation} ${nameOf.get(id)}`;
            expect(numbered.get(run) ?? id).toBe(id);
            numbered.set(run, id);
          }
          expect(durable.map((event) => new DataView(event.data.buffer, event.data.byteOffset).getUint32(0))).toEqual(expected);
          let incarnation = "";
          let number = 0;
          for (const event of durable) {
            if (event.incarnation !== incarnation) number = 0;
            incarnation = event.incarnation;
            expect(event.number).toBe(++number);
          }
        }
      }),
      { numRuns: 60 },
    );
  });
});
