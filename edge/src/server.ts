import { hostname } from "node:os";
import { join } from "node:path";
import type { Clock } from "@tributary/common/clock";
import type { Config } from "@tributary/common/config";
import { checkNatsSettings, connectConfiguredNats } from "@tributary/common/engines/configured-nats";
import { lockDataDir } from "@tributary/common/engines/data-dir-lock";
import { createLateBus } from "@tributary/common/engines/late-bus";
import { NatsBus } from "@tributary/common/engines/nats-bus";
import type { NatsLink } from "@tributary/common/engines/nats-connection";
import { toTributaryError } from "@tributary/common/errors";
import { createDataPlane } from "@tributary/common/http/data-plane";
import { serveHttp } from "@tributary/common/http/serve";
import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import { createMetricsText, GATEWAY_METRICS, type GatewayMetrics } from "@tributary/common/metrics";
import type { PhaseListener } from "@tributary/common/phases";
import type { Bus } from "@tributary/common/ports/bus";
import type { Random } from "@tributary/common/random";
import { type Gateway, type GatewayStatus, openGateway } from "./gateway/gateway.ts";
import { createMqttCounters, type MqttCounters } from "./mqtt/mqtt-counters.ts";
import { createMqttListener } from "./mqtt/mqtt-listener.ts";
import { createWorkerEdgeStore } from "./store/worker-edge-store.ts";
import { systemProbes } from "./system-probes.ts";
import { startVitals } from "./vitals.ts";

export interface GatewayServerParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly phases: PhaseListener;
  readonly version: string;
  /** Given where gateway and core share a process; over NATS, or none at all without `nats.url`, otherwise. */
  readonly bus: Bus | undefined;
}

export interface GatewayServer {
  readonly httpUrl: string;
  readonly mqttUrl: string;
  readonly gateway: Gateway;
  /** Takes nothing new, makes durable and answers what was taken, and stops. */
  close(): Promise<void>;
}

const NATS_RETRY_MS = 1_000;
/** What the core says has been stopped cleanly must not wait for a NATS server that is away. */
const NATS_START_MS = 10_000;

