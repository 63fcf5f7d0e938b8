import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { hasCode, TributaryError } from "@tributary/common/errors";
import { assertPortFree } from "@tributary/common/http/serve";
import { LIMITS } from "@tributary/common/limits";
import { LocalCluster } from "./local-cluster.ts";

const HELP = `npm run cluster -- [--data FOLDER] [--containers N]

Starts three nats-servers, three core nodes and a gateway on this machine, as processes on loopback, and stops them on Ctrl-C.
What they keep is in FOLDER (./data/cluster); a later start goes on from there.`;

const NATS_PORTS = [4222, 4223, 4224];
const MONITORING_PORTS = [8222, 8223, 8224];
const CORE_PORTS = [8080, 8081, 8082];
const GATEWAY = { httpPort: 8070, mqttPort: 1883 };

interface Options {
  readonly data: string;
  readonly containers: number;
}

/** Undefined: only help is asked for. @throws USAGE */
function readOptions(): Options | undefined {
  const { data, containers, help } = readFlags();
  if (help) return undefined;
  const count = /^\d{1,6}$/.test(containers) ? Number(containers) : 0;
  if (count < 1 || count > LIMITS.containersMax) {
    throw new TributaryError("USAGE", `--containers is '${containers}'; a cluster has 1 to ${LIMITS.containersMax} containers`);
  }
  if (data === "") throw new TributaryError("USAGE", "--data names no folder");
  return { data, containers: count };
}

function readFlags() {
  try {
    return parseArgs({
      options: {
        data: { type: "string", default: "./data/cluster" },
        containers: { type: "string", default: "6" },
        help: { type: "boolean", default: false },
      },
    }).values;
  } catch (error) {
    throw new TributaryError("USAGE", error instanceof Error ? error.message : String(error));
  }
}

/** Before anything is started: nats-servers that meet another cluster's would say so in their own, long words. */
async function assertPortsFree(): Promise<void> {
  const ports = [...NATS_PORTS, ...MONITORING_PORTS, ...CORE_PORTS, GATEWAY.httpPort, GATEWAY.mqttPort];
  for (const port of ports) {
    try {
      await assertPortFree({ host: "127.0.0.1", port });
    } catch (error) {
      if (!hasCode(error, "PORT_IN_USE")) throw error;
      throw new TributaryError(
        "PORT_IN_USE",
        `port ${port} is in use; does another cluster run here, or what is left of one that was killed?`,
      );
    }
  }
}

async function run({ data, containers }: Options): Promise<void> {
  const folder = resolve(data);
  const stop = new AbortController();
  const stopped = new Promise<void>((resolveStop) => stop.signal.addEventListener("abort", () => resolveStop()));
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => stop.abort());
  await assertPortsFree();
  console.log(`starting three nats-servers, three core nodes and a gateway; data in ${folder}`);
  let cluster: LocalCluster;
  try {
    cluster = await LocalCluster.start({
      folder,
      natsPorts: NATS_PORTS,
      monitoringPorts: MONITORING_PORTS,
      corePorts: CORE_PORTS,
      gateways: [GATEWAY],
      containers,
      env: { TRIBUTARY_PHASES: "0" },
      signal: stop.signal,
    });
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    console.log("stopped before everything had started");
    return;
  }
  console.log(`gateway   ${cluster.gatewayUrls.join(" ")}  mqtt://127.0.0.1:${GATEWAY.mqttPort}`);
  console.log(`core      ${cluster.coreUrls.join(" ")}`);
  console.log(`NATS      ${cluster.nats.url}`);
  console.log(`          ${cluster.nats.servers.map(({ monitoringUrl }) => monitoringUrl).join(",")} (monitoring)`);
  console.log("\nnpx tributary cluster status     shows members and containers; Ctrl-C stops everything");
  await stopped;
  console.log("stopping");
  await cluster.stop();
}

async function main(): Promise<void> {
  const options = readOptions();
  if (options) await run(options);
  else console.log(HELP);
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    console.error(
      `tributary: ${hasCode(error, "USAGE", "PORT_IN_USE") ? `${error.code}: ` : ""}${error instanceof Error ? error.message : error}`,
    );
    process.exit(hasCode(error, "USAGE") ? 2 : 1);
  },
);
