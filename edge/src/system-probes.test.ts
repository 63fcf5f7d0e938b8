import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { describe, expect, onTestFinished, test } from "vitest";
import { parseMeminfo, parseMounts, parseNetDev, systemProbes } from "./system-probes.ts";

describe("system probes", () => {
  test("measure this machine without starting a program", async () => {
    let started = 0;
    const count = () => void started++;
    subscribe("child_process", count);
    onTestFinished(() => void unsubscribe("child_process", count));
    const [cpu, memory] = await Promise.all([
      systemProbes.cpu(),
      systemProbes.memory(),
      ...[systemProbes.disks, systemProbes.network, systemProbes.temperatureCelsius].map((probe) => probe().catch(() => undefined)),
    ]);
    expect(started).toBe(0);
    expect(cpu?.loadPercent).toBeGreaterThanOrEqual(0);
    expect(cpu?.loadPercent).toBeLessThanOrEqual(100);
    expect(memory?.totalBytes).toBeGreaterThan(memory?.availableBytes ?? Number.POSITIVE_INFINITY);
  });

  test("understand what Linux says", () => {
    expect(parseMeminfo("MemTotal:       2048 kB\nMemFree:          1 kB\nMemAvailable:   1024 kB\n")).toEqual({
      totalBytes: 2_097_152,
      availableBytes: 1_048_576,
    });
    expect(parseMeminfo("MemTotal: 2048 kB\n")).toBeUndefined();
    const mounts = [
      "proc /proc proc rw 0 0",
      "overlay / overlay rw 0 0",
      "/dev/sda1 /data\\040disk ext4 rw 0 0",
      "/dev/sda1 /etc/hosts ext4 rw 0 0",
      "/dev/loop0 /snap/x squashfs ro 0 0",
      "server:/x /nfs nfs rw 0 0",
      "",
    ];
    expect(parseMounts(mounts.join("\n"))).toEqual(["/", "/data disk"]);
    const net = "Inter-|   Receive   | Transmit\n face |bytes packets|bytes\n  eth0: 11 2 0 0 0 0 0 0 33 4 0 0 0 0 0 0\n";
    expect(parseNetDev(net)).toEqual([{ interface: "eth0", receivedBytes: 11, sentBytes: 33 }]);
  });
});
