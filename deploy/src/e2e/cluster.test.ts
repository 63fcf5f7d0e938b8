import { type NatsServer, startNatsServer } from "@tributary/common/testing/nats-server";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type CoreFacts, CoreNodes, more } from "./testing/core-nodes.ts";
import { readPayloads } from "./testing/http.ts";
import { newFolder, reported, type Server, statusOf, tributary, until } from "./testing/tributary.ts";

const STREAMS = Array.from({ length: 8 }, (_, i) => `plant/press-${i}`);

let nodes: CoreNodes;
let nats: NatsServer;
let remove: () => Promise<void>;
const stops: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  const created = await newFolder();
  remove = created.remove;
  nats = await startNatsServer({ maxPayload: 8_388_608 });
  nodes = new CoreNodes(created.folder, nats, 4);
});
afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
  await nats.stop();
  await remove();
});

async function start(name: string): Promise<Server> {
  const server = await nodes.start(name);
  stops.push(() => server.kill());
  return server;
}

test("three core nodes on one NATS server share the containers; one is killed, one is stopped, and nothing is lost", {
  timeout: 180_000,
}, async () => {
  const one = await start("one");
  const [two, three] = await Promise.all([start("two"), start("three")]);
  nodes.alive = [one, two, three];
  await until("the containers to be spread", () => nodes.balanced());
  // Started again and again by its supervisor, it would move containers to and fro.
  const portless = await tributary(["core", ...nodes.argumentsOf("portless"), "--http-port", new URL(one.coreHttp).port, "--json"]);
  expect(reported(portless)?.code).toBe("PORT_IN_USE");
  expect(portless.stderr).not.toContain("is a member of the cluster");
  const facts = await statusOf<CoreFacts>(one.coreHttp);
  expect(facts.members.map((member) => member.name).sort()).toEqual(["one", "three", "two"]);
  expect(facts.members.map((member) => member.url).sort()).toEqual(nodes.alive.map((server) => server.coreHttp).sort());

  await nodes.create(STREAMS);
  const producers = STREAMS.map((stream) => nodes.produce(stream));
  await more(producers, 10);

  await two.kill();
  nodes.alive = [one, three];
  await until("the dead node's containers to be served", () => nodes.allServed());
  await more(producers, 10);

  await one.stop();
  nodes.alive = [three];
  await until("the stopped node's containers to be served", () => nodes.allServed());
  expect(one.log()).not.toContain("not all containers were given away");
  await more(producers, 10);

  const four = await start("four");
  nodes.alive = [three, four];
  await until("the containers to be spread again", () => nodes.balanced());
  await more(producers, 10);
  for (const [i, producer] of producers.entries()) {
    const acknowledged = await producer.stop();
    for (const server of nodes.alive) expect(await readPayloads(server.coreHttp, STREAMS[i] as string)).toEqual(acknowledged);
  }
  for (const server of nodes.alive) expect(await tributary(["verify", "--server", server.coreHttp])).toMatchObject({ code: 0 });
});

test("a cluster is not let into another one's lake", { timeout: 60_000 }, async () => {
  const refused = await tributary(["core", "--json", "--http-port", "0", ...nodes.argumentsOf("stranger"), "--set", "cluster=other"]);
  expect(refused.code).toBe(2);
  expect(reported(refused)).toMatchObject({ code: "CONFIG_INVALID", message: expect.stringContaining("core.lake") });
});
