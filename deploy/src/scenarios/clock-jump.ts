import { join } from "node:path";
import { parseStreamName } from "@tributary/common/names";
import { TributaryClient } from "@tributary/common/sdk/client";
import { WallClocks } from "../clock-jump/wall-clocks.ts";
import { LocalCluster } from "../local-cluster/local-cluster.ts";
import { clusterFacts, servedEpochs } from "./cluster-facts.ts";
import { clusterPorts } from "./cluster-ports.ts";
import { readAll } from "./final-read.ts";
import { Ledger } from "./ledger.ts";
import { startLoad, tellGateways } from "./load.ts";
import { type Scenario, type ScenarioContext, type ScenarioResult, until } from "./scenario.ts";
import type { ServerProcess } from "./server-process.ts";
import { TailReader } from "./tail-reader.ts";
import { judgeTiered, TieredReader } from "./tiered-reader.ts";

const STREAMS = Array.from({ length: 6 }, (_, i) => `clock/s${i}`);
const CONTAINERS = 4;
const HOUR_SECONDS = 3_600;
/** How far a time must be off to show that a clock had jumped, and not that a machine is slow. */
const APART_MS_MIN = (HOUR_SECONDS * 1_000) / 2;
/** Long, so that a machine which stalls under its load costs no lease; an hour is much longer still. */
const LEASE_FLAGS = ["--set", "core.leaseMs=10000", "--set", "core.handoverMs=30000"] as const;
const GO_ON_EVENTS = 50;
const GO_ON_MS_MAX = 120_000;

export const clockJump: Scenario = {
  description:
    "wall clocks of core nodes and gateways jump an hour forward and back under load, of some and of all, and nobody is the worse for it",
  async run(context) {
    const { folder, short, minutes = 5 } = context;
    const beganAtMs = Date.now();
    const clocks = new WallClocks(join(folder, "clocks"));
    const ports = await clusterPorts(2);
    const { gateways } = ports;
    // Not the nats-servers: they do not ask the C library for the time.
    const cluster = await LocalCluster.start({
      folder,
      ...ports,
      containers: CONTAINERS,
      coreFlags: ["--set", "core.flushIntervalMs=1000", ...LEASE_FLAGS],
      // A gateway has one server of its own, as at a site with a leaf node: it has to come back to that one.
      natsUrlOf: async (name, url) => serverOf(name, url),
      env: { TRIBUTARY_PHASES: "0" },
      envOf: (name) => clocks.envOf(name),
    });
    const tails: TailReader[] = [];
    const tiered: TieredReader[] = [];
    try {
      const client = new TributaryClient({ server: cluster.coreUrls[0] as string });
      for (const stream of STREAMS) await client.createStream(parseStreamName(stream));
      await tellGateways(cluster.gatewayUrls, STREAMS);
      tails.push(...STREAMS.map((stream, i) => new TailReader(cluster.coreUrls[i % 3] as string, stream)));
      tiered.push(...STREAMS.map((stream, i) => new TieredReader(cluster.coreUrls[(i + 1) % 3] as string, stream)));
      const ledger = new Ledger();
      const loads = gateways.map((gateway, i) =>
        startLoad(ledger, {
          ...gateway,
          prefix: `gw${i + 1}`,
          streams: STREAMS,
          http: 6,
          httpBatch: 4,
          mqttQos1: 0,
          mqttQos2: 6,
          mqttDepth: 2,
          fillerChars: 100,
          intervalMs: 40,
        }),
      );
      const scene = new Scene({ context, cluster, clocks, ledger, tails, tiered });
      const untilMs = performance.now() + minutes * 60_000;
      let round = 0;
      do await scene.round(round++);
      while (!short && performance.now() < untilMs);
      await Promise.all(loads.map((load) => load.drain()));
      const final = await readAll(cluster.coreUrls[1] as string, STREAMS, ledger, tails);
      const survivors = await judgeTiered(cluster.coreUrls[2] as string, tiered);
      const freed = await scene.freed();
      const times = await judgeTimes(client, beganAtMs);
      await Promise.all([...tails, ...tiered].map((reader) => reader.stop()));
      for (const detail of final.ledger.details) context.say(detail);
      const changed = tails.reduce((sum, tail) => sum + tail.changed, 0);
      const setBack = tails.reduce((sum, tail) => sum + tail.setBack, 0);
      const refusals = loads.flatMap((load) => load.refusals);
      return {
        report: final.ledger,
        checks: [
          ...final.checks,
          ...scene.checks,
          times,
          freed,
          {
            name: "readers at the tail were never set back, and nothing changed at any (segment, ordinal)",
            ok: setBack + changed === 0,
            detail: `${setBack} times, ${changed} changed`,
          },
          survivors,
          { name: "clients were never refused", ok: refusals.length === 0, detail: refusals.slice(0, 3).join("; ") || "yes" },
        ],
      };
    } finally {
      await Promise.all([...tails, ...tiered].map((reader) => reader.stop().catch((error: unknown) => context.say(`a reader: ${error}`))));
      await cluster.stop();
    }
  },
};

