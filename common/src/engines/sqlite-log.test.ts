import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { logContract } from "../contracts/log.contract.ts";
import { loadSqlite } from "./sqlite-driver.ts";
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

test("space that truncation freed is filled again before the files grow", async () => {
  const log = await openSqliteLog(join(await newFolder(), "log.db"), { synchronous: "off" });
  const append = async (count: number) => {
    const { last } = await log.state();
    await Promise.all(Array.from({ length: count }, (_, i) => log.append(new Uint8Array(60_000), last + i)));
  };
  await append(100);
  const full = await log.state();
  for (let round = 0; round < 20; round++) {
    await log.truncate((await log.state()).last - 50);
    expect((await log.state()).bytesReusable).toBeGreaterThanOrEqual(50 * 60_000);
    await append(50);
  }
  // The write-ahead log comes on top, up to its limit.
  expect((await log.state()).bytes).toBeLessThan(full.bytes + 17_000_000);
  await log.close();
});

test("gives space back to the disk when most of a large log was freed", async () => {
  const log = await openSqliteLog(join(await newFolder(), "log.db"), { synchronous: "off" });
  const record = new Uint8Array(1_000_000);
  for (let last = 0; last < 150; last++) await log.append(record, last);
  const before = await log.state();
  expect(before.bytes).toBeGreaterThan(150_000_000);
  await log.truncate(140);
  const after = await log.state();
  expect(after.bytes).toBeLessThan(70_000_000);
  expect(after).toMatchObject({ first: 141, last: 150 });
  expect((await log.read(141, { recordsMax: 100, bytesMax: 100_000_000 })).map((one) => one.data.length)).toEqual(
    Array(10).fill(1_000_000),
  );
  await log.close();
});

test("refuses appends when too many wait, without appending them", async () => {
  const log = await openSqliteLog(join(await newFolder(), "log.db"), { synchronous: "off" });
  const results = await Promise.allSettled(Array.from({ length: 1100 }, (_, i) => log.append(new Uint8Array(10), i)));
  const refused = results.filter((result) => result.status === "rejected");
  expect(refused.length).toBeGreaterThan(0);
  for (const { reason } of refused) expect(reason).toMatchObject({ code: "OVERLOADED" });
  expect((await log.state()).last).toBe(1100 - refused.length);
  await log.close();
});

test("refuses a log that a newer version wrote", async () => {
  const path = join(await newFolder(), "log.db");
  await (await openSqliteLog(path)).close();
  const db = (await loadSqlite()).open(path, { mustExist: true });
  db.exec("PRAGMA user_version=99");
  db.close();
  await expect(openSqliteLog(path)).rejects.toMatchObject({ code: "FORMAT_UNSUPPORTED" });
  await expect(openWorkerLog(path, { quarantineDir: `${path}-quarantine` })).rejects.toMatchObject({ code: "FORMAT_UNSUPPORTED" });
});
