import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type NatsCluster, startNatsCluster } from "@tributary/common/testing/nats-server";
import type { ServerProcess } from "../scenarios/server-process.ts";
import { coreProcess, edgeProcess, NATS_MAX_PAYLOAD } from "../scenarios/servers.ts";

export interface LocalClusterOptions {
  /** Holds what everybody keeps; a cluster that is started again in it goes on. */
  readonly folder: string;
  /** One for each server. */
  readonly natsPorts: readonly number[];
  readonly corePorts: readonly number[];
  readonly gateways: readonly { readonly httpPort: number; readonly mqttPort: number }[];
  readonly containers: number;
  readonly coreFlags?: readonly string[];
  readonly gatewayFlags?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** Three copies of everything, where there are three servers. */
const REPLICAS_MAX = 3;

/** A whole cluster as processes of this machine: nats-servers, core nodes that share a lake, gateways. */
export class LocalCluster {
  readonly nats: NatsCluster;
  readonly cores: readonly ServerProcess[];
  readonly gateways: readonly ServerProcess[];
  readonly coreUrls: readonly string[];
  readonly gatewayUrls: readonly string[];

  private constructor(nats: NatsCluster, options: LocalClusterOptions) {
    const { folder, corePorts, gateways, natsPorts, containers, coreFlags = [], gatewayFlags = [], env = {} } = options;
    this.nats = nats;
    const monitoringUrl = nats.servers.map((server) => server.monitoringUrl).join(",");
    const settings = {
      "core.lake": join(folder, "lake"),
      "core.containers": containers,
      "nats.replicas": Math.min(REPLICAS_MAX, natsPorts.length),
    };
    const shared = Object.entries(settings).flatMap(([name, value]) => ["--set", `${name}=${value}`]);
    this.cores = corePorts.map((port, i) => {
      const own = join(folder, `core-${i + 1}`);
      mkdirSync(own, { recursive: true });
      const flags = [...shared, "--set", `core.name=core-${i + 1}`, ...coreFlags];
      return coreProcess(own, port, { url: nats.url, monitoringUrl }, { flags, env });
    });
    this.gateways = gateways.map((ports, i) => {
      const own = join(folder, `gateway-${i + 1}`);
      mkdirSync(own, { recursive: true });
      return edgeProcess(own, ports, { flags: ["--nats", nats.url, "--set", `edge.name=gateway-${i + 1}`, ...gatewayFlags], env });
    });
    this.coreUrls = corePorts.map((port) => `http://127.0.0.1:${port}`);
    this.gatewayUrls = gateways.map(({ httpPort }) => `http://127.0.0.1:${httpPort}`);
  }

  static async start(options: LocalClusterOptions): Promise<LocalCluster> {
    const storeDirs = options.natsPorts.map((_, i) => join(options.folder, `nats-${i + 1}`));
    for (const folder of storeDirs) mkdirSync(folder, { recursive: true });
    const nats = await startNatsCluster(storeDirs.length, { storeDirs, ports: options.natsPorts, maxPayload: NATS_MAX_PAYLOAD });
    const cluster = new LocalCluster(nats, options);
    try {
      await Promise.all(cluster.cores.map((core) => core.start()));
      await Promise.all(cluster.gateways.map((gateway) => gateway.start()));
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  /** Those who need others stop first. */
  async stop(): Promise<void> {
    await Promise.all(this.gateways.map((gateway) => gateway.stop()));
    await Promise.all(this.cores.map((core) => core.stop()));
    await this.nats.stop();
  }
}
