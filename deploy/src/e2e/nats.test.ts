import { cp } from "node:fs/promises";
import { join } from "node:path";
import { freePorts } from "@tributary/common/testing/free-ports";
import { type NatsServer, startNatsServer } from "@tributary/common/testing/nats-server";
import { afterAll, beforeAll, expect, test } from "vitest";
import { append, http, readPayloads } from "./testing/http.ts";
import { type GatewayFacts, newFolder, reported, type Server, startServer, statusOf, tributary, until } from "./testing/tributary.ts";

let folder: string;
let remove: () => Promise<void>;
const stops: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  ({ folder, remove } = await newFolder());
});
afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
  await remove();
});

const gateway = async (name: string, url: string): Promise<Server> => {
  const server = await startServer("edge", ["--data", join(folder, name), "--nats", url, "--set", "edge.vitalsIntervalMs=0"]);
  stops.push(() => server.kill());
  return server;
};
const startCore = (nats: NatsServer, ...args: string[]): Promise<Server> =>
  startServer("core", [
    ...["--data", join(folder, "core"), "--nats", nats.url, "--set", "core.flushIntervalMs=100"],
    ...["--set", `nats.monitorUrl=${nats.monitoringUrl}`, ...args],
  ]);
const refusedCore = (url: string, ...args: string[]) =>
  tributary(["core", "--json", "--data", join(folder, "refused"), "--http-port", "0", "--nats", url, ...args]);

test("a core does not start on a NATS server that is unsafe or not to be seen", async () => {
  const unsafe = await startNatsServer({ syncAlways: false });
  try {
    const monitored = await refusedCore(unsafe.url, "--set", `nats.monitorUrl=${unsafe.monitoringUrl}`);
    expect(monitored.code).toBe(1);
    expect(reported(monitored)).toMatchObject({ code: "NATS_UNSAFE", hint: expect.stringContaining("sync_interval: always") });
    const unseen = await refusedCore(unsafe.url);
    expect(reported(unseen)).toMatchObject({ code: "NATS_UNSAFE", message: expect.stringContaining("nats.monitorUrl") });
    expect(unseen.code).toBe(1);
  } finally {
    await unsafe.stop();
  }
});

test("without NATS a core says so, and a gateway serves; copies of the gateway are told apart once NATS and core are there", {
  timeout: 180_000,
}, async () => {
  const [port] = (await freePorts(1)) as [number];
  const url = `nats://127.0.0.1:${port}`;
  const refused = await refusedCore(url);
  expect(refused.code).toBe(1);
  expect(reported(refused)).toMatchObject({ code: "BUS_UNREACHABLE", message: expect.stringContaining(url) });

  const offline = await gateway("gateway", url);
  expect((await http("PUT", `${offline.gatewayHttp}/v1/stream/a/b`)).status).toBe(201);
  expect((await append(offline.gatewayHttp, "a/b", "offline")).status).toBe(204);
  expect(await readPayloads(offline.gatewayHttp, "a/b")).toEqual(["offline"]);
  expect(offline.log()).toContain("NATS cannot be reached");
  await offline.stop();
  await cp(join(folder, "gateway"), join(folder, "clone"), { recursive: true });

  const nats = await startNatsServer({ port, maxPayload: 8_388_608 });
  stops.push(() => nats.stop());
  const core = await startCore(nats);
  stops.push(() => core.kill());
  const [original, clone] = [await gateway("gateway", url), await gateway("clone", url)];
  expect((await statusOf<GatewayFacts>(clone.gatewayHttp)).writer).toBe((await statusOf<GatewayFacts>(original.gatewayHttp)).writer);
  await append(original.gatewayHttp, "a/b", "original");
  await append(clone.gatewayHttp, "a/b", "clone");
  await until("both to be freed", async () => {
    const both = await Promise.all([original, clone].map((server) => statusOf<GatewayFacts>(server.gatewayHttp)));
    return both.every(({ usage }) => usage.eventsHeld === 0);
  });
  const payloads = await readPayloads(core.coreHttp, "a/b");
  expect(payloads[0]).toBe("offline");
  expect(payloads.slice(1).sort()).toEqual(["clone", "original"]);
  const siblings = await Promise.all(
    [original, clone].map(async (server) => (await statusOf<GatewayFacts>(server.gatewayHttp)).uplink?.counters.siblings),
  );
  expect(Math.max(...siblings.map(Number))).toBe(1);
  expect(core.log()).toContain("a copy of it is or was alive");
  expect(original.log() + clone.log()).toContain("copy of this data folder");
  expect(await tributary(["verify", "--server", core.coreHttp])).toMatchObject({ code: 0 });
});