/** Starts a gateway with its faces; it serves whether or not the core can be reached. @throws CONFIG_INVALID, DATA_DIR_LOCKED, PORT_IN_USE, STORAGE_FULL */
export async function startGatewayServer(parts: GatewayServerParts): Promise<GatewayServer> {
  const { config, clock, random, logger, phases, version } = parts;
  const closers: (() => Promise<void>)[] = [];
  const close = async () => {
    for (const closer of closers.splice(0).reverse()) await closer();
  };
  try {
    const folder = join(config.data, "edge");
    const lock = await lockDataDir(folder);
    closers.push(async () => lock.release());
    if (config["edge.sync"] === "off") {
      logger.warn("edge.sync is 'off': acknowledged events are NOT on disk yet, and a power cut loses them");
    }
    const bus = parts.bus ?? (config["nats.url"] === "" ? undefined : natsBus(parts, closers));
    const store = createWorkerEdgeStore({
      path: join(folder, "log.db"),
      quarantineDir: join(folder, "quarantine"),
      synchronous: config["edge.sync"] === "off" ? "off" : "full",
    });
    const gateway = await openGateway({
      store,
      bus,
      cluster: config.cluster,
      clock,
      random,
      log: logger,
      phases,
      options: {
        name: config["edge.name"] || hostname(),
        version,
        quota: {
          diskBytesMax: config["edge.diskBytesMax"],
          whenFull: config["edge.diskPolicy"] === "drop-oldest" ? "drop-oldest" : "reject",
        },
        lingerMsMax: config["edge.lingerMsMax"],
        streamsMax: LIMITS.gatewayStreamsMax,
        uplink: { freeAt: config["edge.freeAt"] === "committed" ? "committed" : "tiered" },
      },
    });
    closers.push(() => gateway.close());

    const counters = createMqttCounters();
    const [user, password] = [config["edge.mqtt.user"], config["edge.mqtt.password"]];
    const mqtt = await createMqttListener({
      ingest: gateway.ingest,
      clock,
      random,
      log: logger,
      counters,
      options: {
        host: config["edge.mqtt.host"],
        port: config["edge.mqtt.port"],
        credentials: user === "" ? undefined : { username: user, password },
      },
    });
    closers.push(() => mqtt.close());
    const token = config["edge.http.token"];
    const app = createDataPlane({
      streams: gateway.streams,
      clock,
      random,
      ...(token === "" ? {} : { bearerToken: token }),
      serverName: config["edge.name"] || hostname(),
      side: "gateway",
      ready: () => {
        const { trouble } = gateway.status();
        return trouble === "" ? { ready: true } : { ready: false, detail: trouble };
      },
      status: () => ({ ...gateway.status(), mqtt: counters }),
      metricsText: createMetricsText(GATEWAY_METRICS, () => gatewayMetrics(gateway.status(), counters)),
      reportError: (error) =>
        logger.error("defect in a request", { error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
    });
    const http = await serveHttp(app, { host: config["edge.http.host"], port: config["edge.http.port"], clock });
    closers.push(() => http.close());
    if (config["edge.vitalsIntervalMs"] > 0) {
      const vitals = startVitals({
        streams: gateway.streams,
        clock,
        log: logger,
        probes: systemProbes,
        hostName: config["edge.name"] || hostname(),
        intervalMs: config["edge.vitalsIntervalMs"],
      });
      closers.push(() => vitals.close());
    }
    return { httpUrl: `http://${http.host}:${http.port}`, mqttUrl: `mqtt://${config["edge.mqtt.host"]}:${mqtt.port}`, gateway, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A bus that comes when the NATS server does. */
function natsBus({ config, clock, logger }: GatewayServerParts, closers: (() => Promise<void>)[]): Bus {
  checkNatsSettings(config);
  let link: NatsLink | undefined;
  let lastProblem = "";
  const bus = createLateBus({
    clock,
    retryMs: NATS_RETRY_MS,
    async connect(signal) {
      link = await connectConfiguredNats(config, { name: "tributary-gateway", logger, startTimeoutMs: NATS_START_MS, signal });
      return new NatsBus(link);
    },
    onFailure(error) {
      const { code, message, hint } = toTributaryError(error);
      if (message !== lastProblem)
        logger.warn("no connection to the core yet; events are kept here until there is", { code, reason: message, hint });
      lastProblem = message;
    },
  });
  closers.push(async () => {
    await bus.close();
    await link?.close();
  });
  return bus;
}

function gatewayMetrics(status: GatewayStatus, mqtt: MqttCounters): GatewayMetrics {
  const { counters, usage, uplink } = status;
  const refused = Object.entries(mqtt.closed).filter(([reason]) => !["disconnect", "connection-lost", "stopping"].includes(reason));
  return {
    tributary_gateway_events_accepted_total: counters.eventsAccepted,
    tributary_gateway_events_durable_total: counters.eventsDurable,
    tributary_gateway_events_failed_total: counters.eventsFailed,
    tributary_gateway_events_dropped_total: status.eventsDropped,
    tributary_gateway_payload_bytes_total: counters.payloadBytesDurable,
    tributary_gateway_stored_bytes_total: counters.storedBytes,
    tributary_gateway_commits_total: counters.commits,
    tributary_gateway_commit_failures_total: counters.commitFailures,
    tributary_gateway_events_held: usage.eventsHeld,
    tributary_gateway_events_unsent: usage.eventsUnsent,
    tributary_gateway_disk_bytes: usage.diskBytes,
    tributary_gateway_disk_bytes_max: status.diskBytesMax,
    tributary_gateway_over_quota: status.overQuota ? 1 : 0,
    tributary_gateway_streams: status.streams,
    tributary_gateway_records_quarantined: status.recovery.recordsQuarantined,
    tributary_gateway_uplink_connected: uplink?.state === "sending" ? 1 : 0,
    tributary_gateway_uplink_blocks_sent_total: uplink?.counters.blocksSent ?? 0,
    tributary_gateway_uplink_bytes_sent_total: uplink?.counters.bytesSent ?? 0,
    tributary_gateway_uplink_events_freed_total: uplink?.counters.eventsFreed ?? 0,
    tributary_gateway_uplink_rewinds_total: uplink?.counters.rewinds ?? 0,
    tributary_gateway_uplink_answers_invalid_total: uplink?.counters.answersInvalid ?? 0,
    tributary_gateway_mqtt_connections: mqtt.connectionsOpen,
    tributary_gateway_mqtt_publishes_total: mqtt.publishes[0] + mqtt.publishes[1] + mqtt.publishes[2],
    tributary_gateway_mqtt_acknowledged_total: mqtt.acknowledged,
    tributary_gateway_mqtt_duplicates_total: mqtt.duplicates,
    tributary_gateway_mqtt_refused_total: refused.reduce((sum, [, count]) => sum + (count ?? 0), 0),
  };
}
