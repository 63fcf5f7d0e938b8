import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { metaStoreContract } from "../contracts/meta-store.contract.ts";
import type { MetaStore } from "../ports/meta-store.ts";
import { openSqliteMetaStore } from "./sqlite-meta-store.ts";

const folders: string[] = [];
async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "tributary-meta-"));
  folders.push(folder);
  return folder;
}
afterEach(async () => {
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true });
});

metaStoreContract("SQLite", async () => {
  const folder = await newFolder();
  let store: Promise<MetaStore> | undefined;
  return {
    open: () => (store ??= openSqliteMetaStore(join(folder, "meta.db"))),
    close: async () => (await store)?.close(),
  };
});

test("keeps entries and revisions over a reopen", async () => {
  const path = join(await newFolder(), "deep", "meta.db");
  const before = await openSqliteMetaStore(path);
  const first = await before.create("a", new Uint8Array([1]));
  await before.delete("a", first);
  const second = await before.create("b", new Uint8Array([2]));
  await before.close();
  const after = await openSqliteMetaStore(path);
  expect(await after.list("")).toEqual([{ key: "b", value: new Uint8Array([2]), revision: second }]);
  expect(await after.create("a", new Uint8Array([3]))).toBeGreaterThan(second);
  await after.close();
});

test("belongs to one opener, and does nothing once closed", async () => {
  const path = join(await newFolder(), "meta.db");
  const store = await openSqliteMetaStore(path);
  await expect(openSqliteMetaStore(path)).rejects.toMatchObject({ code: "DATA_DIR_LOCKED" });
  const watching = store.watch("", new AbortController().signal, () => {});
  await store.close();
  await watching;
  await expect(store.get("a")).rejects.toMatchObject({ code: "LOG_CLOSED" });
  await (await openSqliteMetaStore(path)).close();
});
