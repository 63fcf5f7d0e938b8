import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "@tributary/common/clock";
import { loadConfig } from "@tributary/common/config";
import { connectNats } from "@tributary/common/engines/nats-connection";
import { toTributaryError } from "@tributary/common/errors";
import { createLogger } from "@tributary/common/logger";
import { parseStreamName } from "@tributary/common/names";
import { TributaryClient } from "@tributary/common/sdk/client";
import { serverNameOf } from "@tributary/common/testing/nats-server";
import { examineCluster } from "@tributary/core/doctor/examine";
import { LocalCluster } from "../local-cluster/local-cluster.ts";
import { clusterFacts, servedContainers } from "./cluster-facts.ts";
import { clusterPorts } from "./cluster-ports.ts";
import { readAll } from "./final-read.ts";
import { Ledger } from "./ledger.ts";
import { startLoad, tellGateways } from "./load.ts";
import { type Scenario, type ScenarioContext, until } from "./scenario.ts";
import { TailReader } from "./tail-reader.ts";

const STREAMS = ["replace/a", "replace/b"];
const SYSTEM = { user: "system", pass: "system" };
const COPY_MS_MAX = 120_000;

/** Every disk of the cluster is lost in turn in the long form; one of each kind in the short one. */
export const replace: Scenario = {
  description: "nats-servers and core nodes are lost for ever with their disks, and empty ones take their places, under load",
  async run(context) {
    const { folder, short } = context;
    const ports = await clusterPorts(2);
    const { gateways } = ports;
    const cluster = await LocalCluster.start({
      folder,
      ...ports,
      containers: 4,
      systemUser: SYSTEM,
      coreFlags: ["--set", "core.flushIntervalMs=1000"],
      env: { TRIBUTARY_PHASES: "0" },
    });
    const tails: TailReader[] = [];
    try {
      const client = new TributaryClient({ server: cluster.coreUrls[0] as string });
      for (const stream of STREAMS) await client.createStream(parseStreamName(stream), { segments: 2 });
      await tellGateways(cluster.gatewayUrls, STREAMS);
      tails.push(...STREAMS.map((stream, i) => new TailReader(cluster.coreUrls[i] as string, stream)));
      const ledger = new Ledger();
      const loads = gateways.map((gateway, i) =>
        startLoad(ledger, {
          ...gateway,
          prefix: `gw${i + 1}`,
          streams: STREAMS,
          http: 12,
          httpBatch: 5,
          mqttQos1: 12,
          mqttQos2: 12,
          mqttDepth: 2,
          fillerChars: 200,
          intervalMs: 20,
        }),
      );
      const flowMs = short ? 1_000 : 10_000;
      const copiedMs: number[] = [];
      const replaced: string[] = [];
      for (let i = 0; i < (short ? 1 : 3); i++) {
        await pause(flowMs * (0.5 + context.random()));
        const lost = serverNameOf(i);
        const startedAt = performance.now();
        const name = await cluster.nats.replace(i);
        await removePeer(cluster, lost);
        await copied(context, cluster);
        copiedMs.push(performance.now() - startedAt);
        replaced.push(`${lost} by ${name}`);
        context.say(
          `${name} has a copy of everything ${Math.round(copiedMs.at(-1) ?? 0)} ms after ${lost} was lost; ${ledger.acked} acknowledged`,
        );
        await pause(flowMs * (0.5 + context.random()));
        const core = cluster.cores[2 - i];
        if (!core) throw new Error("there are three core nodes");
        await core.kill();
        rmSync(join(folder, core.name), { recursive: true });
        mkdirSync(join(folder, core.name));
        await core.start();
        await until(
          "all three core nodes to have containers",
          COPY_MS_MAX,
          async () => new Set((await clusterFacts(cluster.coreUrls[1] as string)).containers.map(({ owner }) => owner)).size === 3,
        );
        replaced.push(core.name);
        context.say(`${core.name} has containers again, with a new disk; ${ledger.acked} acknowledged`);
      }
      const before = ledger.acked;
      await until("more to be acknowledged", COPY_MS_MAX, () => ledger.acked > before + 100);
      await Promise.all(loads.map((load) => load.drain()));
      const final = await readAll(cluster.coreUrls[2] as string, STREAMS, ledger, tails);
      await Promise.all(tails.map((tail) => tail.stop()));
      for (const detail of final.ledger.details) context.say(detail);
      const changed = tails.reduce((sum, tail) => sum + tail.changed, 0);
      const generations = (await servedContainers(cluster.coreUrls))?.map(({ generation }) => generation) ?? [];
      const refusals = loads.flatMap((load) => load.refusals);
      return {
        report: final.ledger,
        checks: [
          ...final.checks,
          {
            name: "who was replaced",
            ok: true,
            detail: `${replaced.join(", ")}; all copies there after ${copiedMs.map(Math.round).join(", ")} ms`,
          },
          { name: "nothing changed at any (segment, ordinal)", ok: changed === 0, detail: `${changed} changed` },
          {
            name: "nothing was taken for lost",
            ok: generations.length > 0 && Math.max(...generations) === 0,
            detail: `generations ${generations.join(" ")}`,
          },
          { name: "clients were never refused", ok: refusals.length === 0, detail: refusals.slice(0, 3).join("; ") || "yes" },
        ],
      };
    } finally {
      await Promise.all(tails.map((tail) => tail.stop()));
      await cluster.stop();
    }
  },
};

/** As `nats server cluster peer-remove` does: what had a copy there gets one elsewhere. */
async function removePeer(cluster: LocalCluster, name: string): Promise<void> {
  const link = await connectNats({ url: cluster.nats.url, name: "operator", ...SYSTEM });
  try {
    // Refused while the group of all servers has no leader.
    await until(`${name} to be removed`, COPY_MS_MAX, async () => {
      try {
        const answer = await link.inbox.request("$JS.API.SERVER.REMOVE", JSON.stringify({ peer: name }), { timeoutMs: 2_000 });
        return answer.json<{ success?: boolean }>().success === true;
      } catch (error) {
        if (!toTributaryError(error).retryable) throw error;
        return false;
      }
    });
  } finally {
    await link.close();
  }
}

/** Waits until the doctor finds nothing to say against any server or stream. */
async function copied(context: ScenarioContext, cluster: LocalCluster): Promise<void> {
  const overrides = {
    "nats.url": cluster.nats.url,
    "nats.monitorUrl": cluster.nats.servers.map((server) => server.monitoringUrl).join(","),
    "nats.replicas": "3",
    cluster: "local",
    "core.lake": join(context.folder, "lake"),
  };
  const config = loadConfig({ environment: {}, overrides });
  const logger = createLogger({ level: "error", clock: systemClock, write: context.say });
  let last: readonly string[] = [];
  await until("all copies to be in step", COPY_MS_MAX, async () => {
    try {
      const findings = await examineCluster(config, logger);
      last = findings.flatMap(({ level, what }) => (level === "ok" ? [] : [what]));
    } catch (error) {
      last = [toTributaryError(error).message];
    }
    return last.length === 0;
  }).catch((error: unknown) => {
    throw new Error(`${toTributaryError(error).message}: ${last.join("; ")}`);
  });
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
