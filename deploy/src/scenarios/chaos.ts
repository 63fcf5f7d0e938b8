import { TributaryClient } from "@tributary/common/sdk/client";
import { LocalCluster, type LocalClusterOptions } from "../local-cluster/local-cluster.ts";
import { Cable } from "./cable.ts";
import { servedContainers } from "./cluster-facts.ts";
import { clusterPorts } from "./cluster-ports.ts";
import { readAll } from "./final-read.ts";
import { Ledger } from "./ledger.ts";
import { type LoadOptions, tellGateways } from "./load.ts";
import { LoadProcesses } from "./load-processes.ts";
import { type Line, Network } from "./network.ts";
import { type Scenario, type ScenarioContext, until } from "./scenario.ts";
import type { ServerProcess } from "./server-process.ts";
import { CORE_TOKEN } from "./servers.ts";
import { TailReader } from "./tail-reader.ts";
import { WalFollower } from "./wal-follower.ts";

const STREAMS = ["chaos/a", "chaos/b", "chaos/wide"];
const CONTAINERS = 4;
const LEASE_MS = 1_500;
const START_MS_MAX = 180_000;
const CONNECT_MS_MAX = 120_000;
const MACHINES = ["nats-1", "nats-2", "nats-3", "core-1", "core-2", "core-3"];

interface Shape {
  readonly gateways: number;
  /** Devices of each gateway. */
  readonly devices: { readonly http: number; readonly mqttQos1: number; readonly mqttQos2: number };
  readonly loadProcesses: number;
  /** Of each device: events of an MQTT one, batches of two of an HTTP one. Everything shares one machine, so they are paced. */
  readonly rate: number;
}

const LONG: Shape = { gateways: 10, devices: { http: 30, mqttQos1: 40, mqttQos2: 30 }, loadProcesses: 5, rate: 2 };
const SHORT: Shape = { gateways: 3, devices: { http: 8, mqttQos1: 8, mqttQos2: 4 }, loadProcesses: 2, rate: 10 };

/** Somebody who can be hit, and is well or not. */
interface Member {
  readonly name: string;
  readonly kind: "nats" | "core" | "gateway";
  readonly pid: () => number;
  kill(): Promise<unknown>;
  start(): Promise<void>;
  readonly line: Line | undefined;
  hit: boolean;
}

export const chaos: Scenario = {
  description:
    "kills, pauses and cuts off members of a cluster of three nats-servers, three core nodes and ten gateways, under a thousand devices",
  async run(context) {
    const { short, folder } = context;
    const shape = short ? SHORT : LONG;
    const ports = await clusterPorts(shape.gateways);
    const { gateways } = ports;
    // Machines of their own in the long form; a wire of its own for each process in the short one, or where that cannot be had.
    const network = short ? undefined : Network.create(MACHINES);
    context.say(network ? "cut off: links of network namespaces" : "cut off: TCP proxies");
    const cables = new Map<string, Cable>();
    const lineOf = (name: string) => network?.lineOf(name) ?? cables.get(name);
    const cluster = await startOn(network, {
      folder,
      ...ports,
      containers: CONTAINERS,
      coreFlags: ["--set", `core.leaseMs=${LEASE_MS}`, "--set", "core.flushIntervalMs=1000"],
      env: { TRIBUTARY_PHASES: "0" },
      placeOf: (name) => network?.placeOf(name),
      async natsUrlOf(name, url) {
        if (network?.lineOf(name)) return url;
        const cable = await Cable.to(url);
        cables.set(name, cable);
        return cable.url;
      },
    });
    const stops: (() => Promise<unknown>)[] = [
      async () => network?.destroy(),
      () => cluster.stop(),
      async () => {
        for (const cable of cables.values()) cable.close();
      },
    ];
    try {
      return await storm(context, cluster, lineOf, sharesOf(shape, gateways, context.rate ?? shape.rate), stops);
    } finally {
      for (const stop of stops.reverse()) await stop().catch((error: unknown) => context.say(`${error}`));
    }
  },
};

