import { hasCode, TributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import type { MetaStore } from "@tributary/common/ports/meta-store";
import { describe, expect, test } from "vitest";
import { StreamDirectory, type StreamProposal } from "./stream-directory.ts";
import { encodeStreamRecord, recoveredName, STREAMS_PREFIX, streamKey } from "./stream-record.ts";
import { fastClock, seededRandom } from "./testing/fast-clock.ts";
import { Death, FaultyMetaStore, type MetaFaults } from "./testing/faulty-meta-store.ts";
import { MemoryMetaStore } from "./testing/memory-meta-store.ts";

const NAME = { scope: "plant", stream: "press" };

const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} };

function directoryOn(meta: MetaStore, seed = 1): StreamDirectory {
  return new StreamDirectory({ meta, clock: fastClock(), random: seededRandom(seed) }, SILENT);
}

function proposal(id: string): StreamProposal {
  return { id: id.repeat(32), contentType: "text/plain", segments: 2, containers: [0, 0], createdAtMs: 5, closed: false };
}

async function create(directory: StreamDirectory, id: string): Promise<string> {
  const outcome = await directory.create(NAME, proposal(id));
  return "entry" in outcome ? `${outcome.type} ${outcome.entry.record.id[0]}` : outcome.type;
}

async function remove(directory: StreamDirectory): Promise<boolean> {
  const deleting = await directory.beginDelete(NAME);
  if (deleting) await directory.finishDelete(deleting);
  return deleting !== undefined;
}

