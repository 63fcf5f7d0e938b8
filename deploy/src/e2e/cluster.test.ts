import { join } from "node:path";
import { type NatsServer, startNatsServer } from "@tributary/common/testing/nats-server";
import { afterAll, beforeAll, expect, test } from "vitest";
import { append, http, readPayloads } from "./testing/http.ts";
import { newFolder, reported, type Server, startServer, statusOf, tributary, until } from "./testing/tributary.ts";

interface CoreFacts {
  readonly node: string;
  readonly member: boolean;
  readonly members: readonly { readonly node: string; readonly name: string; readonly url: string }[];
  readonly containers: readonly { readonly container: number; readonly state: string; readonly epoch: number; readonly owner: string }[];
}

const CONTAINERS = 4;
const STREAMS = Array.from({ length: 8 }, (_, i) => `plant/press-${i}`);

let folder: string;
let remove: () => Promise<void>;
let nats: NatsServer;
const stops: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  ({ folder, remove } = await newFolder());
  nats = await startNatsServer({ maxPayload: 8_388_608 });
});
afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
  await nats.stop();
  await remove();
});

function argumentsOf(name: string): string[] {
  return [
    ...["--data", join(folder, name), "--nats", nats.url, "--set", `nats.monitorUrl=${nats.monitoringUrl}`],
    ...["--set", `core.lake=${join(folder, "lake")}`, "--set", `core.name=${name}`, "--set", `core.containers=${CONTAINERS}`],
    ...["--set", "core.flushIntervalMs=100"],
  ];
}

async function node(name: string): Promise<Server> {
  const server = await startServer("core", argumentsOf(name));
  stops.push(() => server.kill());
  return server;
}

/** Which of the nodes serve each container, as they say themselves. */
async function serving(nodes: readonly Server[]): Promise<Server[][]> {
  const facts = await Promise.all(nodes.map((server) => statusOf<CoreFacts>(server.coreHttp)));
  return Array.from({ length: CONTAINERS }, (_, id) => nodes.filter((_, i) => facts[i]?.containers[id]?.state === "serving"));
}

async function allServed(nodes: readonly Server[]): Promise<boolean> {
  return (await serving(nodes)).every((owners) => owners.length === 1);
}

async function balanced(nodes: readonly Server[]): Promise<boolean> {
  const owners = await serving(nodes);
  const loads = nodes.map((server) => owners.flat().filter((owner) => owner === server).length);
  return owners.every((list) => list.length === 1) && Math.max(...loads) - Math.min(...loads) <= 1;
}

/** A producer that sends one event after the other to whatever node takes it, until it is told to stop. */
function produce(stream: string, nodes: () => readonly Server[]): { stop: () => Promise<string[]>; sent: () => number } {
  const acknowledged: string[] = [];
  let stopped = false;
  const run = async () => {
    for (let seq = 0; !stopped; seq++) {
      const headers = { "Producer-Id": stream.replace("/", "-"), "Producer-Epoch": "0", "Producer-Seq": `${seq}` };
      for (let tries = 0; ; tries++) {
        const all = nodes();
        const target = all[(seq + tries) % all.length] as Server;
        const answer = await append(target.coreHttp, stream, `${stream} ${seq}`, headers).catch(() => undefined);
        if (answer && answer.status < 300) break;
        if (answer && answer.status < 500) throw new Error(`${answer.status} ${answer.body}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      acknowledged.push(`${stream} ${seq}`);
    }
    return acknowledged;
  };
  const running = run();
  return {
    sent: () => acknowledged.length,
    stop() {
      stopped = true;
      return running;
    },
  };
}

test("three core nodes on one NATS server share the containers; one is killed, one is stopped, and nothing is lost", {
  timeout: 180_000,
}, async () => {
  const one = await node("one");
  const [two, three] = await Promise.all([node("two"), node("three")]);
  let alive = [one, two, three];
  await until("the containers to be spread", () => balanced(alive));
  const facts = await statusOf<CoreFacts>(one.coreHttp);
  expect(facts.members.map((member) => member.name).sort()).toEqual(["one", "three", "two"]);
  expect(facts.members.map((member) => member.url).sort()).toEqual(alive.map((server) => server.coreHttp).sort());

  for (const stream of STREAMS) {
    await until(`${stream} to be created`, async () => {
      const owner = alive[STREAMS.indexOf(stream) % alive.length] as Server;
      const headers = { "Content-Type": "application/octet-stream" };
      return (await http("PUT", `${owner.coreHttp}/v1/stream/${stream}`, { headers })).status < 300;
    });
  }
  const producers = STREAMS.map((stream) => produce(stream, () => alive));
  const more = async (count: number) => {
    const before = producers.map((producer) => producer.sent());
    await until("more to be acknowledged", () => producers.every((producer, i) => producer.sent() >= (before[i] as number) + count));
  };
  await more(10);

  await two.kill();
  alive = [one, three];
  await until("the dead node's containers to be served", () => allServed(alive));
  await more(10);

  await one.stop();
  alive = [three];
  await until("the stopped node's containers to be served", () => allServed(alive));
  expect(one.log()).not.toContain("not all containers were given away");
  await more(10);

  const four = await node("four");
  alive = [three, four];
  await until("the containers to be spread again", () => balanced(alive));
  await more(10);
  for (const [i, producer] of producers.entries()) {
    const acknowledged = await producer.stop();
    for (const server of alive) expect(await readPayloads(server.coreHttp, STREAMS[i] as string)).toEqual(acknowledged);
  }
  for (const server of alive) expect(await tributary(["verify", "--server", server.coreHttp])).toMatchObject({ code: 0 });
});

test("a cluster is not let into another one's lake", { timeout: 60_000 }, async () => {
  const refused = await tributary(["core", "--json", "--http-port", "0", ...argumentsOf("stranger"), "--set", "cluster=other"]);
  expect(refused.code).toBe(2);
  expect(reported(refused)).toMatchObject({ code: "CONFIG_INVALID", message: expect.stringContaining("core.lake") });
});
