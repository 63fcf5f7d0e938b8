import { systemClock } from "@tributary/common/clock";
import { createLogger } from "@tributary/common/logger";
import { systemRandom } from "@tributary/common/random";
import { createMqttCounters } from "@tributary/edge/mqtt/mqtt-counters";
import { createMqttListener, type MqttListener } from "@tributary/edge/mqtt/mqtt-listener";
import { FakeIngest } from "@tributary/edge/mqtt/testing/fake-ingest";
import { afterEach, describe, expect, it } from "vitest";
import { runMqttLoad } from "./mqtt-load.ts";

let listener: MqttListener | undefined;
afterEach(() => listener?.close());

async function start(ingest: FakeIngest): Promise<number> {
  listener = await createMqttListener({
    ingest,
    clock: systemClock,
    random: systemRandom,
    log: createLogger({ level: "error", clock: systemClock, write: () => {} }),
    counters: createMqttCounters(),
    options: { host: "127.0.0.1", port: 0, credentials: { username: "u", password: "p" } },
  });
  return listener.port;
}

const common = { host: "127.0.0.1", clientId: "device-{n}", username: "u", password: "p", warmupSeconds: 0, seconds: 0.6 } as const;

describe("runMqttLoad", () => {
  it.each([1, 2] as const)("with QoS %i has every event taken through failed commits, and tells which were", async (qos) => {
    const ingest = new FakeIngest();
    const port = await start(ingest);
    const acked = new Map<string, number[]>();
    let count = 0;
    const result = await runMqttLoad({
      ...common,
      port,
      connections: 3,
      depth: 4,
      qos,
      rate: 0,
      topic: "bench/s{n}",
      onAcked: (device, seq) => {
        acked.set(device, [...(acked.get(device) ?? []), seq]);
        count++;
        if (count % 10 === 0 && count <= 30) ingest.failures = 1;
      },
    });
    expect(result.reconnects).toBeGreaterThan(0);
    expect([...acked.keys()].sort()).toEqual(["device-0", "device-1", "device-2"]);
    for (const [device, seqs] of acked) {
      const taken = ingest.events.filter((event) => event.key === device).map((event) => JSON.parse(event.data).seq - 100_000_000);
      expect(new Set(taken)).toEqual(new Set(seqs));
      // QoS 1 may double what was sent again; QoS 2 may not.
      if (qos === 2) expect(taken).toHaveLength(seqs.length);
    }
    expect(ingest.events.every((event) => event.stream === `bench/s${event.key.slice(-1)}`)).toBe(true);
    expect(result.eventsAcked).toBeGreaterThan(0);
    expect(result.latencyMs.p50).toBeLessThanOrEqual(result.latencyMs.max);
  });

  it("holds a rate over its connections", async () => {
    const ingest = new FakeIngest();
    const port = await start(ingest);
    await runMqttLoad({ ...common, port, connections: 5, depth: 2, qos: 1, rate: 500, topic: "bench/all" });
    const counts = [0, 1, 2, 3, 4].map((n) => ingest.events.filter((event) => event.key === `device-${n}`).length);
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
    expect(ingest.events.length).toBeGreaterThan(0);
    expect(ingest.events.length).toBeLessThan(1000);
  });
});
