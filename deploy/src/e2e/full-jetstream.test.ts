import { join } from "node:path";
import { askJetStream, JetStreamRefusal, parseAnswer } from "@tributary/common/engines/jetstream-api";
import { connectNats, type NatsLink } from "@tributary/common/engines/nats-connection";
import { type NatsServer, startNatsServer } from "@tributary/common/testing/nats-server";
import { afterAll, beforeAll, expect, test } from "vitest";
import { append, http, readAll } from "./testing/http.ts";
import { type GatewayFacts, newFolder, startServer, statusOf, tributary, until } from "./testing/tributary.ts";

const STORE_BYTES = 33_554_432;
const STREAM = "disk/full";
const API_MS = 10_000;

let folder: string;
let nats: NatsServer;
let link: NatsLink;
const stops: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  const created = await newFolder();
  folder = created.folder;
  nats = await startNatsServer({ maxPayload: 8_388_608, storeBytesMax: STORE_BYTES });
  link = await connectNats({ url: nats.url, name: "test" });
  stops.push(
    created.remove,
    () => nats.stop(),
    () => link.close(),
  );
});
afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
});

/** Somebody else's stream takes all that is left. */
async function fillUp(): Promise<void> {
  await askJetStream(link, "STREAM.CREATE.other", { name: "other", subjects: ["other"], storage: "file", num_replicas: 1 }, API_MS);
  for (let bytes = 1_048_576; bytes >= 64; ) {
    try {
      const answer = await link.inbox.request("other", new Uint8Array(bytes), { timeoutMs: API_MS });
      parseAnswer(answer);
    } catch (error) {
      if (!(error instanceof JetStreamRefusal)) throw error;
      bytes /= 2;
    }
  }
}

test("a JetStream that is full is told as such, holds the events back at the gateway, and loses nothing", {
  timeout: 180_000,
}, async () => {
  const natsFlags = ["--nats", nats.url, "--set", `nats.monitorUrl=${nats.monitoringUrl}`];
  const core = await startServer("core", ["--data", join(folder, "core"), ...natsFlags, "--set", "core.flushIntervalMs=200"]);
  stops.push(() => core.kill());
  const edge = await startServer("edge", ["--data", join(folder, "edge"), "--nats", nats.url, "--set", "edge.vitalsIntervalMs=0"]);
  stops.push(() => edge.kill());
  const facts = () => statusOf<GatewayFacts>(edge.gatewayHttp);
  expect((await http("PUT", `${edge.gatewayHttp}/v1/stream/${STREAM}`)).status).toBe(201);
  let sent = 0;
  const send = async (count: number) => {
    for (let i = 0; i < count; i++) expect((await append(edge.gatewayHttp, STREAM, `event ${sent++}`)).status).toBe(204);
  };
  await send(20);
  await until("the first events to be in the lake", async () => (await facts()).usage.eventsHeld === 0);

  await fillUp();
  await send(200);
  await until("the core to tell why it does not take them", () => core.log().includes("STORAGE_FULL"));
  const full = async () => /^tributary_core_containers_log_full (\d+)$/m.exec((await http("GET", `${core.coreHttp}/metrics`)).body)?.[1];
  expect(Number(await full())).toBeGreaterThan(0);
  const held = /^tributary_gateway_events_held (\d+)$/m.exec((await http("GET", `${edge.gatewayHttp}/metrics`)).body)?.[1];
  expect(Number(held)).toBeGreaterThan(0);
  const doctor = await tributary(["core", "doctor", "--json", "--data", join(folder, "core"), ...natsFlags]);
  expect(doctor.code).toBe(1);
  expect(doctor.stdout).toContain("% full");

  await askJetStream(link, "STREAM.DELETE.other", undefined, API_MS);
  await send(20);
  await until("everything to be in the lake", async () => (await facts()).usage.eventsHeld === 0);
  expect(await full()).toBe("0");
  const payloads = (await readAll(core.coreHttp, STREAM)).map((record) => Buffer.from(record.data).toString());
  expect(payloads).toEqual(Array.from({ length: sent }, (_, i) => `event ${i}`));
});
