import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach } from "vitest";
import { logContract } from "../contracts/log.contract.ts";
import { openSqliteLog } from "./sqlite-log.ts";
import { openWorkerLog } from "./worker-log.ts";

const folders: string[] = [];
async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "tributary-log-"));
  folders.push(folder);
  return folder;
}
afterEach(async () => {
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true });
});

logContract("SQLite", async () => {
  const folder = await newFolder();
  return { open: () => openSqliteLog(join(folder, "log.db")), close: async () => {} };
});

logContract("SQLite in a worker thread", async () => {
  const folder = await newFolder();
  return {
    open: async () => (await openWorkerLog(join(folder, "log.db"), { quarantineDir: join(folder, "quarantine") })).log,
    close: async () => {},
  };
});
