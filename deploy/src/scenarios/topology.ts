import { join } from "node:path";
import { freePorts } from "@tributary/common/testing/free-ports";
import { type NatsServer, startNatsServer } from "@tributary/common/testing/nats-server";
import { applianceProcess, coreProcess, edgeProcess, NATS_MAX_PAYLOAD } from "./servers.ts";
import type { Victim } from "./victim.ts";

/** Servers of a scenario, and where clients find them. */
export interface Topology {
  readonly gatewayUrl: string;
  readonly coreUrl: string;
  readonly httpPort: number;
  readonly mqttPort: number;
  /** What may be killed. */
  readonly victims: readonly Victim[];
  /** Ends everything, politely first. */
  destroy(): Promise<void>;
}

/** So that a kill meets every phase of a flush soon. */
const FLUSH_OFTEN = ["--set", "core.flushIntervalMs=200"] as const;

interface TopologyOptions {
  readonly folder: string;
  readonly runtime: readonly string[];
}

/** Gateway and core in one process with the embedded engines. */
export async function embeddedTopology({ folder, runtime }: TopologyOptions): Promise<Topology> {
  const [httpPort, mqttPort, corePort] = (await freePorts(3)) as [number, number, number];
  const server = applianceProcess(folder, { httpPort, mqttPort, corePort }, { runtime, flags: FLUSH_OFTEN });
  await server.start();
  return {
    gatewayUrl: `http://127.0.0.1:${httpPort}`,
    coreUrl: `http://127.0.0.1:${corePort}`,
    httpPort,
    mqttPort,
    victims: [server],
    destroy: async () => void (await server.stop()),
  };
}

/** Gateway, core and nats-server as processes of their own. */
export async function natsTopology({ folder, runtime }: TopologyOptions): Promise<Topology> {
  const [httpPort, mqttPort, corePort] = (await freePorts(3)) as [number, number, number];
  const nats = await startNatsServer({ maxPayload: NATS_MAX_PAYLOAD, storeDir: join(folder, "nats") });
  const core = coreProcess(folder, corePort, nats, { flags: FLUSH_OFTEN });
  const edge = edgeProcess(folder, { httpPort, mqttPort }, { runtime, flags: ["--nats", nats.url] });
  await core.start();
  await edge.start();
  return {
    gatewayUrl: `http://127.0.0.1:${httpPort}`,
    coreUrl: `http://127.0.0.1:${corePort}`,
    httpPort,
    mqttPort,
    victims: [edge, core, natsVictim(nats)],
    async destroy() {
      await edge.stop();
      await core.stop();
      await nats.stop();
    },
  };
}

/** Kills of the nats-server interrupt the others' phases only from outside: they are not counted. */
function natsVictim(nats: NatsServer): Victim {
  let readyMs = 0;
  return {
    name: "nats-server",
    phases: [],
    get readyMs() {
      return readyMs;
    },
    async killAtBegin() {},
    async kill() {
      await nats.kill();
      return [];
    },
    async start() {
      const startedAt = performance.now();
      await nats.restart();
      readyMs = performance.now() - startedAt;
    },
  };
}
