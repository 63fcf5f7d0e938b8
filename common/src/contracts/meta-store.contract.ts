import { describe, expect, onTestFinished, test, vi } from "vitest";
import type { MetaChange, MetaStore } from "../ports/meta-store.ts";

export interface MetaStoreFixture {
  /** A handle on the one store of this fixture; handles may share an object. */
  open(): Promise<MetaStore>;
  close(): Promise<void>;
}

const WAIT_MS = 20_000;

/** What every MetaStore does. `setup` makes an empty store. */
export function metaStoreContract(name: string, setup: () => Promise<MetaStoreFixture>): void {
  const start = async (): Promise<MetaStoreFixture> => {
    const fixture = await setup();
    onTestFinished(() => fixture.close());
    return fixture;
  };

  describe(`MetaStore contract: ${name}`, () => {
    test("creates a key once", async () => {
      const store = await (await start()).open();
      expect(await store.get("streams/a")).toBeUndefined();
      const revision = await store.create("streams/a", text("one"));
      expect(revision).toBeGreaterThan(0);
      expect(plain(await store.get("streams/a"))).toEqual({ key: "streams/a", value: "one", revision });
      await expect(store.create("streams/a", text("two"))).rejects.toMatchObject({ code: "META_EXISTS" });
      expect(string((await store.get("streams/a"))?.value)).toBe("one");
    });

    test("keeps empty and binary values", async () => {
      const store = await (await start()).open();
      const bytes = Uint8Array.from({ length: 40_000 }, (_, i) => i & 0xff);
      const revision = await store.create("empty", new Uint8Array());
      await store.create("binary", bytes);
      expect(plain(await store.get("empty"))).toEqual({ key: "empty", value: "", revision });
      expect(Buffer.compare((await store.get("binary"))?.value ?? new Uint8Array(), bytes)).toBe(0);
    });

    test("updates a key only at the revision given", async () => {
      const store = await (await start()).open();
      const first = await store.create("k", text("1"));
      const second = await store.update("k", text("2"), first);
      expect(second).toBeGreaterThan(first);
      await expect(store.update("k", text("stale"), first)).rejects.toMatchObject({ code: "META_CONFLICT" });
      await expect(store.update("missing", text("x"), second)).rejects.toMatchObject({ code: "META_CONFLICT" });
      expect(plain(await store.get("k"))).toEqual({ key: "k", value: "2", revision: second });
    });

    test("changes of one key leave the revisions of others alone", async () => {
      const store = await (await start()).open();
      const a = await store.create("a", text("1"));
      const b = await store.create("b", text("1"));
      await store.update("b", text("2"), b);
      await expect(store.update("a", text("2"), a)).resolves.toBeGreaterThan(a);
    });

    test("of racers that create one key exactly one wins", async () => {
      const fixture = await start();
      const stores = [await fixture.open(), await fixture.open()];
      for (let round = 0; round < 10; round++) {
        const results = await Promise.allSettled([0, 1, 2, 3].map((i) => pick(stores, i).create(`race/${round}`, text(String(i)))));
        expectOneWinner(results, "META_EXISTS");
        const winner = results.findIndex((r) => r.status === "fulfilled");
        expect(string((await pick(stores, 0).get(`race/${round}`))?.value)).toBe(String(winner));
      }
    });

    test("of racers that update one key exactly one wins each round", async () => {
      const fixture = await start();
      const stores = [await fixture.open(), await fixture.open()];
      let revision = await pick(stores, 0).create("lease", text("nobody"));
      for (let round = 0; round < 10; round++) {
        const at = revision;
        const results = await Promise.allSettled([0, 1, 2, 3].map((i) => pick(stores, i).update("lease", text(`${round}.${i}`), at)));
        expectOneWinner(results, "META_CONFLICT");
        const winner = results.findIndex((r) => r.status === "fulfilled");
        const entry = await pick(stores, 1).get("lease");
        expect(string(entry?.value)).toBe(`${round}.${winner}`);
        revision = entry?.revision ?? 0;
        expect(revision).toBeGreaterThan(at);
      }
    });

    test("of racers that create a deleted key exactly one wins", async () => {
      const fixture = await start();
      const stores = [await fixture.open(), await fixture.open()];
      await pick(stores, 0).delete("again", await pick(stores, 0).create("again", text("old")));
      const results = await Promise.allSettled([0, 1, 2, 3].map((i) => pick(stores, i).create("again", text(String(i)))));
      expectOneWinner(results, "META_EXISTS");
    });

    test("deletes only at the revision given; a missing key is fine; a key created again has a higher revision", async () => {
      const store = await (await start()).open();
      const first = await store.create("k", text("1"));
      const second = await store.update("k", text("2"), first);
      await expect(store.delete("k", first)).rejects.toMatchObject({ code: "META_CONFLICT" });
      await store.delete("k", second);
      expect(await store.get("k")).toBeUndefined();
      await store.delete("k", second);
      await store.delete("never", 1);
      await expect(store.update("k", text("x"), second)).rejects.toMatchObject({ code: "META_CONFLICT" });
      const again = await store.create("k", text("3"));
      expect(again).toBeGreaterThan(second);
      await expect(store.update("k", text("x"), second)).rejects.toMatchObject({ code: "META_CONFLICT" });
      await expect(store.delete("k", second)).rejects.toMatchObject({ code: "META_CONFLICT" });
      expect(string((await store.get("k"))?.value)).toBe("3");
    });

    test("lists by whole parts, in order of key, without what was deleted", async () => {
      const store = await (await start()).open();
      const keys = ["a/b/c", "a/bc", "a/b.c", "a/b", "a/b/c/d", "a/B", "ab", "b", "a/b-c", "a/b/_x"];
      for (const key of keys) await store.create(key, text(key));
      await store.delete("a/b/gone", 0);
      await store.delete("a/b/d", await store.create("a/b/d", text("gone")));
      const listed = async (prefix: string) => (await store.list(prefix)).map((entry) => entry.key);
      expect(await listed("")).toEqual(keys.toSorted());
      expect(await listed("a/b")).toEqual(["a/b", "a/b/_x", "a/b/c", "a/b/c/d"]);
      expect(await listed("a/b/c")).toEqual(["a/b/c", "a/b/c/d"]);
      expect(await listed("a/b.c")).toEqual(["a/b.c"]);
      expect(await listed("nothing")).toEqual([]);
      for (const entry of await store.list("")) {
        expect(string(entry.value)).toBe(entry.key);
        expect(entry.revision).toBe((await store.get(entry.key))?.revision);
      }
    });

    test("keeps keys apart that differ only in separators or in case", async () => {
      const store = await (await start()).open();
      const keys = ["x/y", "x.y", "x_y", "x-y", "X/y", "x/y.", "x./y", "x/.y", "x..y", "_2E", ".", "x_2Ey"];
      for (const key of keys) await store.create(key, text(key));
      for (const key of keys) expect(string((await store.get(key))?.value)).toBe(key);
      expect((await store.list("")).map((entry) => entry.key)).toEqual(keys.toSorted());
    });

    test("refuses keys that are none", async () => {
      const store = await (await start()).open();
      const bad = ["", "/", "a/", "/a", "a//b", "a b", "a*", "a/>", "ä", "a/b/c/d/e/f/g/h/i", "k".repeat(129), "a\nb"];
      for (const key of bad) {
        await expect(store.create(key, text("x")), key).rejects.toMatchObject({ code: "INVALID_REQUEST" });
        await expect(store.get(key), key).rejects.toMatchObject({ code: "INVALID_REQUEST" });
      }
      for (const prefix of ["a/", "/a", "a b", "*"]) {
        await expect(store.list(prefix), prefix).rejects.toMatchObject({ code: "INVALID_REQUEST" });
      }
      await store.create("1/2/3/4/5/6/7/8", text("deep"));
      await store.create("k".repeat(128), text("long"));
      expect(await store.list("")).toHaveLength(2);
    });

    test("watches: first the present entries, then every change in order, until the signal aborts", async () => {
      const fixture = await start();
      const store = await fixture.open();
      const writer = await fixture.open();
      await writer.create("w/a", text("1"));
      await writer.create("w/ab/c", text("1"));
      await writer.delete("w/gone", await writer.create("w/gone", text("1")));
      await writer.create("wx", text("not mine"));
      const seen: ReturnType<typeof plain>[] = [];
      const abort = new AbortController();
      const watching = store.watch("w", abort.signal, (change) => void seen.push(plain(change)));
      await vi.waitFor(() => expect(seen.map((c) => c?.key).toSorted()).toEqual(["w/a", "w/ab/c"]), WAIT_MS);

      const created = await writer.create("w/new", text("1"));
      await vi.waitFor(() => expect(seen).toContainEqual({ key: "w/new", value: "1", revision: created }), WAIT_MS);
      await writer.create("wy", text("not mine"));
      const updated = await writer.update("w/new", text("2"), created);
      await vi.waitFor(() => expect(seen).toContainEqual({ key: "w/new", value: "2", revision: updated }), WAIT_MS);
      await writer.delete("w/new", updated);
      await vi.waitFor(() => expect(seen.at(-1)).toMatchObject({ key: "w/new", value: undefined }), WAIT_MS);

      const revisions = seen.filter((c) => c?.key === "w/new").map((c) => c?.revision ?? 0);
      expect(revisions).toEqual(revisions.toSorted((a, b) => a - b));
      expect(new Set(revisions).size).toBe(revisions.length);
      expect(seen.every((c) => c?.key.startsWith("w/"))).toBe(true);

      abort.abort();
      await watching;
      const count = seen.length;
      await writer.create("w/after", text("1"));
      expect(await store.get("w/after")).toBeDefined();
      expect(seen).toHaveLength(count);
    });

    test("a watch sees the newest value of a key that changes quickly", async () => {
      const store = await (await start()).open();
      const seen: ReturnType<typeof plain>[] = [];
      const abort = new AbortController();
      const watching = store.watch("", abort.signal, (change) => void seen.push(plain(change)));
      let revision = await store.create("fast", text("0"));
      for (let i = 1; i <= 50; i++) revision = await store.update("fast", text(String(i)), revision);
      await vi.waitFor(() => expect(seen.at(-1)).toEqual({ key: "fast", value: "50", revision }), WAIT_MS);
      abort.abort();
      await watching;
    });

    test("a watch whose signal has aborted ends at once", async () => {
      const store = await (await start()).open();
      await store.create("k", text("1"));
      await store.watch("", AbortSignal.abort(), () => {
        throw new Error("nothing may be reported");
      });
    });
  });
}

function expectOneWinner(results: readonly PromiseSettledResult<number>[], code: string): void {
  expect(results.filter((r) => r.status === "fulfilled")).toHaveLength(1);
  for (const result of results) if (result.status === "rejected") expect(result.reason).toMatchObject({ code });
}

function pick<T>(items: readonly T[], index: number): T {
  return items[index % items.length] as T;
}

function text(value: string): Uint8Array {
  return new TextEncoder().encode(value);
}

function string(bytes: Uint8Array | undefined): string | undefined {
  return bytes && new TextDecoder().decode(bytes);
}

/** An entry whose value can be compared whatever kind of byte array the engine gives. */
function plain(entry: MetaChange | undefined): { key: string; value: string | undefined; revision: number } | undefined {
  return entry && { key: entry.key, value: string(entry.value), revision: entry.revision };
}
