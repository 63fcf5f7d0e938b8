import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { append, http, readAll } from "./testing/http.ts";
import { newFolder, type Server, startServer, until } from "./testing/tributary.ts";

const STREAM = "lake/away";

let lake: string;
let server: Server;
const stops: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  const { folder, remove } = await newFolder();
  stops.push(remove);
  lake = join(folder, "lake");
  const settings = [`core.lake=${lake}`, "core.flushIntervalMs=100", "edge.vitalsIntervalMs=0"].flatMap((setting) => ["--set", setting]);
  server = await startServer("up", ["--data", join(folder, "data"), ...settings]);
  stops.push(() => server.kill());
});
afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
});

const ready = async () => {
  const { status, body } = await http("GET", `${server.coreHttp}/ready`);
  return { status, ...(JSON.parse(body) as { ready: boolean; degraded?: string[] }) };
};
const metric = async (name: string) =>
  Number(new RegExp(`^${name} (\\d+)$`, "m").exec((await http("GET", `${server.coreHttp}/metrics`)).body)?.[1]);
const unflushed = async () => (await metric("tributary_core_events_durable")) - (await metric("tributary_core_events_tiered"));

test("a lake that goes away while the core runs is told of, and all goes on once it is back", { timeout: 120_000 }, async () => {
  expect((await http("PUT", `${server.coreHttp}/v1/stream/${STREAM}`)).status).toBe(201);
  expect((await append(server.coreHttp, STREAM, "before")).status).toBe(204);
  await until("the first event to be in the lake", async () => (await unflushed()) === 0);
  expect(await ready()).toEqual({ status: 200, ready: true });

  await rename(lake, `${lake}-away`);
  expect((await append(server.coreHttp, STREAM, "meanwhile")).status).toBe(204);
  await until("the core to tell that flushing is held up", async () => (await metric("tributary_core_containers_tier_failing")) === 1);
  expect(await ready()).toEqual({ status: 200, ready: true, degraded: ["the lake takes nothing (STORE_UNREACHABLE): containers 0"] });
  expect(await metric("tributary_core_containers_tier_full")).toBe(0);
  // An empty folder, as where a disk is no longer mounted, is not the lake.
  await mkdir(lake);
  expect((await append(server.coreHttp, STREAM, "and more")).status).toBe(204);
  expect(await metric("tributary_core_containers_tier_failing")).toBe(1);
  await rm(lake, { recursive: true });

  await rename(`${lake}-away`, lake);
  await until("everything to be in the lake", async () => (await unflushed()) === 0);
  expect(await metric("tributary_core_containers_tier_failing")).toBe(0);
  expect(await ready()).toEqual({ status: 200, ready: true });
  const payloads = (await readAll(server.coreHttp, STREAM)).map((record) => Buffer.from(record.data).toString());
  expect(payloads).toEqual(["before", "meanwhile", "and more"]);
});
