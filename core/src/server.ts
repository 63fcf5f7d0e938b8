import { hostname } from "node:os";
import type { Clock } from "@tributary/common/clock";
import type { Config } from "@tributary/common/config";
import { createDataPlane } from "@tributary/common/http/data-plane";
import { assertPortFree, serveHttp } from "@tributary/common/http/serve";
import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import { CORE_METRICS, type CoreMetrics, createMetricsText } from "@tributary/common/metrics";
import type { PhaseListener } from "@tributary/common/phases";
import type { Bus } from "@tributary/common/ports/bus";
import type { Log } from "@tributary/common/ports/log";
import type { Random } from "@tributary/common/random";
import { createContainer } from "./container/create-container.ts";
import { generationOf } from "./container/generation.ts";
import { type Core, type CoreStatus, openCore } from "./core.ts";
import { openCorePorts } from "./ports.ts";
import { lakeProblem, readiness } from "./readiness.ts";

export interface CoreServerParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly phases: PhaseListener;
  /** Of the program. */
  readonly version: string;
  /** Given where gateway and core share a process; the core's own NATS connection otherwise. */
  readonly bus: Bus | undefined;
}

export interface CoreServer {
  readonly url: string;
  readonly core: Core;
  /** Takes nothing new, answers what was begun, flushes, and stops. */
  close(): Promise<void>;
}

/** Starts a core node with its HTTP face. @throws CONFIG_INVALID, DATA_DIR_LOCKED, PORT_IN_USE, NATS_UNSAFE, BUS_UNREACHABLE */
export async function startCoreServer(parts: CoreServerParts): Promise<CoreServer> {
  const { config, clock, random, logger, phases } = parts;
  const address = { host: config["core.http.host"], port: config["core.http.port"] };
  // Before it becomes a member: one that cannot serve, started again and again, would move containers to and fro.
  await assertPortFree(address);
  const ports = await openCorePorts(config, parts.bus, logger);
  const closers: (() => Promise<void>)[] = [() => ports.close()];
  const close = async () => {
    for (const closer of closers.splice(0).reverse()) await closer();
  };
  try {
    const logs = new Map<number, Log>();
    closers.push(async () => {
      await Promise.all([...logs.values()].map((log) => log.close()));
    });
    const core = await openCore({
      meta: ports.meta,
      bus: ports.bus,
      objects: ports.objects,
      clock,
      random,
      options: {
        cluster: config.cluster,
        name: config["core.name"] || hostname(),
        containers: config["core.containers"],
        shared: ports.shared
          ? {
              version: parts.version,
              leaseMs: config["core.leaseMs"],
              handoverMs: config["core.handoverMs"],
              drainMs: config["core.drainMs"],
            }
          : undefined,
      },
      logger,
      async containerFactory(id, epoch) {
        await logs.get(id)?.close();
        const log = await ports.openLog(id, generationOf(epoch));
        logs.set(id, log);
        return createContainer({
          id,
          epoch,
          log,
          objects: ports.objects,
          clock,
          random,
          phases,
          logger,
          options: { flushBytes: config["core.flushBytes"], flushIntervalMs: config["core.flushIntervalMs"] },
        });
      },
    });
    closers.push(() => core.close());
    const token = config["core.http.token"];
    const app = createDataPlane({
      streams: core.streams,
      clock,
      random,
      ...(token === "" ? {} : { bearerToken: token }),
      serverName: hostname(),
      side: "core",
      requestMsMax: LIMITS.httpRequestMsMax,
      ownerUrl: (name) => core.ownerUrl(name),
      ready: () => readiness(core.status()),
      status: () => core.status(),
      cluster: {
        describe: () => core.status(),
        raiseContainers: (count) => core.raiseContainers(count),
        setDraining: (draining) => core.setDraining(draining),
      },
      metricsText: createMetricsText(CORE_METRICS, () => coreMetrics(core.status())),
      reportError: (error) =>
        logger.error("defect in a request", { error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
    });
    const http = await serveHttp(app, { ...address, clock });
    closers.push(() => http.close());
    const url = `http://${http.host}:${http.port}`;
    const everywhere = http.host === "0.0.0.0" || http.host === "::";
    core.announce(config["core.url"] || (everywhere ? `http://${hostname()}:${http.port}` : url));
    return { url, core, close };
  } catch (error) {
    await close();
    throw error;
  }
}

function coreMetrics(status: CoreStatus): CoreMetrics {
  const sum = (read: (hosted: CoreStatus["containers"][number]) => number | undefined) =>
    status.containers.reduce((total, hosted) => total + (read(hosted) ?? 0), 0);
  return {
    tributary_core_events_durable: status.eventsDurable,
    tributary_core_events_tiered: status.eventsTiered,
    tributary_core_streams: status.streams,
    tributary_core_writers: status.writers,
    tributary_core_containers: sum((hosted) => (hosted.state === "elsewhere" ? 0 : 1)),
    tributary_core_containers_serving: sum((hosted) => (hosted.state === "serving" ? 1 : 0)),
    tributary_core_containers_log_failing: sum((hosted) => (hosted.status?.logProblem ? 1 : 0)),
    tributary_core_containers_log_full: sum((hosted) => (hosted.status?.logProblem === "STORAGE_FULL" ? 1 : 0)),
    tributary_core_containers_tier_failing: sum((hosted) => (lakeProblem(hosted) ? 1 : 0)),
    tributary_core_containers_tier_full: sum((hosted) => (lakeProblem(hosted) === "STORAGE_FULL" ? 1 : 0)),
    tributary_core_container_restarts: sum((hosted) => hosted.restarts),
    tributary_core_cluster_containers: status.containers.length,
    tributary_core_cluster_members: status.members.length,
    tributary_core_lease_held: status.member ? 1 : 0,
    tributary_core_leases_lost: status.leasesLost,
    tributary_core_draining: status.draining ? 1 : 0,
    tributary_core_memory_bytes: sum((hosted) => hosted.status?.bytesInMemory),
    tributary_core_generation: Math.max(0, ...status.containers.map((hosted) => hosted.status?.generation ?? 0)),
    tributary_core_streams_with_known_loss: sum((hosted) => hosted.status?.wentBack?.streamsWithKnownLoss),
    tributary_core_tiered_bytes: sum((hosted) => hosted.status?.bytesTiered),
  };
}
