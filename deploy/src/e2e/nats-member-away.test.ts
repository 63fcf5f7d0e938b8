import { type NatsCluster, startNatsCluster } from "@tributary/common/testing/nats-server";
import { afterAll, beforeAll, expect, test } from "vitest";
import { CoreNodes, more } from "./testing/core-nodes.ts";
import { readPayloads } from "./testing/http.ts";
import { newFolder, reported, startServer, tributary, until } from "./testing/tributary.ts";

const STREAM = "plant/press";

let nats: NatsCluster;
let folder: string;
let remove: () => Promise<void>;
const stops: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  ({ folder, remove } = await newFolder());
  nats = await startNatsCluster(3, { maxPayload: 8_388_608 });
});
afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
  await nats.stop();
  await remove();
});

test("a core node starts while one of three NATS servers is away, and not while two are", { timeout: 180_000 }, async () => {
  const monitoringUrl = nats.servers.map((server) => server.monitoringUrl).join(",");
  const nodes = new CoreNodes(folder, { url: nats.url, monitoringUrl }, 2);
  const args = [...nodes.argumentsOf("one"), "--set", "nats.replicas=3"];
  const start = async () => {
    const server = await startServer("core", args);
    stops.push(() => server.kill());
    nodes.alive = [server];
    await until("the containers to be served", () => nodes.allServed());
    return server;
  };
  const first = await start();
  await nodes.create([STREAM]);
  const producer = nodes.produce(STREAM);
  await more([producer], 5);

  const [away, another] = nats.servers.slice(1) as [(typeof nats.servers)[0], (typeof nats.servers)[0]];
  await away.kill();
  await first.kill();
  await start();
  await more([producer], 5);

  const sent = await producer.stop();
  await nodes.alive[0]?.stop();
  await another.kill();
  const refused = await tributary(["core", ...args, "--json"]);
  expect(reported(refused)?.code).toBe("NATS_UNSAFE");

  await away.restart();
  const last = await start();
  expect(await readPayloads(last.coreHttp, STREAM)).toEqual(sent);
});