describe("stream directory", () => {
  test("creates once, finds by name and id, and gives a re-created name another id", async () => {
    const store = new MemoryMetaStore();
    const directory = directoryOn(store);
    await directory.start();
    expect(await create(directory, "a")).toBe("created a");
    expect(await create(directory, "b")).toBe("exists a");
    expect(await create(directory, "a")).toBe("created a");
    expect(directory.count).toBe(1);
    expect((await directory.find(NAME))?.record).toMatchObject(proposal("a"));
    expect((await directory.findById("a".repeat(32)))?.name).toEqual(NAME);
    expect(await remove(directory)).toBe(true);
    expect(await remove(directory)).toBe(false);
    expect(directory.count).toBe(0);
    expect(await directory.find(NAME)).toBeUndefined();
    expect(await directory.findById("a".repeat(32))).toBeUndefined();
    expect(await create(directory, "a")).toBe("retired");
    expect(await create(directory, "c")).toBe("created c");
    expect(await create(directory, "a")).toBe("retired");
    expect((await directory.findById("c".repeat(32)))?.name).toEqual(NAME);
    await directory.close();
  });

  test("finds a stream by its id again whose pointer the MetaStore has forgotten, since it went back while it was created", async () => {
    const store = new MemoryMetaStore();
    const directory = directoryOn(store);
    await directory.start();
    const before = store.save();
    const createKey = store.create.bind(store);
    store.create = (key, value) => {
      if (key.startsWith("streams/")) store.restore(before);
      return createKey(key, value);
    };
    expect(await create(directory, "a")).toBe("created a");
    store.create = createKey;
    expect(await directory.findById("a".repeat(32))).toBeUndefined();
    // So a gateway asks again, of this node or of another one.
    const other = directoryOn(store, 2);
    expect(await create(other, "b")).toBe("exists a");
    expect((await other.findById("a".repeat(32)))?.name).toEqual(NAME);
    expect((await directory.findById("a".repeat(32)))?.name).toEqual(NAME);
    await directory.close();
  });

  test("finishes a deletion whose intent the MetaStore has forgotten, since it went back meanwhile", async () => {
    const store = new MemoryMetaStore();
    const directory = directoryOn(store);
    await directory.start();
    await create(directory, "a");
    const before = store.save();
    const deleting = await directory.beginDelete(NAME);
    store.restore(before);
    expect(deleting && (await directoryOn(store).find(NAME))?.record.state).toBe("open");
    if (deleting) await directory.finishDelete(deleting);
    expect(await directoryOn(store).find(NAME)).toBeUndefined();
    expect(await create(directory, "a")).toBe("retired");
    await directory.close();
  });

  test.each([
    ["hears of it", "an older revision"],
    ["writes itself", "an older revision"],
    ["hears of it", "the same revision"],
    ["writes itself", "the same revision"],
  ])("forgets what it knew of a name once the MetaStore went back behind it, and it %s under %s (seed 6723)", async (how, revision) => {
    const store = new MemoryMetaStore();
    let passedMs = 0;
    const fast = fastClock();
    const clock = { ...fast, monotonicMs: () => fast.monotonicMs() + passedMs };
    const directory = new StreamDirectory({ meta: store, clock, random: seededRandom(1) }, SILENT);
    await directory.start();
    await create(directory, "a");
    const before = store.save();
    await remove(directory);
    await create(directory, "b");
    store.restore(before);
    const known = (await directory.find(NAME))?.revision ?? 0;
    const other = directoryOn(store, 2);
    if (revision === "the same revision") {
      for (let at = 0; at < known - 1; ) at = await store.create(`elsewhere/${at}`, new Uint8Array());
    } else if (how === "hears of it") {
      // It may still be a change from before what is known, which comes late.
      await directoryOn(store, 3).confirm(NAME);
    }
    expect((await directory.find(NAME))?.record.id).toBe("b".repeat(32));
    passedMs = 5_000;
    const confirmed = await (how === "hears of it" ? other : directory).confirm(NAME);
    expect(confirmed?.record.id).toBe("a".repeat(32));
    expect(Number(confirmed?.revision) === known).toBe(revision === "the same revision");
    expect((await directory.find(NAME))?.record.id).toBe("a".repeat(32));
    await directory.close();
  });

  test("gives a stream another name where another one has its own, and finds it by its id as before (simulation, seed 253)", async () => {
    const store = new MemoryMetaStore();
    const directory = directoryOn(store);
    const id = "a".repeat(32);
    const other = recoveredName(NAME, id);
    await create(directory, "b");
    expect(await directory.restore(NAME, proposal("a"))).toBe("taken");
    expect(await directory.findById(id)).toBeUndefined();
    expect(await directory.restore({ scope: "plant", stream: "mill" }, proposal("a"))).toBe("taken");
    for (const outcome of ["restored", "known"]) expect(await directory.restore(other, proposal("a"))).toBe(outcome);
    for (const node of [directory, directoryOn(store)]) {
      expect((await node.findById(id))?.name).toEqual(other);
      expect((await node.find(NAME))?.record.id).toBe("b".repeat(32));
    }
    const deleting = await directory.beginDelete(other);
    if (deleting) await directory.finishDelete(deleting);
    expect(await directoryOn(store).findById(id)).toBeUndefined();
  });

  describe("a deletion that another one overtakes does not take the name's next stream with it", () => {
    /** The first update is answered only after `meanwhile`. */
    class Interrupted extends MemoryMetaStore {
      meanwhile: (() => Promise<unknown>) | undefined;

      override async update(key: string, value: Uint8Array, revision: number): Promise<number> {
        const updated = await super.update(key, value, revision);
        const act = this.meanwhile;
        this.meanwhile = undefined;
        await act?.();
        return updated;
      }
    }

    test("where its own first write is answered late", async () => {
      const store = new Interrupted();
      const directory = directoryOn(store);
      await create(directory, "a");
      store.meanwhile = async () => {
        await remove(directory);
        await create(directory, "b");
      };
      expect(await remove(directory)).toBe(true);
      expect((await directory.find(NAME))?.record).toMatchObject({ id: "b".repeat(32), state: "open" });
      expect((await directory.findById("b".repeat(32)))?.name).toEqual(NAME);
    });

    test("where nobody can tell whether its own first write was carried out", async () => {
      const store = new Interrupted();
      const other = directoryOn(store, 2);
      await create(other, "a");
      store.meanwhile = async () => {
        await remove(other);
        await create(other, "b");
        throw new TributaryError("LOG_RESULT_UNKNOWN", "lost");
      };
      await expect(directoryOn(store).beginDelete(NAME)).rejects.toMatchObject({ code: "LOG_RESULT_UNKNOWN" });
      expect((await other.find(NAME))?.record).toMatchObject({ id: "b".repeat(32), state: "open" });
      expect(await remove(directoryOn(store))).toBe(true);
    });
  });

  test("an id stays with the name that it was first proposed for", async () => {
    const directory = directoryOn(new MemoryMetaStore());
    await create(directory, "a");
    expect(await directory.create({ scope: "plant", stream: "other" }, proposal("a"))).toEqual({ type: "id-taken" });
  });

  test("one of many concurrent creations wins and all learn the same id, on one node and on several", async () => {
    const store = new MemoryMetaStore();
    const directories = [1, 2, 3].map((seed) => directoryOn(store, seed));
    const ids = ["a", "b", "c", "d", "e", "f"];
    const outcomes = await Promise.all(ids.map((id, i) => create(directories[i % 3] as StreamDirectory, id)));
    const winners = new Set(outcomes.map((outcome) => outcome.split(" ")[1]));
    expect(winners.size).toBe(1);
    expect(outcomes.filter((outcome) => outcome.startsWith("created"))).toHaveLength(1);
  });

  test("a name's changes on another node are noticed", async () => {
    const store = new MemoryMetaStore();
    const [here, there] = [directoryOn(store, 1), directoryOn(store, 2)];
    await here.start();
    await create(here, "a");
    await remove(there);
    await create(there, "b");
    expect((await here.find(NAME))?.record.id).toBe("b".repeat(32));
    await here.close();
  });

  test("looking up an unknown id leaves nothing behind and does not stand in a creation's way", async () => {
    const store = new MemoryMetaStore();
    const directory = directoryOn(store);
    const lookups = Promise.all([1, 2, 3].map(() => directory.findById("a".repeat(32))));
    expect(await create(directory, "a")).toBe("created a");
    await lookups;
    expect((await directory.findById("a".repeat(32)))?.record.id).toBe("a".repeat(32));
    expect(await directory.findById("b".repeat(32))).toBeUndefined();
    expect((await store.list("ids")).map((entry) => entry.key)).toEqual([`ids/${"a".repeat(32)}`]);
  });

  test("one damaged record does not hide the others", async () => {
    const store = new MemoryMetaStore();
    await create(directoryOn(store), "a");
    await store.create("streams/plant/damaged", Uint8Array.of(0xff));
    const directory = directoryOn(store);
    await directory.start();
    expect((await directory.list("plant")).map((entry) => entry.name.stream)).toEqual(["press"]);
    await directory.close();
  });

  test("lists in order of scope and name", async () => {
    const directory = directoryOn(new MemoryMetaStore());
    const names = ["a-b/x", "a/z", "a/b", "B/c"];
    for (const [i, name] of names.entries()) {
      const [scope = "", stream = ""] = name.split("/");
      await directory.create({ scope, stream }, proposal("abcd"[i] as string));
    }
    const listed = (await directory.list(undefined)).map(({ name }) => `${name.scope}/${name.stream}`);
    expect(listed).toEqual(["B/c", "a/b", "a/z", "a-b/x"]);
    expect((await directory.list("a")).map(({ name }) => name.stream)).toEqual(["b", "z"]);
  });
});

