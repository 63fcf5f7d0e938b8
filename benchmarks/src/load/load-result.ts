import type { LatencyHistogram, LatencySummary } from "./latency-histogram.ts";

/** One run of a load generator: the JSON line that it prints. Everything but `connectMs` is of the time measured, after the warm-up. */
export interface LoadResult {
  readonly kind: "mqtt" | "http" | "writer" | "jetstream";
  readonly connections: number;
  /** Most publishes or requests in flight on each connection. */
  readonly depth: number;
  readonly eventsPerRequest: number;
  /** Events a second asked for; 0 for as fast as the answers come. */
  readonly rateAsked: number;
  readonly seconds: number;
  readonly eventsAcked: number;
  readonly eventsAckedPerSecond: number;
  readonly payloadBytesPerEvent: number;
  /** From the moment an event was due to its acknowledgement. */
  readonly latencyMs: LatencySummary;
  /** Until all connections were accepted. */
  readonly connectMs: number;
  readonly reconnects: number;
  /** Requests answered with an error, by status; connections refused, by return code. */
  readonly refusals: Readonly<Record<string, number>>;
  /** Events that were due and not yet sent at the end, with a rate asked for. */
  readonly eventsLate: number;
  /** Share of one core that this generator used. */
  readonly cpuShare: number;
}

/** What both generators measure; starts when the warm-up is over. */
export class LoadMeter {
  readonly #histogram: LatencyHistogram;
  #startedMs = 0;
  #cpuAtStart: NodeJS.CpuUsage = process.cpuUsage();
  #acked = 0;
  #on = false;

  constructor(histogram: LatencyHistogram) {
    this.#histogram = histogram;
  }

  start(): void {
    this.#startedMs = performance.now();
    this.#cpuAtStart = process.cpuUsage();
    this.#on = true;
  }

  acked(events: number, latencyMs: number): void {
    if (!this.#on) return;
    this.#acked += events;
    this.#histogram.record(latencyMs);
  }

  stop(): Pick<LoadResult, "seconds" | "eventsAcked" | "eventsAckedPerSecond" | "latencyMs" | "cpuShare"> {
    this.#on = false;
    const seconds = (performance.now() - this.#startedMs) / 1000;
    const cpu = process.cpuUsage(this.#cpuAtStart);
    return {
      seconds: round(seconds, 2),
      eventsAcked: this.#acked,
      eventsAckedPerSecond: Math.round(this.#acked / seconds),
      latencyMs: this.#histogram.summary(),
      cpuShare: round((cpu.user + cpu.system) / 1e6 / seconds, 2),
    };
  }
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
