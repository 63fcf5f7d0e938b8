import { readdirSync } from "node:fs";
import { join } from "node:path";
import { parseStreamName } from "@tributary/common/names";
import { TributaryClient } from "@tributary/common/sdk/client";
import { LocalCluster } from "../local-cluster/local-cluster.ts";
import { servedContainers } from "./cluster-facts.ts";
import { clusterPorts } from "./cluster-ports.ts";
import { readAll } from "./final-read.ts";
import { Ledger } from "./ledger.ts";
import { startLoad, tellGateways } from "./load.ts";
import { copyStores, killAll, putBack, putStreamBack, raftGroups, type StoreCopy, startAll } from "./nats-stores.ts";
import { type Scenario, type ScenarioContext, until } from "./scenario.ts";
import { TailReader } from "./tail-reader.ts";
import { judgeTiered, TieredReader } from "./tiered-reader.ts";

const STREAMS = Array.from({ length: 8 }, (_, i) => `loss/s${i}`);
const CONTAINERS = 4;
const SERVED_MS_MAX = 120_000;

/** What happens to the cluster at one go. */
interface Blow {
  /** "one": everything goes back to one moment. "several": each log and the MetaStore to a moment of its own, or stays. */
  readonly moments: "one" | "several";
  /** Core nodes die as well, and with them what they have in memory. */
  readonly cores: boolean;
}