async function startOn(network: Network | undefined, options: LocalClusterOptions): Promise<LocalCluster> {
  try {
    return await LocalCluster.start(options);
  } catch (error) {
    network?.destroy();
    throw error;
  }
}

/** What each load process does: the devices of some gateways. */
function sharesOf(
  { devices, loadProcesses }: Shape,
  gateways: readonly Pick<LoadOptions, "httpPort" | "mqttPort">[],
  rate: number,
): LoadOptions[][] {
  const loads = gateways.map((gateway, i) => ({
    ...gateway,
    ...devices,
    prefix: `gw${i + 1}`,
    streams: STREAMS,
    httpBatch: 2,
    mqttDepth: 1,
    fillerChars: 60,
    intervalMs: 1_000 / rate,
  }));
  return Array.from({ length: loadProcesses }, (_, share) => loads.filter((_, i) => i % loadProcesses === share));
}

async function storm(
  context: ScenarioContext,
  cluster: LocalCluster,
  lineOf: (name: string) => Line | undefined,
  shares: readonly (readonly LoadOptions[])[],
  stops: (() => Promise<unknown>)[],
) {
  const { short } = context;
  const client = new TributaryClient({ server: cluster.coreUrls[0] as string, token: CORE_TOKEN });
  await client.createStream({ scope: "chaos", stream: "a" });
  await client.createStream({ scope: "chaos", stream: "b" });
  await client.createStream({ scope: "chaos", stream: "wide" }, { segments: 8 });
  await tellGateways(cluster.gatewayUrls, STREAMS);
  const walNames = Array.from({ length: CONTAINERS }, (_, i) => `tributary-local-wal-${i}`);
  const follower = await WalFollower.start(cluster.nats.url, walNames, 3);
  stops.push(() => follower.stop().catch(() => {}));

  const ledger = new Ledger();
  const loads = new LoadProcesses(ledger, { folder: context.folder, shares });
  stops.push(() => loads.kill());
  await until("all devices to be connected", CONNECT_MS_MAX, () => {
    loads.check();
    return loads.connections().open === loads.devices;
  });
  const setting = `${loads.devices} connections of ${loads.count} load processes to ${cluster.gateways.length} gateways`;
  context.say(setting);
  const tails = STREAMS.map((stream, i) => new TailReader(cluster.coreUrls[i % cluster.coreUrls.length] as string, stream));

  const members: Member[] = [
    ...cluster.nats.servers.map((server, i): Member => {
      const start = () => server.restart();
      const name = `nats-${i + 1}`;
      return { name, kind: "nats", pid: () => server.pid, kill: () => server.kill(), start, line: lineOf(name), hit: false };
    }),
    ...cluster.cores.map((core) => memberOf(core, "core", lineOf)),
    ...cluster.gateways.map((gateway) => memberOf(gateway, "gateway", lineOf)),
  ];
  const counts = new Map<string, number>();
  const untilMs = performance.now() + (short ? 12_000 : (context.minutes ?? 15) * 60_000);
  const running = new Set<Promise<void>>();
  while (performance.now() < untilMs) {
    loads.check();
    await pause(short ? 600 : 1_500 + context.random() * 4_000);
    // Two things at once; and never more than one nats-server, so that a majority stays.
    if (running.size >= 2) {
      await Promise.race(running);
      continue;
    }
    const able = members.filter(
      ({ hit, kind }) => !hit && !(kind === "nats" && members.some((other) => other.kind === "nats" && other.hit)),
    );
    const kind = (["nats", "core", "core", "gateway"] as const)[Math.floor(context.random() * 4)];
    const candidates = able.filter((member) => member.kind === kind);
    const victim = candidates[Math.floor(context.random() * candidates.length)];
    if (!victim) continue;
    const how = choose(victim, context.random());
    counts.set(`${victim.kind} ${how}`, (counts.get(`${victim.kind} ${how}`) ?? 0) + 1);
    const round = strike(victim, how, context).finally(() => running.delete(round));
    running.add(round);
  }
  await Promise.all(running);
  context.say(`everything is mended; ${ledger.acked} acknowledged`);
  await loads.drain();
  const reconnects = loads.connections().made - loads.devices;
  const final = await readAll(cluster.coreUrls[1] as string, STREAMS, ledger, tails);
  for (const detail of final.ledger.details) context.say(detail);
  await Promise.all(tails.map((tail) => tail.stop()));
  await follower.stop();
  const changed = tails.reduce((sum, tail) => sum + tail.changed, 0);
  const { watch } = follower;
  const generations = (await servedContainers(cluster.coreUrls))?.map(({ generation }) => generation) ?? [];
  const { refusals } = loads;
  return {
    report: final.ledger,
    checks: [
      ...final.checks,
      {
        name: "nothing changed at any (segment, ordinal)",
        ok: changed === 0,
        detail: `${tails.reduce((sum, tail) => sum + tail.seen, 0)} read by those who followed, ${changed} changed`,
      },
      {
        name: "frames of one owner at a time count, read from the logs themselves",
        ok: follower.violations.length === 0 && watch.frames > 0,
        detail: `${watch.frames} frames, ${watch.voidFrames} void, ${follower.missed} truncated before they were seen; ${follower.violations.slice(0, 2).join("; ")}`,
      },
      {
        name: "nothing was taken for lost",
        ok: generations.length === CONTAINERS && Math.max(...generations) === 0,
        detail: `generations ${generations.join(" ")}`,
      },
      { name: "what was done to whom", ok: counts.size > 0, detail: [...counts].map(([what, count]) => `${what} ${count}`).join(", ") },
      { name: "devices", ok: true, detail: `${setting}, ${reconnects} reconnects` },
      {
        name: "every device had its answers in the end",
        ok: ledger.unanswered === 0,
        detail: `${ledger.unanswered} events may be there or not`,
      },
      { name: "clients were never refused", ok: refusals.length === 0, detail: refusals.slice(0, 3).join("; ") || "yes" },
    ],
  };
}