/** Creates, deletes and creates again, on a node that dies at each of its operations; then another node takes over. */
describe.each(["before", "after"] as const)("a node that dies %s an operation", (when) => {
  const story = async (directory: StreamDirectory) => {
    for (const deleting of await directory.start()) await directory.finishDelete(deleting);
    await create(directory, "a");
    await remove(directory);
    await create(directory, "b");
  };

  test("leaves nothing that the next one cannot finish", async () => {
    let deaths = 0;
    for (let operation = 0; ; operation++) {
      const store = new MemoryMetaStore();
      const mortal = new FaultyMetaStore(store, { diesAt: { operation, when } });
      const dying = directoryOn(mortal);
      const died = await story(dying).then(
        () => false,
        (error: unknown) => {
          if (error instanceof Death) return true;
          throw error;
        },
      );
      await dying.close();
      if (!died) break;
      deaths++;

      const next = directoryOn(store, 2);
      for (const deleting of await next.start()) await next.finishDelete(deleting);
      // A retry of the first creation: it is there, or it was deleted, or it never was.
      expect(["created a", "retired", "exists b"]).toContain(await create(next, "a"));
      await checkConsistent(next, store);
      await remove(next);
      expect(await create(next, "c")).toBe("created c");
      expect(await create(next, "a")).toBe((await wasRetired(store, "a")) ? "retired" : "exists c");
      await checkConsistent(next, store);
      await next.close();
    }
    expect(deaths).toBeGreaterThan(8);
  });
});

