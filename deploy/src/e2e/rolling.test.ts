import { type NatsServer, startNatsServer } from "@tributary/common/testing/nats-server";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type CoreFacts, CoreNodes, more } from "./testing/core-nodes.ts";
import { readPayloads } from "./testing/http.ts";
import { newFolder, type Server, statusOf, tributary, until } from "./testing/tributary.ts";

const FEW = 4;
const MANY = 16;
const OLD = Array.from({ length: 4 }, (_, i) => `plant/old-${i}`);
const NEW = Array.from({ length: 4 }, (_, i) => `plant/new-${i}`);
const NAMES = ["one", "two", "three"];

let nodes: CoreNodes;
let nats: NatsServer;
let remove: () => Promise<void>;
const stops: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  const created = await newFolder();
  remove = created.remove;
  nats = await startNatsServer({ maxPayload: 8_388_608 });
  nodes = new CoreNodes(created.folder, nats, FEW);
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

test("a cluster goes from 4 to 16 containers and restarts node by node under load, and nothing is lost or reordered", {
  timeout: 180_000,
}, async () => {
  nodes.alive = await Promise.all(NAMES.map(start));
  await until("the containers to be spread", () => nodes.balanced(FEW));
  await nodes.create(OLD);
  const producers = OLD.map((stream) => nodes.produce(stream));
  await more(producers, 10);

  const [first] = nodes.alive as [Server];
  const raised = await tributary(["cluster", "containers", `${MANY}`, "--server", first.coreHttp, "--json"]);
  expect(JSON.parse(raised.stdout)).toMatchObject({ count: MANY });
  await until("the new containers to be served and spread", () => nodes.balanced(MANY));
  await nodes.create(NEW);
  producers.push(...NEW.map((stream) => nodes.produce(stream)));
  await more(producers, 10);

  for (const [i, name] of NAMES.entries()) {
    const old = nodes.alive[i] as Server;
    const others = nodes.alive.filter((server) => server !== old);
    expect(await tributary(["cluster", "drain", "--server", old.coreHttp])).toMatchObject({ code: 0 });
    await until(`${name} to have given everything away`, async () => {
      const { containers } = await statusOf<CoreFacts>(old.coreHttp);
      return containers.every(({ state }) => state === "elsewhere");
    });
    // It still takes what comes and brings it to the owners.
    await more(producers, 5);
    nodes.alive = others;
    await more(producers, 1);
    expect(await old.stop()).toBe(0);
    const again = await start(name);
    nodes.alive = others.toSpliced(i, 0, again);
    await until("the containers to be spread again", () => nodes.balanced(MANY));
    await more(producers, 5);
  }

  for (const [i, stream] of [...OLD, ...NEW].entries()) {
    const acknowledged = await producers[i]?.stop();
    expect(await readPayloads((nodes.alive[i % 3] as Server).coreHttp, stream)).toEqual(acknowledged);
  }
  const { containers } = await statusOf<CoreFacts>((nodes.alive[0] as Server).coreHttp);
  expect(containers).toHaveLength(MANY);
  expect(await tributary(["verify", "--server", (nodes.alive[1] as Server).coreHttp])).toMatchObject({ code: 0 });
});
