import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type NatsCluster, type Place, startNatsCluster } from "@tributary/common/testing/nats-server";
import type { ServerProcess } from "../scenarios/server-process.ts";
import { coreProcess, edgeProcess, NATS_MAX_PAYLOAD } from "../scenarios/servers.ts";

export interface LocalClusterOptions {
  /** Holds what everybody keeps; a cluster that is started again in it goes on. */
  readonly folder: string;
  /** One for each server. */
  readonly natsPorts: readonly number[];
  /** Of the nats-servers; free ones by default. */
  readonly monitoringPorts?: readonly number[];
  readonly corePorts: readonly number[];
  readonly gateways: readonly { readonly httpPort: number; readonly mqttPort: number }[];
  readonly containers: number;
  /** Of the nats-servers' system account. */
  readonly systemUser?: { readonly user: string; readonly pass: string };
  /** How a core node or gateway reaches the nats-servers; straight by default. */
  readonly natsUrlOf?: (name: string, natsUrl: string) => Promise<string>;
  /** Where a nats-server or core node runs; on this machine by default. */
  readonly placeOf?: (name: string) => Place | undefined;
  readonly coreFlags?: readonly string[];
  readonly gatewayFlags?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** What a core node or gateway has of its own besides `env`. */
  readonly envOf?: (name: string) => Readonly<Record<string, string>>;
  /** Gives a start up: what has been started is stopped. */
  readonly signal?: AbortSignal;
}

/** Three copies of everything, where there are three servers. */
const REPLICAS_MAX = 3;

const natsName = (i: number): string => `nats-${i + 1}`;
const coreName = (i: number): string => `core-${i + 1}`;
const gatewayName = (i: number): string => `gateway-${i + 1}`;

/** A whole cluster as processes of this machine: nats-servers, core nodes that share a lake, gateways. */
export class LocalCluster {
  readonly nats: NatsCluster;
  readonly cores: readonly ServerProcess[];
  readonly gateways: readonly ServerProcess[];
  readonly coreUrls: readonly string[];
  readonly gatewayUrls: readonly string[];

  private constructor(nats: NatsCluster, options: LocalClusterOptions, urls: ReadonlyMap<string, string>) {
    const {
      folder,
      corePorts,
      gateways,
      natsPorts,
      containers,
      coreFlags = [],
      gatewayFlags = [],
      env: sharedEnv = {},
      envOf = () => ({}),
      placeOf = () => undefined,
    } = options;
    this.nats = nats;
    const monitoringUrl = nats.servers.map((server) => server.monitoringUrl).join(",");
    const settings = {
      "core.lake": join(folder, "lake"),
      "core.containers": containers,
      "nats.replicas": Math.min(REPLICAS_MAX, natsPorts.length),
    };
    const shared = Object.entries(settings).flatMap(([name, value]) => ["--set", `${name}=${value}`]);
    const folderOf = (name: string) => {
      const own = join(folder, name);
      mkdirSync(own, { recursive: true });
      return own;
    };
    this.cores = corePorts.map((port, i) => {
      const name = coreName(i);
      const flags = [...shared, "--set", `core.name=${name}`, ...coreFlags];
      const place = placeOf(name);
      const elsewhere = place && { host: place.host, runtime: [...place.program, process.execPath] };
      const env = { ...sharedEnv, ...envOf(name) };
      return coreProcess(folderOf(name), port, { url: urls.get(name) ?? nats.url, monitoringUrl }, { name, flags, env, ...elsewhere });
    });
    this.gateways = gateways.map((ports, i) => {
      const name = gatewayName(i);
      const flags = ["--nats", urls.get(name) ?? nats.url, "--set", `edge.name=${name}`, ...gatewayFlags];
      return edgeProcess(folderOf(name), ports, { name, flags, env: { ...sharedEnv, ...envOf(name) } });
    });
    this.coreUrls = corePorts.map((port, i) => `http://${placeOf(coreName(i))?.host ?? "127.0.0.1"}:${port}`);
    this.gatewayUrls = gateways.map(({ httpPort }) => `http://127.0.0.1:${httpPort}`);
  }

  static async start(options: LocalClusterOptions): Promise<LocalCluster> {
    const storeDirs = options.natsPorts.map((_, i) => join(options.folder, natsName(i)));
    for (const folder of storeDirs) mkdirSync(folder, { recursive: true });
    const { natsPorts: ports, monitoringPorts, systemUser } = options;
    const starting = startNatsCluster(storeDirs.length, {
      ...{ storeDirs, ports, maxPayload: NATS_MAX_PAYLOAD },
      ...(monitoringPorts ? { monitoringPorts } : {}),
      ...(systemUser ? { systemUser } : {}),
      places: ports.map((_, i) => options.placeOf?.(natsName(i))),
    });
    // Servers of a start that was given up end with this process.
    const nats = await unlessAborted(starting, options.signal);
    const urls = new Map<string, string>();
    for (const name of [...options.corePorts.map((_, i) => coreName(i)), ...options.gateways.map((_, i) => gatewayName(i))]) {
      if (options.natsUrlOf) urls.set(name, await options.natsUrlOf(name, nats.url));
    }
    const cluster = new LocalCluster(nats, options, urls);
    try {
      await unlessAborted(Promise.all(cluster.cores.map((core) => core.start())), options.signal);
      await unlessAborted(Promise.all(cluster.gateways.map((gateway) => gateway.start())), options.signal);
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

async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return await work;
  const aborted = new Promise<never>((_, reject) => {
    const giveUp = () => reject(signal.reason);
    if (signal.aborted) giveUp();
    else signal.addEventListener("abort", giveUp, { once: true });
  });
  return await Promise.race([work, aborted]);
}
