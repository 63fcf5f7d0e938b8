import { closeSync, fdatasyncSync, openSync, readFileSync, unlinkSync, writeSync } from "node:fs";
import { join } from "node:path";

const FSYNC_MS = 2_000;

/** Appends with fdatasync a second, one after another: what one thread gets out of the disk below the folder. */
export async function fsyncRate(folder: string, bytes: number): Promise<number> {
  const path = join(folder, "fsync-probe");
  const file = openSync(path, "w");
  const data = Buffer.alloc(bytes, 7);
  let count = 0;
  const startedAt = performance.now();
  while (performance.now() - startedAt < FSYNC_MS) {
    writeSync(file, data);
    fdatasyncSync(file);
    count++;
  }
  const rate = Math.round((count * 1_000) / (performance.now() - startedAt));
  closeSync(file);
  unlinkSync(path);
  return rate;
}

/** Bytes that the process has caused to be written to disks. */
export function writtenBytes(pid: number): number {
  return Number(/^write_bytes: (\d+)/m.exec(readFileSync(`/proc/${pid}/io`, "utf8"))?.[1] ?? 0);
}

export function residentMiB(pid: number): number {
  return Math.round(Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) / 1_024);
}

/** The metrics of a server that have no labels. */
export async function readMetrics(httpPort: number): Promise<Map<string, number>> {
  const text = await (await fetch(`http://127.0.0.1:${httpPort}/metrics`)).text();
  const metrics = new Map<string, number>();
  for (const line of text.split("\n")) {
    const match = /^(\w+) ([-\d.e+]+)$/.exec(line);
    if (match) metrics.set(match[1] as string, Number(match[2]));
  }
  return metrics;
}