function memberOf(server: ServerProcess, kind: "core" | "gateway", lineOf: (name: string) => Line | undefined): Member {
  const line = lineOf(server.name);
  return { name: server.name, kind, pid: () => server.pid, kill: () => server.kill(), start: () => server.start(), line, hit: false };
}

type Blow = "killed" | "paused" | "cut off";

function choose({ line }: Member, draw: number): Blow {
  const ways: Blow[] = line ? ["killed", "paused", "cut off"] : ["killed", "paused"];
  return ways[Math.floor(draw * ways.length)] as Blow;
}

async function strike(member: Member, how: Blow, context: ScenarioContext): Promise<void> {
  const forMs = (how === "paused" ? 1.5 * LEASE_MS : 500) + context.random() * (context.short ? 1_500 : 6_000);
  context.say(`${member.name} is ${how} for ${(forMs / 1_000).toFixed(1)} s`);
  member.hit = true;
  try {
    if (how === "killed") {
      await member.kill();
      await pause(forMs);
      // As a supervisor does: a core node refuses to start while it cannot ask every nats-server whether it syncs.
      await until(`${member.name} to start`, START_MS_MAX, async () => {
        try {
          await member.start();
          return true;
        } catch (error) {
          context.say(`${error}`);
          await member.kill();
          return false;
        }
      });
    } else if (how === "paused") {
      process.kill(member.pid(), "SIGSTOP");
      await pause(forMs);
      process.kill(member.pid(), "SIGCONT");
    } else {
      member.line?.cut();
      await pause(forMs);
      member.line?.mend();
    }
  } finally {
    member.hit = false;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
