import { TributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import type { AppendRequest, StreamService } from "@tributary/common/stream-service";
import { ManualClock } from "@tributary/common/testing/manual-clock";
import { describe, expect, test } from "vitest";
import { startVitals, type VitalsProbes } from "./vitals.ts";

const settle = () => new Promise<void>((resolve) => setImmediate(resolve));
const probes: VitalsProbes = {
  cpu: async () => ({ loadPercent: 12.5 }),
  memory: async () => ({ totalBytes: 3, usedBytes: 2, availableBytes: 1 }),
  disks: async () => Promise.reject(new Error("no such command")),
  network: async () => [],
  temperatureCelsius: async () => undefined,
};

function start(changes: { probes?: VitalsProbes; failing?: () => boolean } = {}) {
  const clock = new ManualClock();
  const appended: AppendRequest[] = [];
  const warnings: string[] = [];
  const streams = {
    create: async () => ({ created: true }),
    append: async (_: unknown, request: AppendRequest) => {
      if (changes.failing?.()) throw new TributaryError("STORAGE_FULL", "no space left");
      appended.push(request);
    },
  } as unknown as StreamService;
  const log: Logger = { debug: () => {}, info: () => {}, warn: (message) => warnings.push(message), error: () => {} };
  const vitals = startVitals({ streams, clock, log, probes: changes.probes ?? probes, hostName: "host-1", intervalMs: 1_000 });
  return { clock, appended, warnings, vitals };
}

describe("vitals", () => {
  test("writes one JSON object an interval, without what cannot be measured", async () => {
    const { clock, appended, vitals } = start();
    await settle();
    expect(appended).toHaveLength(1);
    const [first] = appended;
    expect(first).toMatchObject({ contentType: "application/json", events: { count: 1, keys: "host-1", timesMs: clock.nowMs() } });
    expect(JSON.parse(new TextDecoder().decode(first?.events?.payload))).toEqual({
      cpu: { loadPercent: 12.5 },
      memory: { totalBytes: 3, usedBytes: 2, availableBytes: 1 },
      network: [],
    });
    clock.advance(999);
    await settle();
    expect(appended).toHaveLength(1);
    clock.advance(1);
    await settle();
    expect(appended).toHaveLength(2);
    await vitals.close();
    expect(clock.timers).toBe(0);
  });

  test("stops while a measurement hangs", async () => {
    const { appended, vitals } = start({ probes: { ...probes, cpu: () => new Promise(() => {}) } });
    await settle();
    await vitals.close();
    expect(appended).toEqual([]);
  });

  test("goes on after appends failed, and says so once", async () => {
    let failing = true;
    const { clock, appended, warnings, vitals } = start({ failing: () => failing });
    for (let i = 0; i < 3; i++) {
      await settle();
      clock.advance(1_000);
    }
    await settle();
    expect(warnings).toHaveLength(1);
    failing = false;
    clock.advance(1_000);
    await settle();
    expect(appended).toHaveLength(1);
    await vitals.close();
  });
});
