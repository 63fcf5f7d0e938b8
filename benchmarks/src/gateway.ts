import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { freePorts } from "@tributary/common/testing/free-ports";
import { startNatsServer } from "@tributary/common/testing/nats-server";
import type { ServerProcess } from "@tributary/deploy/scenarios/server-process";
import { coreProcess, edgeProcess, NATS_MAX_PAYLOAD } from "@tributary/deploy/scenarios/servers";
import type { LoadResult } from "./load/load-result.ts";
import { fsyncRate, readMetrics, residentMiB, writtenBytes } from "./probes.ts";
import { sendRecordings } from "./recordings.ts";

interface Case {
  readonly name: string;
  readonly generator: "http" | "mqtt";
  readonly flags: readonly string[];
}

const load = (generator: Case["generator"], name: string, connections: number, ...flags: string[]): Case => ({
  name,
  generator,
  flags: ["--connections", `${connections}`, ...flags],
});

const CASES: readonly Case[] = [
  ...[1, 100, 1_000].map((n) => load("mqtt", `MQTT QoS 1, ${n} connections, 1 in flight`, n)),
  ...[1, 100, 1_000].map((n) => load("mqtt", `MQTT QoS 1, ${n} connections, 10 in flight`, n, "--depth", "10")),
  load("mqtt", "MQTT QoS 2, 1000 connections, 10 in flight", 1_000, "--depth", "10", "--qos", "2"),
  load("mqtt", "MQTT QoS 1, 1000 streams with one device each, 10 in flight", 1_000, "--depth", "10", "--topic", "bench/s{n}"),
  ...[1, 100, 1_000].map((n) => load("http", `HTTP, ${n} connections, single events`, n)),
  ...[100, 1_000].map((n) => load("http", `HTTP, ${n} connections, batches of 100 events`, n, "--batch", "100")),
  load("mqtt", "MQTT QoS 1, 10 events/s in all, 10 connections", 10, "--rate", "10"),
  load("mqtt", "MQTT QoS 1, 100 events/s in all, 10 connections", 10, "--rate", "100"),
  load("mqtt", "MQTT QoS 1, 20000 events/s in all, 1000 connections", 1_000, "--rate", "20000", "--depth", "10"),
];

/** Generator and gateway share the machine's cores; the disk is that of the temporary folder. */
export async function gatewayBenchmark({ seconds }: { seconds: number }): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "tributary-bench-"));
  try {
    console.log(
      `${cpus().length} × ${cpus()[0]?.model ?? "unknown CPU"}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.versions.node}, ${seconds} s a case`,
    );
    console.log(`events of about 150 bytes, each acknowledged after its fsync; folder ${folder}`);
    console.log(`the disk alone: ${await fsyncRate(folder, 4_096)} appends of 4 KiB with fdatasync a second\n`);
    await withoutCore(join(folder, "alone"), seconds);
    await withCore(join(folder, "with-core"), seconds);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function withoutCore(folder: string, seconds: number): Promise<void> {
  console.log("gateway without a core, so that everything stays in its log:");
  console.log(TABLE_HEAD);
  for (const each of CASES) {
    // Each case gets a gateway and a log of its own: none pays for the backlog of the one before.
    const gateway = await startGateway(join(folder, each.name.replaceAll(/[^A-Za-z0-9]+/g, "-")), []);
    try {
      console.log(await runCase(each, gateway, seconds));
    } finally {
      await gateway.process.stop();
    }
  }
}

async function withCore(folder: string, seconds: number): Promise<void> {
  console.log("\ngateway, core and nats-server on the same cores, everything replicated as it comes:");
  mkdirSync(folder, { recursive: true });
  const nats = await startNatsServer({ maxPayload: NATS_MAX_PAYLOAD, storeDir: join(folder, "nats") });
  const [corePort] = (await freePorts(1)) as [number];
  const core = coreProcess(folder, corePort, nats, QUIET);
  try {
    await core.start();
    const gateway = await startGateway(folder, ["--nats", nats.url]);
    try {
      console.log(TABLE_HEAD);
      for (const each of CASES.filter((c) => /1000 connections, 10 in|batches|20000/.test(c.name) && !c.name.includes("QoS 2"))) {
        console.log(await runCase(each, gateway, seconds));
        await drained(gateway);
      }
      await sendRecordings(
        gateway.httpPort,
        () => drained(gateway),
        () => readMetrics(gateway.httpPort),
      );
    } finally {
      await gateway.process.stop();
    }
  } finally {
    await core.stop();
    await nats.stop();
  }
}

/** Lines of phases would be measured too. */
const QUIET = { env: { TRIBUTARY_PHASES: "0" } };

interface Gateway {
  readonly process: ServerProcess;
  readonly httpPort: number;
  readonly mqttPort: number;
}

async function startGateway(folder: string, flags: readonly string[]): Promise<Gateway> {
  mkdirSync(folder, { recursive: true });
  const [httpPort, mqttPort] = (await freePorts(2)) as [number, number];
  const server = edgeProcess(folder, { httpPort, mqttPort }, { flags, ...QUIET });
  await server.start();
  return { process: server, httpPort, mqttPort };
}

const COLUMNS = [58, 10, 9, 9, 11, 11, 9, 7] as const;
const row = (cells: readonly string[]) =>
  cells.map((cell, i) => (i === 0 ? cell.padEnd(COLUMNS[0]) : cell.padStart(COLUMNS[i] ?? 10))).join(" ");
const TABLE_HEAD = row(["", "events/s", "p50 ms", "p99 ms", "disk/paylod", "wire/paylod", "RSS MiB", "gen CPU"]).replaceAll(
  "paylod",
  "payl.",
);

async function runCase(each: Case, gateway: Gateway, seconds: number): Promise<string> {
  const before = { disk: writtenBytes(gateway.process.pid), metrics: await readMetrics(gateway.httpPort) };
  const script = fileURLToPath(new URL(`./load/${each.generator}-load.ts`, import.meta.url));
  const port = each.generator === "http" ? gateway.httpPort : gateway.mqttPort;
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [script, "--port", `${port}`, "--seconds", `${seconds}`, "--warmup", "2", ...each.flags],
    {
      maxBuffer: 16 * 1024 * 1024,
    },
  );
  const result = JSON.parse(stdout) as LoadResult;
  const after = await readMetrics(gateway.httpPort);
  const grown = (name: string) => (after.get(name) ?? 0) - (before.metrics.get(name) ?? 0);
  const payload = Math.max(1, grown("tributary_gateway_payload_bytes_total"));
  const wire = grown("tributary_gateway_uplink_bytes_sent_total");
  const refused = Object.entries(result.refusals).map(([reason, count]) => ` (${count} refused: ${reason})`);
  return (
    row([
      each.name,
      `${result.eventsAckedPerSecond}`,
      result.latencyMs.p50.toFixed(2),
      result.latencyMs.p99.toFixed(2),
      ((writtenBytes(gateway.process.pid) - before.disk) / payload).toFixed(2),
      wire === 0 ? "-" : (wire / payload).toFixed(3),
      `${residentMiB(gateway.process.pid)}`,
      result.cpuShare.toFixed(2),
    ]) + refused.join("")
  );
}

async function drained(gateway: Gateway): Promise<void> {
  while (((await readMetrics(gateway.httpPort)).get("tributary_gateway_events_held") ?? 0) > 0) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
