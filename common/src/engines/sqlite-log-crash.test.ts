import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { systemClock } from "../clock.ts";
import { canMountSmallDisk, runOnSmallDisk } from "../testing/small-disk.ts";
import { openSqliteLog } from "./sqlite-log.ts";
import { openSqliteLogSalvaging } from "./sqlite-salvage.ts";

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "tributary-crash-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

const here = (file: string): string => JSON.stringify(new URL(file, import.meta.url).href);

/**
 * A writer with four appends in flight. Each record holds its sequence and as many bytes of it as it is long. The output has a line
 * for each acknowledgement, and one for each truncation that was asked for.
 */
function writerSource(open: string): string {
  return `import { openSqliteLog } from ${here("./sqlite-log.ts")};
    import { openWorkerLog } from ${here("./worker-log.ts")};
    import { writeSync } from "node:fs";
    const log = ${open};
    let { last } = await log.state();
    const append = async () => {
      for (;;) {
        const seq = ++last;
        const data = new Uint8Array(20 + (seq * 7919) % 30000).fill(seq & 0xff);
        await log.append(data, seq - 1);
        writeSync(1, "a" + seq + "\\n");
        if (seq % 50 === 0) { writeSync(1, "t" + (seq - 30) + "\\n"); await log.truncate(seq - 30); }
      }
    };
    await Promise.all([append(), append(), append(), append()]);`;
}

