import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { LocalCluster } from "./local-cluster.ts";

const HELP = `npm run cluster -- [--data FOLDER] [--containers N]

Starts three nats-servers, three core nodes and a gateway on this machine, as processes on loopback, and stops them on Ctrl-C.
What they keep is in FOLDER (./data/cluster); a later start goes on from there.`;

const NATS_PORTS = [4222, 4223, 4224];
const MONITORING_PORTS = [8222, 8223, 8224];
const CORE_PORTS = [8080, 8081, 8082];
const GATEWAY = { httpPort: 8070, mqttPort: 1883 };

const { values } = parseArgs({
  options: {
    data: { type: "string", default: "./data/cluster" },
    containers: { type: "string", default: "6" },
    help: { type: "boolean", default: false },
  },
});

async function run(): Promise<void> {
  const folder = resolve(values.data);
  const stopped = new Promise<void>((resolveStop) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => resolveStop());
  });
  console.log(`starting three nats-servers, three core nodes and a gateway; data in ${folder}`);
  const cluster = await LocalCluster.start({
    folder,
    natsPorts: NATS_PORTS,
    monitoringPorts: MONITORING_PORTS,
    corePorts: CORE_PORTS,
    gateways: [GATEWAY],
    containers: Number(values.containers),
    env: { TRIBUTARY_PHASES: "0" },
  });
  console.log(`gateway   ${cluster.gatewayUrls.join(" ")}  mqtt://127.0.0.1:${GATEWAY.mqttPort}`);
  console.log(`core      ${cluster.coreUrls.join(" ")}`);
  console.log(`NATS      ${cluster.nats.url}`);
  console.log(`          ${cluster.nats.servers.map(({ monitoringUrl }) => monitoringUrl).join(",")} (monitoring)`);
  console.log("\nnpx tributary cluster status     shows members and containers; Ctrl-C stops everything");
  await stopped;
  console.log("stopping");
  await cluster.stop();
}

if (values.help) console.log(HELP);
else {
  run().then(
    () => process.exit(0),
    (error: unknown) => {
      console.error(`tributary: ${error instanceof Error ? error.message : error}`);
      process.exit(1);
    },
  );
}
