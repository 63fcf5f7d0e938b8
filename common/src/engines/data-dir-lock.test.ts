import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { lockDataDir } from "./data-dir-lock.ts";

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "tributary-lock-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

test("one holder at a time, within a process", async () => {
  const folder = join(await newFolder(), "data");
  const lock = await lockDataDir(folder);
  await expect(lockDataDir(folder)).rejects.toMatchObject({ code: "DATA_DIR_LOCKED", details: { path: folder } });
  lock.release();
  (await lockDataDir(folder)).release();
});

test("one holder at a time, between processes; a SIGKILL releases the lock", async () => {
  const folder = await newFolder();
  const child = spawn(process.execPath, ["--input-type=module", "-e", holderSource(folder)], { stdio: ["ignore", "pipe", "inherit"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  await once(child.stdout, "data");
  await expect(lockDataDir(folder)).rejects.toMatchObject({ code: "DATA_DIR_LOCKED" });
  child.kill("SIGKILL");
  await once(child, "exit");
  (await lockDataDir(folder)).release();
});

test("a lock file with foreign content is no reason not to start", async () => {
  const folder = await newFolder();
  await writeFile(join(folder, "lock.db"), "garbage ".repeat(2000));
  const lock = await lockDataDir(folder);
  await expect(lockDataDir(folder)).rejects.toMatchObject({ code: "DATA_DIR_LOCKED" });
  lock.release();
});

test("says that a folder cannot be used", async () => {
  const folder = await newFolder();
  await writeFile(join(folder, "file"), "x");
  for (const path of [join(folder, "file"), join(folder, "file", "below"), "/proc/tributary/edge"]) {
    await expect(lockDataDir(path)).rejects.toMatchObject({ code: "CONFIG_INVALID" });
  }
});

function holderSource(folder: string): string {
  return `import { lockDataDir } from ${JSON.stringify(new URL("./data-dir-lock.ts", import.meta.url).href)};
    await lockDataDir(${JSON.stringify(folder)}); console.log("locked"); setInterval(() => {}, 1000);`;
}