/** The one of a gateway; all of them for a core node. */
function serverOf(name: string, url: string): string {
  const number = /^gateway-(\d+)$/.exec(name)?.[1];
  return number === undefined ? url : (url.split(",")[Number(number) - 1] as string);
}

interface SceneParts {
  readonly context: ScenarioContext;
  readonly cluster: LocalCluster;
  readonly clocks: WallClocks;
  readonly ledger: Ledger;
  readonly tails: readonly TailReader[];
  readonly tiered: readonly TieredReader[];
}

/** One cluster whose clocks jump again and again. */
class Scene {
  readonly #parts: SceneParts;
  /** Of every process whose clock jumps, where it answers. */
  readonly #urls: ReadonlyMap<string, string>;
  /** Of each container, when everything was settled last. */
  #epochs: readonly number[] = [];
  #jumps = 0;
  readonly #taken: string[] = [];
  #returns = 0;

  constructor(parts: SceneParts) {
    this.#parts = parts;
    const { cores, coreUrls, gateways, gatewayUrls } = parts.cluster;
    const named = [...cores.map((core, i) => [core.name, coreUrls[i]]), ...gateways.map((gateway, i) => [gateway.name, gatewayUrls[i]])];
    this.#urls = new Map(named as [string, string][]);
  }

  get checks(): ScenarioResult["checks"] {
    return [
      {
        name: "no container was taken from its owner as clocks jumped",
        ok: this.#taken.length === 0 && this.#jumps > 0,
        detail: this.#taken.join("; ") || `${this.#jumps} jumps, and each container stayed in its epoch`,
      },
      {
        name: "gateways whose clocks had gone back came back to their nats-server",
        ok: this.#returns > 0,
        detail: `${this.#returns} times`,
      },
    ];
  }

