import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@tributary/common/clock";
import { createLogger } from "@tributary/common/logger";
import { systemRandom } from "@tributary/common/random";
import mqtt from "mqtt";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { type Gateway, openGateway } from "../gateway/gateway.ts";
import { createWorkerEdgeStore } from "../store/worker-edge-store.ts";
import { createMqttCounters } from "./mqtt-counters.ts";
import { createMqttListener, type MqttListener } from "./mqtt-listener.ts";
import { MqttPeer } from "./testing/mqtt-peer.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "tributary-mqtt-"));
});
const running: Running[] = [];
afterEach(async () => {
  for (const each of running.splice(0)) await stop(each);
  await rm(folder, { recursive: true, force: true });
});

interface Running {
  readonly gateway: Gateway;
  readonly listener: MqttListener;
}

const log = createLogger({ level: "error", clock: systemClock, write: () => {} });

/** A gateway over the real edge log. */
async function start(port = 0): Promise<Running> {
  const gateway = await openGateway({
    store: createWorkerEdgeStore({ path: join(folder, "log.db"), quarantineDir: join(folder, "quarantine") }),
    bus: undefined,
    cluster: "test",
    clock: systemClock,
    random: systemRandom,
    log,
    phases: { begin: () => {}, end: () => {} },
    options: {
      name: "gateway",
      version: "0",
      quota: { diskBytesMax: 1e9, whenFull: "reject" },
      lingerMsMax: 1,
      streamsMax: 100,
      uplink: {},
    },
  });
  const listener = await createMqttListener({
    ingest: gateway.ingest,
    clock: systemClock,
    random: systemRandom,
    log,
    counters: createMqttCounters(),
    options: { host: "127.0.0.1", port, credentials: undefined },
  });
  const started = { gateway, listener };
  running.push(started);
  return started;
}

async function stop({ gateway, listener }: Running): Promise<void> {
  await listener.close();
  await gateway.close();
}

async function eventsOf(gateway: Gateway): Promise<string[]> {
  const page = await gateway.streams.read({ scope: "s", stream: "t" }, { offset: "-1", eventsMax: 10_000, bytesMax: 1e6 });
  return page.events.map((event) => Buffer.from(event.data).toString());
}

it("keeps QoS 2 exactly once through restarts of the gateway, under load", async () => {
  let now = await start();
  const { port } = now.listener;
  const device = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, { clientId: "d", clean: false, reconnectPeriod: 20 });
  device.on("error", () => {});
  const sent = Array.from({ length: 300 }, (_, i) => String(i));
  let acked = 0;
  const all = Promise.all(sent.map((data) => device.publishAsync("s/t", data, { qos: 2 }).then(() => acked++)));
  for (const atLeast of [20, 120]) {
    await vi.waitFor(() => expect(acked).toBeGreaterThanOrEqual(atLeast), { interval: 1 });
    running.length = 0;
    await stop(now);
    now = await start(port);
  }
  await all;
  expect((await eventsOf(now.gateway)).toSorted((a, b) => Number(a) - Number(b))).toEqual(sent);
  await device.endAsync();
});

it("knows a packet id after a restart, until it was released", async () => {
  let now = await start();
  let device = await MqttPeer.connect(now.listener.port, { clientId: "d", clean: false });
  device.publish("s/t", "one", 2, 5);
  expect(await device.next()).toMatchObject({ cmd: "pubrec", messageId: 5 });
  const restart = async () => {
    running.length = 0;
    await stop(now);
    now = await start();
    device = await MqttPeer.connect(now.listener.port, { clientId: "d", clean: false });
  };
  await restart();
  device.publish("s/t", "one", 2, 5, true);
  expect(await device.next()).toMatchObject({ cmd: "pubrec", messageId: 5 });
  device.send({ cmd: "pubrel", messageId: 5 });
  expect(await device.next()).toMatchObject({ cmd: "pubcomp", messageId: 5 });
  await restart();
  device.publish("s/t", "two", 2, 5);
  expect(await device.next()).toMatchObject({ cmd: "pubrec", messageId: 5 });
  expect(await eventsOf(now.gateway)).toEqual(["one", "two"]);
});

// As after a backup that was put back: the log holds an id that the client knows as released (simulation, seed 123).
it("takes another event under a packet id that the log still holds", async () => {
  let now = await start();
  let device = await MqttPeer.connect(now.listener.port, { clientId: "d", clean: false });
  const publish = async (payload: string) => {
    device.publish("s/t", payload, 2, 5, true);
    expect(await device.next()).toMatchObject({ cmd: "pubrec", messageId: 5 });
  };
  await publish("one");
  for (const payload of ["one", "two", "two"]) {
    running.length = 0;
    await stop(now);
    now = await start();
    device = await MqttPeer.connect(now.listener.port, { clientId: "d", clean: false });
    await publish(payload);
  }
  expect(await eventsOf(now.gateway)).toEqual(["one", "two"]);
});