function run(path: string, source: string): { child: ChildProcess; lines: () => string[] } {
  writeFileSync(`${path}.mjs`, source);
  const child = spawn(process.execPath, [`${path}.mjs`], { stdio: ["ignore", "pipe", "inherit"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  let output = "";
  child.stdout?.on("data", (bytes: Buffer) => {
    output += bytes.toString();
  });
  // The last line may have been cut by the kill.
  return { child, lines: () => output.split("\n").slice(0, -1) };
}

test.each([
  ["directly", (path: string) => `await openSqliteLog(${JSON.stringify(path)})`],
  [
    "in a worker thread",
    (path: string) => `(await openWorkerLog(${JSON.stringify(path)}, { quarantineDir: ${JSON.stringify(`${path}-quarantine`)} })).log`,
  ],
])("keeps what it acknowledged when it is killed at any moment, %s", async (_, open) => {
  const path = join(await newFolder(), "log.db");
  let acknowledged = 0;
  let truncated = 0;
  for (let round = 0; round < 6; round++) {
    const { child, lines } = run(path, writerSource(open(path)));
    const exited = once(child, "exit");
    const enough = 20 + Math.floor(Math.random() * 150);
    child.stdout?.on("data", () => {
      if (lines().length >= enough) child.kill("SIGKILL");
    });
    expect(await exited).toEqual([null, "SIGKILL"]);
    for (const line of lines()) {
      const seq = Number(line.slice(1));
      if (line.startsWith("a")) acknowledged = Math.max(acknowledged, seq);
      else truncated = Math.max(truncated, seq);
    }
    const { log, report } = await openSqliteLogSalvaging(path, { quarantineDir: `${path}-quarantine`, clock: systemClock });
    expect(report.quarantinePath).toBe("");
    const { first, last } = await log.state();
    expect(last).toBeGreaterThanOrEqual(acknowledged);
    expect(first).toBeLessThanOrEqual(truncated + 1);
    let next = first;
    for (let page = await log.read(next, PAGE); page.length > 0; page = await log.read(next, PAGE)) {
      for (const { seq, data } of page) {
        expect(seq).toBe(next++);
        expect(data.length).toBe(20 + ((seq * 7919) % 30000));
        expect(data.every((byte) => byte === (seq & 0xff))).toBe(true);
      }
    }
    expect(next).toBe(last + 1);
    await log.close();
  }
});

const PAGE = { recordsMax: 500, bytesMax: 4_000_000 };

test("a second process cannot open a log that is in use; a kill frees it", async () => {
  const path = join(await newFolder(), "log.db");
  const { child, lines } = run(path, writerSource(`await openSqliteLog(${JSON.stringify(path)})`));
  await new Promise<void>((resolve) => child.stdout?.on("data", () => lines().length > 3 && resolve()));
  await expect(openSqliteLog(path)).rejects.toMatchObject({ code: "DATA_DIR_LOCKED" });
  const exited = once(child, "exit");
  child.kill("SIGKILL");
  await exited;
  await (await openSqliteLog(path)).close();
});

test("a file that may not grow: the failed append is reported, nothing acknowledged is lost, a reopen goes on", async () => {
  const path = join(await newFolder(), "log.db");
  const source = `import { openSqliteLog } from ${here("./sqlite-log.ts")};
    process.on("SIGXFSZ", () => {});
    const log = await openSqliteLog(${JSON.stringify(path)});
    let last = 0;
    const codes = [];
    while (codes.length < 3) {
      try { last = await log.append(new Uint8Array(100_000).fill(last + 1), last); } catch (error) { codes.push(error.code); }
    }
    console.log(JSON.stringify({ last, codes, state: await log.state() }));
    await log.close();`;
  const file = `${path}.mjs`;
  writeFileSync(file, source);
  // Blocks of 1 KiB: no file of the process grows past 3 MB.
  const { stdout, stderr } = spawnSync("bash", ["-c", `ulimit -f 3000; exec "$0" "$1"`, process.execPath, file], { encoding: "utf8" });
  expect(stderr).toBe("");
  const { last, codes } = JSON.parse(stdout);
  expect(last).toBeGreaterThan(5);
  expect(codes).toEqual(["LOG_RESULT_UNKNOWN", "LOG_CLOSED", "LOG_CLOSED"]);
  const log = await openSqliteLog(path);
  expect((await log.state()).last).toBe(last);
  expect(await log.append(new Uint8Array(100_000), last)).toBe(last + 1);
  await log.close();
});

test.skipIf(!canMountSmallDisk)("a full disk refuses appends, loses nothing, and can always be freed by truncation", async () => {
  const folder = await newFolder();
  const source = `import { openSqliteLog } from ${here("./sqlite-log.ts")};
    const path = ${JSON.stringify(join(folder, "disk", "log.db"))};
    let log = await openSqliteLog(path);
    const size = 200_000;
    const fill = async () => {
      for (;;) {
        const { last } = await log.state();
        try { await log.append(new Uint8Array(size).fill(last + 1), last); } catch (error) { return { code: error.code, last: (await log.state()).last, was: last }; }
      }
    };
    const rounds = [];
    for (let round = 0; round < 4; round++) {
      const full = await fill();
      const group = await Promise.allSettled([0, 1, 2].map((i) => log.append(new Uint8Array(size), full.last + i)));
      if (round % 2 === 1) { await log.close(); log = await openSqliteLog(path); }
      const { first, last, bytes } = await log.state();
      let intact = 0;
      for (let seq = first; seq <= last; seq++) {
        const [record] = await log.read(seq, { recordsMax: 1, bytesMax: 1 });
        if (record.seq === seq && record.data.length === size && record.data.every((byte) => byte === (seq & 0xff))) intact++;
      }
      // Freed from the end, too: space is given back although most of the log stays.
      await log.truncate(first + Math.floor((last - first) / 2));
      rounds.push({ ...full, group: group.map((one) => one.reason?.code), first, end: last, bytes, intact });
    }
    const freed = await fill();
    rounds.push({ ...freed, end: freed.last });
    await log.close();
    console.log(JSON.stringify(rounds));`;
  const rounds = JSON.parse(runOnSmallDisk(folder, 96, source));
  for (const [i, round] of rounds.entries()) {
    expect(round.code).toBe("STORAGE_FULL");
    expect(round.last).toBe(round.was);
    expect(round.end).toBe(round.last);
    if (i > 0) expect(round.last).toBeGreaterThan(rounds[i - 1].last + 20);
    if (round.group) expect(round.group).toEqual(["STORAGE_FULL", "LOG_SEQUENCE_MISMATCH", "LOG_SEQUENCE_MISMATCH"]);
    if (round.intact !== undefined) expect(round.intact).toBe(round.end - round.first + 1);
  }
});
