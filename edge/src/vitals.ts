import type { Clock } from "@tributary/common/clock";
import { toTributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import type { StreamName } from "@tributary/common/names";
import type { StreamService } from "@tributary/common/stream-service";

/** The built-in stream in which a gateway keeps what it measures of its own machine: one JSON object an interval, keyed by host name. */
export const VITALS_STREAM: StreamName = { scope: "gateway", stream: "vitals" };

/** One measurement. A part that cannot be measured here is left out. */
export interface VitalsSample {
  readonly cpu?: { readonly loadPercent: number };
  readonly memory?: { readonly totalBytes: number; readonly usedBytes: number; readonly availableBytes: number };
  readonly disks?: readonly { readonly mount: string; readonly totalBytes: number; readonly usedBytes: number }[];
  /** Bytes since the machine started. */
  readonly network?: readonly { readonly interface: string; readonly receivedBytes: number; readonly sentBytes: number }[];
  readonly temperatureCelsius?: number;
}

/** Measures each part by itself: one that fails, or has nothing to say on this machine, is undefined. */
export type VitalsProbes = { readonly [Part in keyof VitalsSample]-?: () => Promise<VitalsSample[Part]> };

export interface VitalsOptions {
  readonly streams: StreamService;
  readonly clock: Clock;
  readonly log: Logger;
  readonly probes: VitalsProbes;
  readonly hostName: string;
  readonly intervalMs: number;
}

/** Measures at intervals until it is closed. An interval that has not ended is never overtaken by the next. */
export function startVitals(options: VitalsOptions): { close(): Promise<void> } {
  const vitals = new Vitals(options);
  return { close: () => vitals.close() };
}

class Vitals {
  readonly #options: VitalsOptions;
  #cancelTimer: (() => void) | undefined;
  #appending: Promise<void> = Promise.resolve();
  #closed = false;
  #lastTrouble = "";

  constructor(options: VitalsOptions) {
    this.#options = options;
    void this.#beat();
  }

  /** Waits for an append that has begun, not for a measurement. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelTimer?.();
    await this.#appending;
  }

  async #beat(): Promise<void> {
    const { clock, probes, intervalMs } = this.#options;
    const begun = clock.monotonicMs();
    const timeMs = clock.nowMs();
    const sample = await measure(probes);
    if (this.#closed) return;
    this.#appending = this.#append(sample, timeMs);
    await this.#appending;
    if (this.#closed) return;
    this.#cancelTimer = clock.setTimer(Math.max(0, intervalMs - (clock.monotonicMs() - begun)), () => void this.#beat());
  }

  async #append(sample: VitalsSample, timeMs: number): Promise<void> {
    const { streams, hostName, log } = this.#options;
    const payload = new TextEncoder().encode(JSON.stringify(sample));
    try {
      await streams.create(VITALS_STREAM, { contentType: "application/json" });
      await streams.append(VITALS_STREAM, {
        events: { count: 1, payload, ends: [payload.length], keys: hostName, timesMs: timeMs },
        contentType: "application/json",
      });
      this.#lastTrouble = "";
    } catch (error) {
      // A gateway that cannot write now has louder ways to say so; the measurement is lost.
      const { code, message } = toTributaryError(error);
      if (code !== this.#lastTrouble) log.warn("vitals are not written", { code, reason: message });
      this.#lastTrouble = code;
    }
  }
}

async function measure(probes: VitalsProbes): Promise<VitalsSample> {
  const parts = await Promise.all(
    Object.entries(probes).map(async ([name, probe]) => {
      try {
        return [name, await probe()] as const;
      } catch {
        return [name, undefined] as const;
      }
    }),
  );
  return Object.fromEntries(parts.filter(([, value]) => value !== undefined));
}