export const storeLoss: Scenario = {
  description: "all nats-servers are killed and their last minutes thrown away: logs and MetaStore go back, the lake does not; under load",
  async run(context) {
    const { folder, short } = context;
    const ports = await clusterPorts(2);
    const { gateways } = ports;
    const cluster = await LocalCluster.start({
      folder,
      ...ports,
      containers: CONTAINERS,
      coreFlags: ["--set", "core.flushIntervalMs=1000"],
      env: { TRIBUTARY_PHASES: "0" },
    });
    const tails: TailReader[] = [];
    const tiered: TieredReader[] = [];
    try {
      const client = new TributaryClient({ server: cluster.coreUrls[0] as string });
      for (const stream of STREAMS) await client.createStream(parseStreamName(stream));
      await tellGateways(cluster.gatewayUrls, STREAMS);
      tails.push(...STREAMS.map((stream, i) => new TailReader(cluster.coreUrls[i % 3] as string, stream, { wentBack: true })));
      tiered.push(...STREAMS.map((stream, i) => new TieredReader(cluster.coreUrls[(i + 1) % 3] as string, stream)));
      const ledger = new Ledger();
      const loads = gateways.map((gateway, i) =>
        startLoad(ledger, {
          ...gateway,
          prefix: `gw${i + 1}`,
          streams: STREAMS,
          http: 16,
          httpBatch: 5,
          mqttQos1: 0,
          mqttQos2: 16,
          mqttDepth: 2,
          fillerChars: 200,
          intervalMs: 40,
        }),
      );
      const scene = new Scene(context, cluster, ledger, tails);
      const blows: Blow[] = [
        { moments: "one", cores: true },
        { moments: "several", cores: false },
      ];
      if (!short) blows.push({ moments: "one", cores: false }, { moments: "several", cores: true });
      for (const blow of blows) await scene.strike(blow);
      await Promise.all(loads.map((load) => load.drain()));
      const final = await readAll(cluster.coreUrls[1] as string, STREAMS, ledger, tails);
      const survivors = await judgeTiered(cluster.coreUrls[2] as string, tiered);
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
          { name: "nothing changed at any (segment, nonce, ordinal)", ok: changed === 0, detail: `${changed} changed` },
          { name: "readers beyond the recovered end were told so, and went on", ok: setBack > 0, detail: `${setBack} times` },
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

/** One cluster that is set back again and again. */
class Scene {
  readonly checks: { name: string; ok: boolean; detail: string }[] = [];
  readonly #context: ScenarioContext;
  readonly #cluster: LocalCluster;
  readonly #ledger: Ledger;
  readonly #tails: readonly TailReader[];
  readonly #storeDirs: readonly string[];
  #copies = 0;

  constructor(context: ScenarioContext, cluster: LocalCluster, ledger: Ledger, tails: readonly TailReader[]) {
    this.#context = context;
    this.#cluster = cluster;
    this.#ledger = ledger;
    this.#tails = tails;
    this.#storeDirs = cluster.nats.servers.map((_, i) => join(context.folder, `nats-${i + 1}`));
  }

  async strike({ moments, cores }: Blow): Promise<void> {
    const { say, random, short } = this.#context;
    const { nats } = this.#cluster;
    if (this.#copies === 0) await this.#flow();
    const copies = [await this.#copy()];
    await this.#flow();
    // All servers need seconds to find together again after each copy.
    if (moments === "several" && !short) {
      copies.push(await this.#copy());
      await this.#flow();
    }
    const generationsBefore = await this.#generations();
    const streams = await raftGroups(nats);
    await Promise.all([killAll(nats), ...(cores ? this.#cluster.cores.map((core) => core.kill()) : [])]);
    const lakeBefore = this.#lake();
    let told = "everything one flow ago";
    if (moments === "one") putBack(this.#storeDirs, copies[0] as StoreCopy);
    else {
      const pasts: string[] = [];
      const names = [...streams.keys()].filter((name) => copies.every((copy) => copy.streams.has(name)));
      // At least one log that is in use goes back as far as possible: of a container that has events, as the blow before has shown.
      const raised = generationsBefore.findIndex((generation) => generation > 0);
      const certain = `tributary-local-wal-${raised}-g${generationsBefore[raised]}`;
      for (const name of names) {
        const past = name === certain ? 0 : Math.floor(random() * (copies.length + 1));
        const copy = copies[past];
        if (copy) putStreamBack(this.#storeDirs, copy, name);
        pasts.push(`${name} ${copy ? `${copies.length - past} flows ago` : "as it was"}`);
      }
      told = pasts.join(", ");
    }
    say(`${cores ? "nats-servers and core nodes were" : "the nats-servers were"} killed; put back: ${told}`);
    const startedAt = performance.now();
    await startAll(nats);
    if (cores) await Promise.all(this.#cluster.cores.map((core) => core.start()));
    let containers: Awaited<ReturnType<typeof servedContainers>>;
    const isNew = ({ generation }: { generation: number }, i: number) => generation > (generationsBefore[i] ?? 0);
    await until("all containers to be served, some of them in a new generation", SERVED_MS_MAX, async () => {
      containers = await servedContainers(this.#cluster.coreUrls);
      return containers?.some(isNew) ?? false;
    }).catch((error: unknown) => say(`${error}`));
    const served = Math.round(performance.now() - startedAt);
    await this.#flow();
    const generations = containers?.map(({ generation }) => generation) ?? [];
    const reasons = (containers ?? []).map(({ wentBack }) =>
      wentBack ? `${wentBack.reason} (${wentBack.streamsWithKnownLoss}/${wentBack.streams})` : "-",
    );
    const lake = this.#lake();
    const swept = [...lakeBefore].filter((name) => !lake.has(name));
    this.checks.push(
      {
        name: `new generations after ${moments === "one" ? "one moment" : "several moments"}${cores ? ", core nodes killed" : ""}`,
        ok: containers?.some(isNew) ?? false,
        detail: `served after ${served} ms in generations ${generations.join(" ")}, before ${generationsBefore.join(" ")}: ${reasons.join(", ")}`,
      },
      { name: "nothing in the lake was swept", ok: swept.length === 0, detail: `${lakeBefore.size} objects, ${swept.length} are gone` },
    );
    say(`served after ${served} ms, generations ${generations.join(" ")}; ${this.#ledger.acked} acknowledged`);
  }

  /** Events go on to be acknowledged, to be read, and to be brought into the lake, of every container that has some. */
  async #flow(): Promise<void> {
    const { short, random, minutes = 8 } = this.#context;
    const read = () => this.#tails.reduce((sum, tail) => sum + tail.seen, 0);
    const [acked, seen, objects] = [this.#ledger.acked, read(), this.#objects()];
    await pause(short ? 1_000 + random() * 1_000 : (minutes * 60_000 * (0.5 + random())) / 14);
    await until("events to flow", SERVED_MS_MAX, () => {
      const now = this.#objects();
      // The first object may hold nothing but older events.
      const tiered = [...objects].every(([container, count]) => (now.get(container) ?? 0) >= count + 2);
      return this.#ledger.acked > acked + 100 && read() > seen + 100 && tiered;
    });
  }

  async #copy(): Promise<StoreCopy> {
    const { nats } = this.#cluster;
    const streams = await raftGroups(nats);
    await killAll(nats);
    const copy = copyStores(this.#storeDirs, join(this.#context.folder, `copy-${this.#copies++}`), streams);
    await startAll(nats);
    this.#context.say(`the stores were copied; ${this.#ledger.acked} acknowledged`);
    return copy;
  }

  async #generations(): Promise<readonly number[]> {
    return (await servedContainers(this.#cluster.coreUrls))?.map(({ generation }) => generation) ?? [];
  }

  /** How many objects of events each container has in the lake. */
  #objects(): ReadonlyMap<string, number> {
    const counts = new Map<string, number>();
    for (const name of this.#lake()) {
      const container = /(c\d+)\/blocks\/.*\.trib$/.exec(name)?.[1];
      if (container !== undefined) counts.set(container, (counts.get(container) ?? 0) + 1);
    }
    return counts;
  }

  #lake(): ReadonlySet<string> {
    const files = readdirSync(join(this.#context.folder, "lake"), { recursive: true, encoding: "utf8" });
    // What is being written stands in a temporary folder of its node until it has its name.
    return new Set(files.filter((name) => !name.startsWith("~tmp")));
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
