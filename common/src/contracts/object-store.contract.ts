import fc from "fast-check";
import { describe, expect, onTestFinished, test } from "vitest";
import type { ObjectStore } from "../ports/object-store.ts";

export interface ObjectStoreFixture {
  /** Opens the one store of this fixture. It is opened again only after the earlier handle was closed. */
  open(): Promise<ObjectStore>;
  close(): Promise<void>;
}

/** What every ObjectStore does. `setup` makes an empty store. */
export function objectStoreContract(name: string, setup: () => Promise<ObjectStoreFixture>): void {
  const start = async (): Promise<ObjectStoreFixture> => {
    const fixture = await setup();
    onTestFinished(() => fixture.close());
    return fixture;
  };
  const startOpen = async (): Promise<ObjectStore> => (await start()).open();

  describe(`ObjectStore contract: ${name}`, () => {
    test("stores an object once and gives it back", async () => {
      const store = await startOpen();
      expect(await store.head("a/b/c.bin")).toBeUndefined();
      await store.put("a/b/c.bin", text("hello"));
      expect(await store.get("a/b/c.bin")).toEqual(text("hello"));
      expect(await store.head("a/b/c.bin")).toEqual({ name: "a/b/c.bin", bytes: 5 });
      await expect(store.put("a/b/c.bin", text("other"))).rejects.toMatchObject({ code: "OBJECT_EXISTS" });
      expect(await store.get("a/b/c.bin")).toEqual(text("hello"));
      await store.close();
    });

    test("keeps empty objects and large ones", async () => {
      const store = await startOpen();
      const large = patterned(9_000_001, 3);
      await store.put("empty", new Uint8Array());
      await store.put("large", large.subarray(1));
      expect(await store.get("empty")).toHaveLength(0);
      expect(Buffer.compare(await store.get("large"), large.subarray(1))).toBe(0);
      await store.close();
    });

    test("stores an object of many parts as their bytes in a row", async () => {
      const store = await startOpen();
      const whole = patterned(3_000_000, 7);
      const parts = Array.from({ length: 3_000 }, (_, i) => whole.subarray(i * 1_000, (i + 1) * 1_000));
      await store.put("parts", [new Uint8Array(), ...parts, new Uint8Array()]);
      expect(Buffer.compare(await store.get("parts"), whole)).toBe(0);
      await store.put("no-parts", []);
      expect(await store.get("no-parts")).toHaveLength(0);
      await store.close();
    });

    test("of puts of one name at one time exactly one wins, and its content is whole", async () => {
      const store = await startOpen();
      for (let round = 0; round < 5; round++) {
        const contents = [0, 1, 2, 3].map((seed) => patterned(300_000 + seed, round * 4 + seed));
        const results = await Promise.allSettled(contents.map((data) => store.put(`race/${round}`, data)));
        const winners = results.flatMap((result, i) => (result.status === "fulfilled" ? [i] : []));
        expect(winners).toHaveLength(1);
        for (const result of results) if (result.status === "rejected") expect(result.reason).toMatchObject({ code: "OBJECT_EXISTS" });
        expect(Buffer.compare(await store.get(`race/${round}`), contents[winners[0] ?? 0] as Uint8Array)).toBe(0);
      }
      await store.close();
    });

    test("puts many objects into one new folder at one time", async () => {
      const store = await startOpen();
      const names = Array.from({ length: 40 }, (_, i) => `new/folder/deep/${String(i).padStart(2, "0")}`);
      await Promise.all(names.map((name) => store.put(name, text(name))));
      expect((await store.list("new/", { limit: 100 })).map((object) => object.name)).toEqual(names);
      await store.close();
    });

    test("reads ranges, fewer bytes at the end, none behind it", async () => {
      const store = await startOpen();
      const data = patterned(1000, 1);
      await store.put("ranges", data);
      const buffer = new Uint8Array(40);
      expect(await store.get("ranges", { offset: 7, length: 30 }, buffer)).toEqual(data.subarray(7, 37));
      expect(await store.get("ranges", undefined, buffer)).toEqual(data);
      for (const [offset, length] of [
        [0, 10],
        [990, 10],
        [500, 0],
        [123, 456],
        [990, 100],
        [0, 5000],
        [1000, 10],
        [4000, 10],
      ] as const) {
        const expected = data.subarray(offset, offset + length);
        expect(Buffer.compare(await store.get("ranges", { offset, length }), expected), `${offset}+${length}`).toBe(0);
      }
      await store.close();
    });

    test("says that an object is not there", async () => {
      const store = await startOpen();
      await store.put("folder/object", text("x"));
      for (const name of ["missing", "folder", "folder/other", "folder/object/below"]) {
        await expect(store.get(name), name).rejects.toMatchObject({ code: "OBJECT_NOT_FOUND" });
        await expect(store.get(name, { offset: 0, length: 1 }), name).rejects.toMatchObject({ code: "OBJECT_NOT_FOUND" });
        expect(await store.head(name), name).toBeUndefined();
      }
      await store.close();
    });

    test("deletes, again and again; the name is free afterwards", async () => {
      const store = await startOpen();
      await store.put("a/b/one", text("1"));
      await store.put("a/b/two", text("2"));
      await store.delete("a/b/one");
      await store.delete("a/b/one");
      await store.delete("a/b/never");
      await store.delete("a");
      await store.delete("x/y/z");
      expect(await store.head("a/b/one")).toBeUndefined();
      expect(await store.get("a/b/two")).toEqual(text("2"));
      await store.put("a/b/one", text("again"));
      expect(await store.get("a/b/one")).toEqual(text("again"));
      await store.close();
    });

    test("puts succeed beside deletes that empty their folder", async () => {
      const store = await startOpen();
      for (let round = 0; round < 20; round++) {
        await store.put(`shared/deep/${round}`, text("old"));
        await Promise.all([store.delete(`shared/deep/${round}`), store.put(`shared/deep/next-${round}`, text("new"))]);
        expect(await store.get(`shared/deep/next-${round}`)).toEqual(text("new"));
        await store.delete(`shared/deep/next-${round}`);
      }
      expect(await store.list("", { limit: 10 })).toEqual([]);
      await store.close();
    });

    test("lists in order of name, by prefix, page by page", async () => {
      const store = await startOpen();
      const names = ["a", "a-b", "a.b/c", "a.b/d", "a0", "b/a", "b/a-x", "b/ab/c", "b/ab/d/e", "b/b", "b0/x", "c/1", "c/10", "c/2", "B/x"];
      for (const name of names) await store.put(name, text(name));
      const sorted = names.toSorted();
      const listed = async (prefix: string, options: { after?: string; limit: number }) =>
        (await store.list(prefix, options)).map((object) => object.name);
      expect(await listed("", { limit: 100 })).toEqual(sorted);
      expect(await listed("b/", { limit: 100 })).toEqual(sorted.filter((name) => name.startsWith("b/")));
      expect(await listed("b/a", { limit: 100 })).toEqual(["b/a", "b/a-x", "b/ab/c", "b/ab/d/e"]);
      expect(await listed("a", { limit: 100 })).toEqual(["a", "a-b", "a.b/c", "a.b/d", "a0"]);
      expect(await listed("zzz", { limit: 100 })).toEqual([]);
      expect(await listed("", { limit: 3 })).toEqual(sorted.slice(0, 3));
      expect(await listed("b/", { after: "b/ab/c", limit: 1 })).toEqual(["b/ab/d/e"]);
      expect(await listed("", { after: "b/ab", limit: 2 })).toEqual(["b/ab/c", "b/ab/d/e"]);
      expect(await listed("a", { after: "b", limit: 5 })).toEqual([]);
      for (let limit = 1; limit < 5; limit++) {
        const all: string[] = [];
        for (let page = await listed("", { limit }); page.length > 0; page = await listed("", { after: all.at(-1) ?? "", limit })) {
          expect(page.length).toBeLessThanOrEqual(limit);
          all.push(...page);
        }
        expect(all).toEqual(sorted);
      }
      expect((await store.list("c/1", { limit: 1 }))[0]).toEqual({ name: "c/1", bytes: 3 });
      await store.close();
    });

    test("lists any set of names as a sorted array would", async () => {
      const fixture = await start();
      const store = await fixture.open();
      // Letters are folders and digits objects, since a file system cannot have both under one name.
      const objectName = fc
        .tuple(fc.array(fc.constantFrom("a", "b", "a-", "a."), { maxLength: 3 }), fc.constantFrom("1", "2", "10"))
        .map(([folders, last]) => [...folders, last].join("/"));
      await fc.assert(
        fc.asyncProperty(
          fc.uniqueArray(objectName, { maxLength: 12 }),
          fc.constantFrom("", "a", "a/", "a/b", "b/1", "a-"),
          fc.constantFrom("", "a", "a/", "a/1", "a/b/2", "b"),
          fc.integer({ min: 1, max: 4 }),
          async (names, prefix, after, limit) => {
            for (const name of names) await store.put(name, text(name));
            const expected = names
              .filter((name) => name.startsWith(prefix) && name > after)
              .toSorted()
              .slice(0, limit);
            expect((await store.list(prefix, { after, limit })).map((object) => object.name)).toEqual(expected);
            for (const name of names) await store.delete(name);
          },
        ),
        { numRuns: 40 },
      );
      await store.close();
    });

    test("refuses names that are none", async () => {
      const store = await startOpen();
      const bad = [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "../x",
        "a/../b",
        "a/./b",
        "a b",
        "ä",
        "a\\b",
        "a\0b",
        "~tmp/x",
        "x".repeat(1025),
      ];
      for (const name of bad) {
        await expect(store.put(name, text("x")), name).rejects.toMatchObject({ code: "INVALID_NAME" });
        await expect(store.get(name), name).rejects.toMatchObject({ code: "INVALID_NAME" });
        await expect(store.head(name), name).rejects.toMatchObject({ code: "INVALID_NAME" });
        await expect(store.delete(name), name).rejects.toMatchObject({ code: "INVALID_NAME" });
      }
      const longest = Array.from({ length: 8 }, () => "p".repeat(127)).join("/");
      await store.put(longest, text("long"));
      await store.put(".hidden/..x/a..b", text("dots"));
      expect(await store.get(".hidden/..x/a..b")).toEqual(text("dots"));
      expect((await store.list("", { limit: 10 })).map((object) => object.name)).toEqual([".hidden/..x/a..b", longest]);
      await store.close();
    });

    test("keeps everything over a reopen", async () => {
      const fixture = await start();
      const before = await fixture.open();
      await before.put("kept/1", text("one"));
      await before.put("kept/2", text("two"));
      await before.delete("kept/1");
      await before.close();
      const after = await fixture.open();
      expect(await after.list("", { limit: 10 })).toEqual([{ name: "kept/2", bytes: 3 }]);
      expect(await after.get("kept/2")).toEqual(text("two"));
      await expect(after.put("kept/2", text("x"))).rejects.toMatchObject({ code: "OBJECT_EXISTS" });
      await after.close();
    });
  });
}

function text(value: string): Uint8Array {
  return new TextEncoder().encode(value);
}

function patterned(size: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i++) bytes[i] = (i ^ (i >>> 8) ^ (i >>> 16) ^ (seed * 31)) & 0xff;
  return bytes;
}