  /** Containers are where they are to stay, and events flow. */
  async #settle(): Promise<void> {
    const { context, cluster, ledger } = this.#parts;
    await until("all three core nodes to have containers", GO_ON_MS_MAX, async () => {
      const facts = await clusterFacts(cluster.coreUrls[0] as string);
      return new Set(facts.containers.map(({ owner }) => owner)).size === 3 && (await servedEpochs(cluster.coreUrls)) !== undefined;
    });
    await this.#goOn("everything was settled");
    this.#epochs = (await servedEpochs(cluster.coreUrls)) ?? [];
    context.say(`events flow; ${ledger.acked} acknowledged`);
  }

  /**
   * Some go forward, others back; then all of them forward, and back. Then a gateway whose clock is behind loses its server; in the long
   * form it is killed as well, and so is a core node: what they find is of the future. In the end all clocks are set right.
   * Only the jumps are to change no owner: without a server nodes may lose their leases.
   */
  async round(number: number): Promise<void> {
    const { cores, gateways } = this.#parts.cluster;
    const core = (i: number) => cores[(number + i) % cores.length]?.name ?? "";
    const gateway = (i: number) => gateways[(number + i) % gateways.length]?.name ?? "";
    const everybody = [...this.#urls.keys()];
    await this.#settle();
    await this.#jump([gateway(0)], HOUR_SECONDS);
    await this.#jump([core(0)], HOUR_SECONDS);
    await this.#jump([gateway(1)], -HOUR_SECONDS);
    await this.#jump([core(1)], -HOUR_SECONDS);
    await this.#jump(everybody, HOUR_SECONDS);
    await this.#jump(everybody, -HOUR_SECONDS);
    await this.#loseServer((number + 1) % gateways.length);
    const { clocks, context } = this.#parts;
    if (!context.short) await this.#restart([gateways[(number + 1) % gateways.length], cores[(number + 1) % cores.length]]);
    for (const name of everybody) clocks.jump(name, -clocks.aheadSeconds(name));
    for (const name of everybody) await this.#tellsTime(name);
    await this.#goOn("all clocks were set right");
    context.say("all clocks were set right");
  }

  async #jump(names: readonly string[], seconds: number): Promise<void> {
    const { context, clocks, ledger } = this.#parts;
    await pause((context.short ? 200 : 5_000) * context.random());
    for (const name of names) clocks.jump(name, seconds);
    const what = `${names.length === this.#urls.size ? "all clocks" : names.join(" and ")} went ${seconds > 0 ? "forward" : "back"} by ${Math.abs(seconds)} s`;
    for (const name of names) await this.#tellsTime(name);
    await this.#goOn(what);
    this.#jumps++;
    await this.#compareEpochs(what);
    context.say(`${what}; ${ledger.acked} acknowledged`);
  }

  /** Owners are who they were when everything was settled last. */
  async #compareEpochs(when: string): Promise<void> {
    const [before, now] = [this.#epochs.join(" "), (await servedEpochs(this.#parts.cluster.coreUrls))?.join(" ") ?? "unknown"];
    if (now !== before || before === "") this.#taken.push(`${when}: epochs ${before}, then ${now}`);
  }

  /** Its answers bear the time that its clock is to show. */
  async #tellsTime(name: string): Promise<void> {
    const ahead = 1_000 * this.#parts.clocks.aheadSeconds(name);
    await until(`the clock of ${name} to be ${ahead} ms ahead`, GO_ON_MS_MAX, async () => {
      const response = await fetch(`${this.#urls.get(name)}/ready`);
      await response.arrayBuffer();
      return Math.abs(Date.parse(response.headers.get("date") ?? "") - Date.now() - ahead) < APART_MS_MIN;
    });
  }

  async #loseServer(i: number): Promise<void> {
    const { context, cluster } = this.#parts;
    await cluster.nats.servers[i]?.restart();
    context.say(`nats-${i + 1}, the only server of ${cluster.gateways[i]?.name}, was killed and started again`);
    await this.#settle();
    this.#returns++;
  }

  async #restart(servers: readonly (ServerProcess | undefined)[]): Promise<void> {
    for (const server of servers) {
      await server?.kill();
      await server?.start();
      this.#parts.context.say(`${server?.name} was killed and started again`);
      await this.#settle();
    }
  }

  /** Every gateway acknowledges and frees, and every reader reads, as before. */
  async #goOn(what: string): Promise<void> {
    const before = await this.#progress();
    let behind: string[] = [];
    await until("events to go on", GO_ON_MS_MAX, async () => {
      const now = await this.#progress();
      behind = [...now].filter(([name, count]) => count < (before.get(name) ?? 0) + GO_ON_EVENTS).map(([name]) => name);
      return behind.length === 0;
    }).catch((error: unknown) => {
      throw new Error(`${what}; since then stand still: ${behind.join(", ")}`, { cause: error });
    });
  }

  async #progress(): Promise<ReadonlyMap<string, number>> {
    const { cluster, tails, tiered } = this.#parts;
    const counts = new Map<string, number>();
    for (const { stream, seen } of tails) counts.set(`reader of ${stream}`, seen);
    for (const { stream, seen } of tiered) counts.set(`reader of ${stream} at level tiered`, seen);
    for (const [i, url] of cluster.gatewayUrls.entries()) {
      const metrics = await metricsOf(url);
      counts.set(`acknowledgements of gateway-${i + 1}`, metrics("tributary_gateway_events_durable_total"));
      counts.set(`freeing of gateway-${i + 1}`, metrics("tributary_gateway_uplink_events_freed_total"));
    }
    return counts;
  }

  /** Nothing new comes: whatever time an event bears, it is in the lake and freed in the end. */
  async freed(): Promise<ScenarioResult["checks"][number]> {
    const held = async () =>
      await Promise.all(this.#parts.cluster.gatewayUrls.map(async (url) => (await metricsOf(url))("tributary_gateway_events_held")));
    await until("all to be freed", GO_ON_MS_MAX, async () => (await held()).every((count) => count === 0)).catch(() => {});
    const last = await held();
    return { name: "the gateways have freed everything", ok: last.every((count) => count === 0), detail: `held: ${last.join(" ")}` };
  }
}

/** Events bear the times that their gateways' clocks showed: else no clock had jumped. */
async function judgeTimes(client: TributaryClient, beganAtMs: number): Promise<ScenarioResult["checks"][number]> {
  let [behind, ahead, all] = [0, 0, 0];
  for await (const page of client.readPages(parseStreamName(STREAMS[0] as string), { offset: "-1" })) {
    for (const { time } of page.records) {
      all++;
      if (time < beganAtMs - APART_MS_MIN) behind++;
      if (time > Date.now() + APART_MS_MIN) ahead++;
    }
  }
  const detail = `${ahead} of ${all} ahead, ${behind} behind`;
  return { name: "events of the past and of the future are there", ok: behind > 0 && ahead > 0, detail };
}

async function metricsOf(url: string): Promise<(name: string) => number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return (name) => {
    const value = new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1];
    if (value === undefined) throw new Error(`${url} has no metric ${name}`);
    return Number(value);
  };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
