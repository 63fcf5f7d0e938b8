import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { TributaryClient } from "@tributary/common/sdk/client";
import { freePorts } from "@tributary/common/testing/free-ports";
import { startNatsServer } from "@tributary/common/testing/nats-server";
import { readAll } from "./final-read.ts";
import { Ledger } from "./ledger.ts";
import { startLoad } from "./load.ts";
import { type Scenario, until } from "./scenario.ts";
import { coreProcess, edgeProcess, NATS_MAX_PAYLOAD } from "./servers.ts";

const STREAMS = ["away/a", "away/b", "away/c"];

export const coreAway: Scenario = {
  description: "the core is away until the gateway holds 5 million events; the gateway is killed twice meanwhile; then everything arrives",
  async run(context) {
    const backlog = context.short ? 50_000 : 5_000_000;
    const folder = context.folder;
    mkdirSync(folder, { recursive: true });
    const [httpPort, mqttPort, corePort] = (await freePorts(3)) as [number, number, number];
    const nats = await startNatsServer({ maxPayload: NATS_MAX_PAYLOAD, storeDir: join(folder, "nats") });
    const core = coreProcess(folder, corePort, nats);
    const edge = edgeProcess(folder, { httpPort, mqttPort }, { runtime: context.runtime, flags: ["--nats", nats.url] });
    const gatewayUrl = `http://127.0.0.1:${httpPort}`;
    const coreUrl = `http://127.0.0.1:${corePort}`;
    const ledger = new Ledger();
    const memory: string[] = [];
    const firstAcks: number[] = [];
    try {
      await edge.start();
      const client = new TributaryClient({ server: gatewayUrl });
      for (const stream of STREAMS) {
        const [scope = "", name = ""] = stream.split("/");
        await client.createStream({ scope, stream: name });
      }
      const startedAt = performance.now();
      const load = startLoad(ledger, {
        httpPort,
        mqttPort,
        prefix: "away",
        streams: STREAMS,
        http: 24,
        httpBatch: 100,
        mqttQos1: 0,
        mqttQos2: 6,
        mqttDepth: 10,
        fillerChars: 110,
      });
      for (const part of [1 / 3, 2 / 3]) {
        await until(`${Math.round(part * 100)} % of the backlog`, 1_800_000, () => ledger.acked >= backlog * part);
        memory.push(residentMiB(edge.pid));
        const before = ledger.acked;
        await edge.kill();
        const killedAt = performance.now();
        await edge.start();
        await until("the first acknowledgement after the kill", 60_000, () => ledger.acked > before + 10);
        firstAcks.push(performance.now() - killedAt);
        context.say(
          `gateway killed with ${before} events held; first acknowledgement ${Math.round(firstAcks.at(-1) ?? 0)} ms after its restart`,
        );
      }
      await until("the whole backlog", 1_800_000, () => ledger.acked >= backlog);
      await load.drain();
      const fillSeconds = (performance.now() - startedAt) / 1_000;
      memory.push(residentMiB(edge.pid));
      context.say(`${ledger.acked} events held after ${Math.round(fillSeconds)} s; the core comes`);
      const drainStartedAt = performance.now();
      await core.start();
      await until("everything at the core", 1_800_000, async () => {
        const core = new TributaryClient({ server: coreUrl });
        let events = 0;
        for (const stream of STREAMS) {
          const [scope = "", name = ""] = stream.split("/");
          events += (await core.describeStream({ scope, stream: name }).catch(() => ({ events: 0 }))).events;
        }
        return events >= ledger.acked;
      });
      const drainSeconds = (performance.now() - drainStartedAt) / 1_000;
      memory.push(residentMiB(edge.pid));
      const drainRate = Math.round(ledger.acked / drainSeconds);
      context.say(`drained in ${drainSeconds.toFixed(1)} s: ${drainRate} events/s`);
      const final = await readAll(coreUrl, STREAMS, ledger, []);
      for (const detail of final.ledger.details) context.say(detail);
      return {
        report: final.ledger,
        checks: [
          { name: "backlog", ok: ledger.acked >= backlog, detail: `${ledger.acked} events in ${Math.round(fillSeconds)} s` },
          { name: "gateway memory at 1/3, 2/3, full backlog, after the drain", ok: true, detail: memory.join(", ") },
          {
            name: "time from restart to the first acknowledgement",
            ok: true,
            detail: firstAcks.map((ms) => `${Math.round(ms)} ms`).join(", "),
          },
          { name: "drain rate", ok: true, detail: `${drainRate} events/s` },
          ...final.checks,
          { name: "clients were never refused", ok: load.refusals.length === 0, detail: load.refusals.slice(0, 3).join("; ") || "yes" },
        ],
      };
    } finally {
      await edge.kill();
      await core.kill();
      await nats.stop();
    }
  },
};

function residentMiB(pid: number): string {
  const match = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return `${Math.round(Number(match?.[1] ?? 0) / 1_024)} MiB`;
}
