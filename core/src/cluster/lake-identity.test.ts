import { hasCode } from "@tributary/common/errors";
import { fuzzBytes, orCode } from "@tributary/common/testing/fuzz";
import { expect, it } from "vitest";
import { fastClock, seededRandom } from "../service/testing/fast-clock.ts";
import { MemoryObjectStore } from "../service/testing/memory-engines.ts";
import { MemoryMetaStore } from "../service/testing/memory-meta-store.ts";
import { encodeClusterRecord } from "./cluster-codec.ts";
import { agreeOnClusterId, decodeIdentity, encodeIdentity, IDENTITY_NAME } from "./lake-identity.ts";

const access = (meta = new MemoryMetaStore(), seed = 1) => ({ meta, clock: fastClock(), random: seededRandom(seed) });

it("a new cluster marks its lake, and finds it again", async () => {
  const objects = new MemoryObjectStore();
  const mine = access();
  const id = await agreeOnClusterId(mine, objects, "test");
  expect(decodeIdentity(await objects.get(IDENTITY_NAME))).toMatchObject({ cluster: id, name: "test" });
  expect(await agreeOnClusterId(mine, objects, "test")).toBe(id);
});

it("nodes that start at once agree", async () => {
  const objects = new MemoryObjectStore();
  const meta = new MemoryMetaStore();
  const ids = await Promise.all([1, 2, 3].map((seed) => agreeOnClusterId(access(meta, seed), objects, "test")));
  expect(new Set(ids).size).toBe(1);
});

it("a cluster that lost its metadata takes over the lake's id", async () => {
  const objects = new MemoryObjectStore();
  const id = await agreeOnClusterId(access(), objects, "test");
  expect(await agreeOnClusterId(access(new MemoryMetaStore(), 2), objects, "test")).toBe(id);
});

it("another cluster's lake is refused with what to do", async () => {
  const objects = new MemoryObjectStore();
  await agreeOnClusterId(access(), objects, "test");
  const other = access(new MemoryMetaStore(), 2);
  await agreeOnClusterId(other, new MemoryObjectStore(), "test");
  const error = await agreeOnClusterId(other, objects, "test").catch((refused: unknown) => refused);
  expect(hasCode(error, "CONFIG_INVALID") && error.message).toContain("core.lake");
});

it("a node that has a lake of its own is refused, whether that is empty or was marked by mistake at the same time", async () => {
  const mine = access();
  const objects = new MemoryObjectStore();
  const id = await agreeOnClusterId(mine, objects, "test");
  const own = new MemoryObjectStore();
  await expect(agreeOnClusterId(mine, own, "test")).rejects.toMatchObject({ code: "CONFIG_INVALID" });
  await own.put(IDENTITY_NAME, encodeIdentity({ cluster: id, name: "test", lake: "00" }));
  await expect(agreeOnClusterId(mine, own, "test")).rejects.toMatchObject({ code: "CONFIG_INVALID" });
  expect(await agreeOnClusterId(mine, objects, "test")).toBe(id);
});

it("a cluster from before lakes were marked marks its own", async () => {
  const mine = access();
  await mine.meta.create("cluster", encodeClusterRecord({ id: "0123456789abcdef", lake: undefined }));
  const objects = new MemoryObjectStore();
  expect(await agreeOnClusterId(mine, objects, "test")).toBe("0123456789abcdef");
  await expect(agreeOnClusterId(mine, new MemoryObjectStore(), "test")).rejects.toMatchObject({ code: "CONFIG_INVALID" });
});

it("another cluster's lake does not give its id to metadata that are new", async () => {
  const objects = new MemoryObjectStore();
  await agreeOnClusterId(access(), objects, "test");
  const other = access(new MemoryMetaStore(), 2);
  await expect(agreeOnClusterId(other, objects, "other")).rejects.toMatchObject({ code: "CONFIG_INVALID" });
  expect(await other.meta.list("")).toEqual([]);
});

/** A digit of the cluster's id changes, so that it still can be decoded. */
function flipped(identity: Uint8Array): Uint8Array {
  const bytes = Uint8Array.from(identity);
  bytes[Buffer.from(identity).indexOf("cluster") + 10] = 0x78;
  return bytes;
}

class BadStore extends MemoryObjectStore {
  /** So many puts keep other bytes than they are given, and so many reads give others than are kept. */
  badPuts = 0;
  badGets = 0;

  override put(name: string, data: Uint8Array): Promise<void> {
    return super.put(name, this.badPuts-- > 0 ? flipped(data) : data);
  }

  override async get(name: string, range?: { offset: number; length: number }): Promise<Uint8Array> {
    const data = await super.get(name, range);
    return this.badGets-- > 0 ? flipped(data) : data;
  }
}

it("a store that keeps another identity than it was given keeps no node from starting", async () => {
  const objects = new BadStore();
  objects.badPuts = 2;
  const meta = new MemoryMetaStore();
  const ids = await Promise.all([1, 2].map((seed) => agreeOnClusterId(access(meta, seed), objects, "test")));
  expect(new Set(ids).size).toBe(1);
  const first = await objects.get(IDENTITY_NAME);
  expect(() => decodeIdentity(first)).toThrow("damaged");
  expect(await agreeOnClusterId(access(meta, 3), objects, "test")).toBe(ids[0]);
  expect(await agreeOnClusterId(access(new MemoryMetaStore(), 4), objects, "test")).toBe(ids[0]);
});

it("a node that died before it noticed the damage leaves a lake that the next one can mark", async () => {
  const objects = new MemoryObjectStore();
  await objects.put(IDENTITY_NAME, new Uint8Array(0));
  const mine = access();
  expect(await agreeOnClusterId(mine, objects, "test")).toBe(await agreeOnClusterId(mine, objects, "test"));
});

it("a lake whose identity is damaged and that holds more is marked for nobody else", async () => {
  const objects = new MemoryObjectStore();
  await objects.put(IDENTITY_NAME, new Uint8Array(3));
  await objects.put("g0/c00000/blocks/a.trib", new Uint8Array(1));
  await expect(agreeOnClusterId(access(), objects, "test")).rejects.toMatchObject({ code: "STORE_CORRUPT" });
});

it("damage on the way is not taken for damage in the store", async () => {
  const objects = new BadStore();
  const mine = access();
  objects.badGets = 1;
  const id = await agreeOnClusterId(mine, objects, "test");
  objects.badGets = 1;
  expect(await agreeOnClusterId(mine, objects, "test")).toBe(id);
  expect((await objects.list("", { limit: 9 })).map(({ name }) => name)).toEqual([IDENTITY_NAME]);
});

it("mutated identities are read or STORE_CORRUPT", async () => {
  const run = (bytes: Uint8Array) => void orCode(() => decodeIdentity(bytes), "STORE_CORRUPT");
  await fuzzBytes({
    name: "lake-identity",
    beside: import.meta.url,
    seeds: [encodeIdentity({ cluster: "0123456789abcdef", name: "test", lake: "fedcba9876543210" })],
    run,
  });
});
