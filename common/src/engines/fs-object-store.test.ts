import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { objectStoreContract } from "../contracts/object-store.contract.ts";
import { canMountSmallDisk, runOnSmallDisk } from "../testing/small-disk.ts";
import { openFsObjectStore } from "./fs-object-store.ts";

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "tributary-objects-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

objectStoreContract("file system", async () => {
  const folder = await newFolder();
  return { open: () => openFsObjectStore(join(folder, "lake", "tier")), close: async () => {} };
});

test("removes what a killed put left behind, and shows nothing of it", async () => {
  const root = await newFolder();
  const before = await openFsObjectStore(root);
  await before.put("a/kept", new Uint8Array([1]));
  await before.close();
  await writeFile(join(root, "~tmp", "half-written"), "half");
  const store = await openFsObjectStore(root);
  expect(await readdir(join(root, "~tmp"))).toEqual([]);
  expect((await store.list("", { limit: 10 })).map((object) => object.name)).toEqual(["a/kept"]);
});

test("leaves the unfinished files of others alone that use the folder too", async () => {
  const root = await newFolder();
  await openFsObjectStore(root, { user: "one" });
  await writeFile(join(root, "~tmp-one", "half-written"), "half");
  const two = await openFsObjectStore(root, { user: "two" });
  expect(await readdir(join(root, "~tmp-one"))).toEqual(["half-written"]);
  await two.put("a", new Uint8Array([1]));
  expect(await two.list("", { limit: 10 })).toEqual([{ name: "a", bytes: 1 }]);
});

test("leaves no temporary file behind, whether a put wins or loses", async () => {
  const root = await newFolder();
  const store = await openFsObjectStore(root);
  await Promise.allSettled([1, 2, 3].map((byte) => store.put("one", new Uint8Array([byte]))));
  expect(await readdir(join(root, "~tmp"))).toEqual([]);
});

test("does not list files that are no objects", async () => {
  const root = await newFolder();
  await mkdir(join(root, "lost+found"), { recursive: true });
  await writeFile(join(root, "with space"), "x");
  await writeFile(join(root, "object"), "x");
  const store = await openFsObjectStore(root);
  expect(await store.list("", { limit: 10 })).toEqual([{ name: "object", bytes: 1 }]);
});

test("refuses a name that is a folder of others, and one below an object; both places stay usable", async () => {
  const store = await openFsObjectStore(await newFolder());
  const data = new Uint8Array([1]);
  await store.put("a/b", data);
  await expect(store.put("a", data)).rejects.toMatchObject({ code: "INVALID_REQUEST" });
  await expect(store.put("a/b/c", data)).rejects.toMatchObject({ code: "INVALID_REQUEST" });
  await store.delete("a/b");
  await store.put("a/b/c", data);
  expect(await store.get("a/b/c")).toEqual(data);
});

test("whose folder goes away says so, takes nothing for missing, and goes on once it is back", async () => {
  const root = join(await newFolder(), "lake");
  const store = await openFsObjectStore(root);
  const data = new Uint8Array([1]);
  await store.put("a/b", data);
  const refused = async () => {
    const each = [store.put("a/c", data), store.get("a/b"), store.head("a/b"), store.list("", { limit: 10 }), store.delete("a/b")];
    return (await Promise.allSettled(each)).map((one) => one.status === "rejected" && (one.reason as { code?: string }).code);
  };
  await rename(root, `${root}-away`);
  expect(await refused()).toEqual(new Array(5).fill("STORE_UNREACHABLE"));
  // As where a disk is not mounted any more.
  await mkdir(root);
  expect(await refused()).toEqual(new Array(5).fill("STORE_UNREACHABLE"));
  await rm(root, { recursive: true });
  await rename(`${root}-away`, root);
  await store.put("a/c", data);
  expect((await store.list("", { limit: 10 })).map(({ name }) => name)).toEqual(["a/b", "a/c"]);
  expect(await store.head("a/d")).toBeUndefined();
});

test("says that a folder cannot be used", async () => {
  const root = await newFolder();
  await writeFile(join(root, "file"), "x");
  await expect(openFsObjectStore(join(root, "file"))).rejects.toMatchObject({ code: "CONFIG_INVALID" });
});

test.skipIf(!canMountSmallDisk)("a full disk refuses the object and leaves nothing of it behind", async () => {
  const folder = await newFolder();
  const root = JSON.stringify(join(folder, "disk", "lake"));
  const source = `import { openFsObjectStore } from ${JSON.stringify(new URL("./fs-object-store.ts", import.meta.url).href)};
    import { readdirSync } from "node:fs";
    const store = await openFsObjectStore(${root});
    const codes = [];
    for (let i = 0; codes.length < 3; i++) await store.put("part/" + (1000 + i), new Uint8Array(700_000)).catch((error) => codes.push(error.code));
    const listed = await store.list("", { limit: 100 });
    const left = readdirSync(${root} + "/~tmp");
    await store.delete("part/1000");
    await store.put("again", new Uint8Array(700_000));
    console.log(JSON.stringify({ codes, sizes: listed.map((one) => one.bytes), left }));`;
  const { codes, sizes, left } = JSON.parse(runOnSmallDisk(folder, 8, source));
  expect(codes).toEqual(["STORAGE_FULL", "STORAGE_FULL", "STORAGE_FULL"]);
  expect(sizes.length).toBeGreaterThan(5);
  expect(new Set(sizes)).toEqual(new Set([700_000]));
  expect(left).toEqual([]);
});
