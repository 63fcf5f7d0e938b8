import { readdir, readFile, statfs } from "node:fs/promises";
import { cpus, freemem, totalmem } from "node:os";
import type { VitalsProbes, VitalsSample } from "./vitals.ts";

/** Mounts, interfaces and temperature zones that one sample looks at. */
const LISTED_MAX = 16;

/**
 * Measures this machine by reading files of /proc and /sys, never by starting other programs: packages that do hold up the event
 * loop, and with it every acknowledgement, for 100 ms and more in each second. What another system does not tell is left out.
 */
export const systemProbes: VitalsProbes = {
  cpu: cpuProbe(),
  async memory() {
    const told = process.platform === "linux" ? parseMeminfo(await readFile("/proc/meminfo", "utf8")) : undefined;
    const { totalBytes, availableBytes } = told ?? { totalBytes: totalmem(), availableBytes: freemem() };
    return { totalBytes, usedBytes: totalBytes - availableBytes, availableBytes };
  },
  async disks() {
    const mounts = process.platform === "linux" ? parseMounts(await readFile("/proc/mounts", "utf8")) : ["/"];
    const measured = await Promise.allSettled(mounts.slice(0, LISTED_MAX).map(measureDisk));
    return measured.flatMap((disk) => (disk.status === "fulfilled" && disk.value.totalBytes > 0 ? [disk.value] : []));
  },
  network: async () => parseNetDev(await readFile("/proc/net/dev", "utf8")).slice(0, LISTED_MAX),
  async temperatureCelsius() {
    const folder = "/sys/class/thermal";
    const zones = (await readdir(folder)).filter((name) => name.startsWith("thermal_zone")).slice(0, LISTED_MAX);
    const read = zones.map((zone) => readFile(`${folder}/${zone}/temp`, "utf8").then(Number, () => Number.NaN));
    const known = (await Promise.all(read)).filter((millidegrees) => millidegrees > 0);
    return known.length > 0 ? round(Math.max(...known) / 1000) : undefined;
  },
};

/** Load since the call before; at first, since the machine started. */
function cpuProbe(): VitalsProbes["cpu"] {
  let before = { busy: 0, all: 0 };
  return async () => {
    const now = { busy: 0, all: 0 };
    for (const { times } of cpus()) {
      const all = times.user + times.nice + times.sys + times.idle + times.irq;
      now.all += all;
      now.busy += all - times.idle;
    }
    const share = now.all > before.all ? (now.busy - before.busy) / (now.all - before.all) : 0;
    before = now;
    return { loadPercent: round(100 * share) };
  };
}

async function measureDisk(mount: string): Promise<NonNullable<VitalsSample["disks"]>[number]> {
  const { bsize, blocks, bfree } = await statfs(mount);
  return { mount, totalBytes: blocks * bsize, usedBytes: (blocks - bfree) * bsize };
}

/** undefined where it does not say. */
export function parseMeminfo(text: string): { totalBytes: number; availableBytes: number } | undefined {
  const kibibytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(text)?.[1] ?? Number.NaN);
  const [total, available] = [kibibytes("MemTotal"), kibibytes("MemAvailable")];
  return Number.isNaN(total + available) ? undefined : { totalBytes: total * 1024, availableBytes: available * 1024 };
}

/** Mount points of disks, each disk once: nothing that may be at the other end of a network and hang. */
export function parseMounts(text: string): string[] {
  const byDevice = new Map<string, string>();
  for (const line of text.split("\n")) {
    const [device, escaped] = line.split(" ");
    if (device === undefined || escaped === undefined || byDevice.has(device)) continue;
    const mount = escaped.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
    if (mount === "/" || (device.startsWith("/dev/") && !device.startsWith("/dev/loop"))) byDevice.set(device, mount);
  }
  return [...byDevice.values()];
}

export function parseNetDev(text: string): { interface: string; receivedBytes: number; sentBytes: number }[] {
  return text.split("\n").flatMap((line) => {
    const [name, counters] = line.split(":");
    const numbers = counters?.trim().split(/\s+/).map(Number);
    const [receivedBytes, sentBytes] = [numbers?.[0], numbers?.[8]];
    if (name === undefined || receivedBytes === undefined || sentBytes === undefined) return [];
    return [{ interface: name.trim(), receivedBytes, sentBytes }];
  });
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
