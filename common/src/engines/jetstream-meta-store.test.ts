import { afterAll, beforeAll, expect, onTestFinished, test, vi } from "vitest";
import { metaStoreContract } from "../contracts/meta-store.contract.ts";
import type { MetaChange } from "../ports/meta-store.ts";
import { type NatsServer, startNatsServer } from "../testing/nats-server.ts";
import { JetStreamMetaStore } from "./jetstream-meta-store.ts";
import { connectNats } from "./nats-connection.ts";

let server: NatsServer;
let buckets = 0;
beforeAll(async () => {
  server = await startNatsServer();
});
afterAll(() => server.stop());

metaStoreContract("JetStreamMetaStore", async () => {
  const bucket = `contract-${buckets++}`;
  const closers: (() => Promise<void>)[] = [];
  return {
    open: async () => {
      const link = await connectNats({ url: server.url });
      const store = await JetStreamMetaStore.open(link, { bucket, replicas: 1 });
      closers.push(
        () => store.close(),
        () => link.close(),
      );
      return store;
    },
    close: async () => {
      for (const close of closers) await close();
    },
  };
});

test("JetStreamMetaStore keeps everything over a kill, and a watch goes on behind it", async () => {
  const fragile = await startNatsServer();
  onTestFinished(() => fragile.stop());
  const link = await connectNats({ url: fragile.url });
  onTestFinished(() => link.close());
  const store = await JetStreamMetaStore.open(link, { bucket: "meta", replicas: 1 });
  onTestFinished(() => store.close());
  const revision = await store.create("a/b", new Uint8Array([1]));
  await store.delete("a/c", await store.create("a/c", new Uint8Array([1])));
  const seen: MetaChange[] = [];
  const abort = new AbortController();
  const watching = store.watch("a", abort.signal, (change) => void seen.push(change));
  await vi.waitFor(() => expect(seen).toHaveLength(1), 10_000);

  await fragile.kill();
  await vi.waitFor(() => expect(link.connected()).toBe(false), 10_000);
  await expect(store.update("a/b", new Uint8Array([2]), revision)).rejects.toMatchObject({ code: "BUS_UNREACHABLE" });
  await fragile.restart();
  await vi.waitFor(() => expect(link.connected()).toBe(true), 10_000);

  expect(await store.get("a/b")).toMatchObject({ revision });
  const next = await store.update("a/b", new Uint8Array([3]), revision);
  expect(await store.create("a/c", new Uint8Array([4]))).toBeGreaterThan(next);
  await vi.waitFor(() => expect(seen.map((change) => `${change.key}=${change.value}`)).toEqual(["a/b=1", "a/b=3", "a/c=4"]), 30_000);
  abort.abort();
  await watching;
});

test("JetStreamMetaStore refuses a bucket with unsafe settings", async () => {
  const link = await connectNats({ url: server.url });
  onTestFinished(() => link.close());
  const config = { name: "KV_loose", subjects: ["$KV.loose.>"], storage: "memory", allow_direct: true, max_msgs_per_subject: 5 };
  await link.inbox.request("$JS.API.STREAM.CREATE.KV_loose", JSON.stringify(config), { timeoutMs: 5_000 });
  await expect(JetStreamMetaStore.open(link, { bucket: "loose", replicas: 1 })).rejects.toMatchObject({
    code: "CONFIG_INVALID",
    message: expect.stringMatching(/storage is "memory", it must be "file".*max_msgs_per_subject is 5.*allow_direct is true/),
  });
});