async function wasRetired(store: MemoryMetaStore, id: string): Promise<boolean> {
  const entry = await store.get("streams/plant/press");
  return Buffer.from(entry?.value ?? []).includes(id.repeat(32));
}

async function checkConsistent(directory: StreamDirectory, store: MemoryMetaStore): Promise<void> {
  for (const { name, record } of await directory.list(undefined)) {
    expect((await directory.findById(record.id))?.name).toEqual(name);
  }
  for (const { key } of await store.list("ids")) {
    const id = key.slice("ids/".length);
    const entry = await directory.findById(id);
    if (entry) expect(entry.record.id).toBe(id);
  }
}

describe("reads that are old and answers that are lost", () => {
  test("change no decision", async () => {
    for (let seed = 1; seed <= 60; seed++) {
      const store = new MemoryMetaStore();
      const random = seededRandom(seed);
      const faults: MetaFaults = {
        staleBy: () => (random.float() < 0.4 ? 1 + Math.floor(random.float() * 3) : 0),
        unknown: () => (random.float() < 0.15 ? (random.float() < 0.5 ? "lost" : "dropped") : undefined),
      };
      // Every step on a node of its own, so that no cache helps.
      const on = () => directoryOn(new FaultyMetaStore(store, faults), seed);
      expect(await create(on(), "a")).toBe("created a");
      expect(await create(on(), "b")).toBe("exists a");
      expect(await create(on(), "a")).toBe("created a");
      expect((await on().findById("a".repeat(32)))?.record.id).toBe("a".repeat(32));
      expect(await on().findById("e".repeat(32))).toBeUndefined();
      const deleting = await untilFound(() => on().beginDelete(NAME));
      await on().finishDelete(deleting);
      expect((await on().findById("a".repeat(32)))?.certain).not.toBe(true);
      expect((await on().confirm(NAME))?.record.id).toBeUndefined();
      expect(await create(on(), "a")).toBe("retired");
      expect(await create(on(), "c")).toBe("created c");
      expect((await on().confirm(NAME))?.record.id).toBe("c".repeat(32));
      expect((await on().findById("c".repeat(32)))?.record.id).toBe("c".repeat(32));
    }
  });
});

test("of too many deleted names the newest are kept, whatever the clocks of those who deleted them said", async () => {
  const store = new MemoryMetaStore();
  const tombstone = (past: string[], deletedAtMs: number) =>
    encodeStreamRecord({ ...proposal("a"), id: "", containers: [], segments: 0, state: "deleted", past, deletedAtMs });
  const keyOf = (stream: string) => streamKey({ scope: "plant", stream });
  await store.create(keyOf("old-of-a-fast-clock"), tombstone(["b".repeat(32)], 9_000_000));
  for (let i = 2; i < LIMITS.deletedStreamsMax; i++) await store.create(keyOf(`n${i}`), tombstone(["c".repeat(32)], 5_000_000));
  for (const stream of ["new", "new-of-a-slow-clock"]) await store.create(keyOf(stream), tombstone(["d".repeat(32)], 1_000_000));
  await store.create(keyOf("never-a-stream"), tombstone([], 0));
  const directory = directoryOn(store);
  await directory.start();
  await directory.close();
  expect(await store.list(STREAMS_PREFIX)).toHaveLength(LIMITS.deletedStreamsMax);
  expect(await store.get(keyOf("old-of-a-fast-clock"))).toBeUndefined();
  expect(await store.get(keyOf("never-a-stream"))).toBeUndefined();
  expect(await store.get(keyOf("new-of-a-slow-clock"))).toBeDefined();
});

/** A node that has not seen the stream may answer a deletion with "unknown"; nothing is lost by asking again. */
async function untilFound<T>(ask: () => Promise<T | undefined>): Promise<T> {
  for (let i = 0; i < 100; i++) {
    try {
      const found = await ask();
      if (found !== undefined) return found;
    } catch (error) {
      if (!hasCode(error, "LOG_RESULT_UNKNOWN")) throw error;
    }
  }
  throw new Error("never found");
}
