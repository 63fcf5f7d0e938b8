import { Counter, collectDefaultMetrics, Gauge, Registry } from "prom-client";

interface MetricRow {
  readonly kind: "counter" | "gauge";
  readonly help: string;
}

/** Every metric that a gateway exports at /metrics, beside those of its process. Counters count since the start of the process. */
export const GATEWAY_METRICS = {
  tributary_gateway_events_accepted_total: { kind: "counter", help: "Events taken into a batch." },
  tributary_gateway_events_durable_total: { kind: "counter", help: "Events whose commit is on disk." },
  tributary_gateway_events_failed_total: { kind: "counter", help: "Events of commits that failed; none was acknowledged." },
  tributary_gateway_events_dropped_total: { kind: "counter", help: "Events dropped by the disk quota; each is covered by a gap record." },
  tributary_gateway_payload_bytes_total: { kind: "counter", help: "Payload bytes made durable." },
  tributary_gateway_stored_bytes_total: { kind: "counter", help: "Bytes of log records written, compressed." },
  tributary_gateway_commits_total: { kind: "counter", help: "Group commits." },
  tributary_gateway_commit_failures_total: { kind: "counter", help: "Group commits that failed." },
  tributary_gateway_events_held: { kind: "gauge", help: "Events durable here and not yet freed." },
  tributary_gateway_events_unsent: { kind: "gauge", help: "Events durable here and not yet handed to the uplink." },
  tributary_gateway_disk_bytes: { kind: "gauge", help: "Bytes that the edge log takes on its disk." },
  tributary_gateway_disk_bytes_max: { kind: "gauge", help: "The disk quota." },
  tributary_gateway_over_quota: { kind: "gauge", help: "1 while events are refused because of the disk quota." },
  tributary_gateway_streams: { kind: "gauge", help: "Streams known to the gateway." },
  tributary_gateway_records_quarantined: { kind: "gauge", help: "Log records put aside as damaged at the last start." },
  tributary_gateway_uplink_connected: { kind: "gauge", help: "1 while the uplink is sending." },
  tributary_gateway_uplink_blocks_sent_total: { kind: "counter", help: "Blocks sent to the core, repetitions included." },
  tributary_gateway_uplink_bytes_sent_total: { kind: "counter", help: "Bytes of blocks sent to the core, repetitions included." },
  tributary_gateway_uplink_events_freed_total: { kind: "counter", help: "Events confirmed at the level asked for, and freed." },
  tributary_gateway_uplink_rewinds_total: { kind: "counter", help: "Times that sending began again from the oldest unconfirmed event." },
  tributary_gateway_uplink_answers_invalid_total: {
    kind: "counter",
    help: "Answers of the core that could not be understood; nothing counts as sent or safe by them.",
  },
  tributary_gateway_mqtt_connections: { kind: "gauge", help: "Open MQTT connections." },
  tributary_gateway_mqtt_publishes_total: { kind: "counter", help: "MQTT publishes taken." },
  tributary_gateway_mqtt_acknowledged_total: { kind: "counter", help: "MQTT publishes answered with PUBACK or PUBREC." },
  tributary_gateway_mqtt_duplicates_total: { kind: "counter", help: "QoS 2 publishes that repeated a packet id." },
  tributary_gateway_mqtt_refused_total: { kind: "counter", help: "MQTT connections closed for what the client did or asked." },
} as const;

/** Every metric that a core exports at /metrics, beside those of its process. */
export const CORE_METRICS = {
  tributary_core_events_durable: { kind: "gauge", help: "Events durable in the containers served here." },
  tributary_core_events_tiered: { kind: "gauge", help: "Events verified in the lake, of the containers served here." },
  tributary_core_streams: { kind: "gauge", help: "Streams." },
  tributary_core_writers: { kind: "gauge", help: "Writers that said hello since the start." },
  tributary_core_containers: { kind: "gauge", help: "Containers hosted here." },
  tributary_core_containers_serving: { kind: "gauge", help: "Containers being served here." },
  tributary_core_containers_log_failing: {
    kind: "gauge",
    help: "Containers served here whose write-ahead log refused or failed last, and took nothing since.",
  },
  tributary_core_containers_log_full: {
    kind: "gauge",
    help: "Those of them whose log had no space: free space for JetStream, or raise its limit.",
  },
  tributary_core_containers_tier_failing: {
    kind: "gauge",
    help: "Containers served here of which the lake refused an object last, or gave no answer, and took nothing since.",
  },
  tributary_core_containers_tier_full: { kind: "gauge", help: "Those of them for which the lake had no space: free some." },
  tributary_core_container_restarts: { kind: "gauge", help: "Times that a container was opened again after a failure." },
  tributary_core_cluster_containers: { kind: "gauge", help: "Containers of the cluster." },
  tributary_core_cluster_members: { kind: "gauge", help: "Nodes of the cluster that this one takes for alive, itself included." },
  tributary_core_lease_held: { kind: "gauge", help: "1 while this node holds its lease; without it, it serves nothing." },
  tributary_core_leases_lost: { kind: "gauge", help: "Times that this node was declared dead by others since its start." },
  tributary_core_draining: { kind: "gauge", help: "1 while this node gives its containers away." },
  tributary_core_memory_bytes: { kind: "gauge", help: "Bytes of blocks in memory that wait for the lake." },
  tributary_core_generation: { kind: "gauge", help: "Highest generation of the containers served here; above 0 once a log went back." },
  tributary_core_streams_with_known_loss: {
    kind: "gauge",
    help: "Streams of the containers served here that are known to have lost events when their generation began.",
  },
  tributary_core_tiered_bytes: { kind: "gauge", help: "Bytes of objects written to the lake." },
} as const;

export type GatewayMetrics = Readonly<Record<keyof typeof GATEWAY_METRICS, number>>;
export type CoreMetrics = Readonly<Record<keyof typeof CORE_METRICS, number>>;

/** Prometheus text of one registry: `source` is asked once for each scrape. */
export function createMetricsText<Names extends string>(
  rows: Readonly<Record<Names, MetricRow>>,
  source: () => Readonly<Record<Names, number>>,
): () => Promise<string> {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const set: ((values: Readonly<Record<Names, number>>) => void)[] = [];
  for (const [name, { kind, help }] of Object.entries(rows) as [Names, MetricRow][]) {
    if (kind === "gauge") {
      const gauge = new Gauge({ name, help, registers: [registry] });
      set.push((values) => gauge.set(values[name]));
    } else {
      const counter = new Counter({ name, help, registers: [registry] });
      set.push((values) => {
        counter.reset();
        counter.inc(values[name]);
      });
    }
  }
  return () => {
    const values = source();
    for (const each of set) each(values);
    return registry.metrics();
  };
}
