import type { Hono } from "hono";
import { systemClock } from "../../clock.ts";
import { systemRandom } from "../../random.ts";
import { MemoryStreamService } from "../../testing/memory-stream-service.ts";
import { createDataPlane, type DataPlaneEnv, type DataPlaneOptions } from "../data-plane.ts";

export interface MemoryPlane {
  readonly app: Hono<DataPlaneEnv>;
  readonly streams: MemoryStreamService;
  /** Asks without a socket. */
  ask(method: string, path: string, headers?: Record<string, string>, body?: string | Uint8Array, closing?: AbortSignal): Promise<Response>;
}

/** A data plane over streams in memory. */
export function memoryPlane(options: Partial<DataPlaneOptions> = {}): MemoryPlane {
  const clock = options.clock ?? systemClock;
  const streams = new MemoryStreamService(clock, systemRandom);
  const app = createDataPlane({ streams, random: systemRandom, serverName: "test", side: "core", ...options, clock });
  return {
    app,
    streams,
    async ask(method, path, headers = {}, body, closing) {
      const init = { method, headers, ...(body !== undefined && { body: body as BodyInit }) };
      return app.request(`http://test${path}`, init, closing ? { closing } : {});
    },
  };
}

export interface EnvelopeLine {
  readonly kind: string;
  readonly key: string;
  readonly time: number;
  readonly segment: string;
  readonly ordinal: number;
  readonly number: number;
  readonly data?: string;
  readonly base64?: string;
  readonly first?: number;
  readonly count?: number;
  readonly reason?: string;
}

export function envelopeLines(text: string): EnvelopeLine[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as EnvelopeLine);
}

export function bytesOf(line: EnvelopeLine): Buffer {
  return line.base64 === undefined ? Buffer.from(line.data ?? "") : Buffer.from(line.base64, "base64");
}
