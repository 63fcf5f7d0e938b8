import { execFileSync, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

/** A file system of one's own needs user namespaces (no root); some machines and containers forbid them. */
export const canMountSmallDisk: boolean = spawnSync("unshare", ["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).status === 0;
// What a developer's machine may lack, CI may not skip.
if (!canMountSmallDisk && process.env["CI"] === "true") throw new Error("CI needs user namespaces for the tests of a full disk");

/**
 * Runs an ES module in a process of its own that has a file system of `mebibytes` at `folder/disk`. Gives what the module wrote
 * to its standard output.
 */
export function runOnSmallDisk(folder: string, mebibytes: number, source: string): string {
  const file = join(folder, "on-small-disk.mjs");
  writeFileSync(file, source);
  const script = `mkdir -p "$2/disk" && mount -t tmpfs -o size=${mebibytes}m tmpfs "$2/disk" && exec "$0" "$1"`;
  return execFileSync("unshare", ["-rm", "bash", "-c", script, process.execPath, file, folder], { encoding: "utf8" });
}
