import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { expect, onTestFinished, test } from "vitest";
import { systemClock } from "../clock.ts";
import { hasCode } from "../errors.ts";
import type { Log, LogRecord } from "../ports/log.ts";
import { openSqliteLog } from "./sqlite-log.ts";
import { openSqliteLogSalvaging, type SalvagedLog } from "./sqlite-salvage.ts";

const PAGE = 4096;

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "tributary-damage-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Record `seq` has bytes of its own throughout, so that any damage to them shows. */
function content(seq: number): Uint8Array {
  const bytes = new Uint8Array(200 + ((seq * 7919) % 20_000));
  for (let i = 0; i < bytes.length; i++) bytes[i] = Math.imul(Math.imul(seq, 0x9e3779b1) ^ i, 0x85ebca6b) >>> 24;
  return bytes;
}

async function filledLog(path: string, records: number, truncated = 0): Promise<void> {
  const log = await openSqliteLog(path, { synchronous: "off" });
  for (let from = 0; from < records; from += 50) {
    await Promise.all(Array.from({ length: Math.min(50, records - from) }, (_, i) => log.append(content(from + i + 1), from + i)));
  }
  await log.truncate(truncated);
  await log.close();
}

/** Opens, and reads everything; where a read meets damage, opens again, as the owner of a log does. */
async function openWhatIsLeft(path: string): Promise<SalvagedLog & { records: LogRecord[] }> {
  const options = { quarantineDir: join(path, "..", "quarantine"), clock: systemClock };
  const opened = await openSqliteLogSalvaging(path, options);
  try {
    return { ...opened, records: await readAll(opened.log) };
  } catch (error) {
    if (!hasCode(error, "STORE_CORRUPT")) throw error;
    await opened.log.close();
    const again = await openSqliteLogSalvaging(path, options);
    return { ...again, records: await readAll(again.log) };
  }
}

async function readAll(log: Log): Promise<LogRecord[]> {
  const records: LogRecord[] = [];
  for (let from = 1; ; from = (records.at(-1)?.seq ?? 0) + 1) {
    const page = await log.read(from, { recordsMax: 100, bytesMax: 1_000_000 });
    if (page.length === 0) return records;
    records.push(...page);
  }
}

/** What a checksum in the layer above would let through. */
function intact(records: readonly LogRecord[]): number[] {
  return records.filter(({ seq, data }) => Buffer.compare(data, content(seq)) === 0).map((record) => record.seq);
}

function damagePage(path: string, page: number, byte: (offset: number) => number): void {
  const bytes = readFileSync(path);
  for (let i = 0; i < PAGE && page * PAGE + i < bytes.length; i++) bytes[page * PAGE + i] = byte(i);
  writeFileSync(path, bytes);
}

function pagesOf(path: string): number {
  return statSync(path).size / PAGE;
}

/** The log works again: it takes appends and keeps them over a reopen that finds nothing wrong. */
async function expectUsable(path: string, log: Log): Promise<void> {
  const { last } = await log.state();
  try {
    expect(await log.append(content(last + 1), last)).toBe(last + 1);
    await log.close();
  } catch (error) {
    // Damage where only writing comes by. Nothing was appended; what could be read still can.
    if (!hasCode(error, "STORE_CORRUPT")) throw error;
    const before = await readAll(log);
    await log.close();
    const mended = await openWhatIsLeft(path);
    expect(mended.records).toEqual(before);
    expect(await mended.log.append(content(last + 1), last)).toBe(last + 1);
    await mended.log.close();
  }
  const again = await openWhatIsLeft(path);
  expect(again.report.quarantinePath).toBe("");
  expect(again.records.at(-1)?.seq).toBe(last + 1);
  await again.log.close();
}

test("a healthy log is opened as it is", async () => {
  const path = join(await newFolder(), "log.db");
  await filledLog(path, 40, 10);
  const { log, report, records } = await openWhatIsLeft(path);
  expect(report).toEqual({ recordsRead: 30, recordsQuarantined: 0, quarantinePath: "" });
  expect(intact(records)).toEqual(Array.from({ length: 30 }, (_, i) => i + 11));
  await log.close();
});

test.each([
  ["zeros", () => 0],
  ["noise", (i: number) => (i * 2654435761) >>> 24],
  ["ones", () => 0xff],
])("a last page of %s costs at most the records on it", async (_, byte) => {
  const path = join(await newFolder(), "log.db");
  await filledLog(path, 100);
  damagePage(path, pagesOf(path) - 1, byte);
  const { log, records, report } = await openWhatIsLeft(path);
  expect(intact(records).length).toBeGreaterThanOrEqual(95);
  expect(intact(records).slice(0, 90)).toEqual(Array.from({ length: 90 }, (_, i) => i + 1));
  expect(report.recordsRead + report.recordsQuarantined).toBe((await log.state()).last);
  await expectUsable(path, log);
});

test("whatever pages are overwritten, it opens, tells what it lost, and the rest is intact", async () => {
  const folder = await newFolder();
  const master = join(folder, "master.db");
  await filledLog(master, 300, 20);
  const pages = pagesOf(master);
  let case_ = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(fc.integer({ min: 0, max: pages - 1 }), { minLength: 1, maxLength: 3 }),
      fc.constantFrom("zeros", "noise", "ones", "leaf"),
      async (damaged, kind) => {
        const path = join(folder, String(case_++), "log.db");
        mkdirSync(join(path, ".."), { recursive: true });
        copyFileSync(master, path);
        // "leaf" looks like an empty leaf of a table: damage that SQLite itself cannot see.
        const bytes: Record<string, (i: number) => number> = {
          zeros: () => 0,
          noise: (i) => ((i + 1) * 2654435761) >>> 24,
          ones: () => 0xff,
          leaf: (i) => [13, 0, 0, 0, 0, 16, 0, 0][i] ?? 0,
        };
        for (const page of damaged) damagePage(path, page, bytes[kind] as (i: number) => number);
        const { log, records, report } = await openWhatIsLeft(path);
        // A page holds a few records at most; nothing else may go with it, whatever part of the tree it was.
        expect(intact(records).length, `${kind} on ${damaged}`).toBeGreaterThanOrEqual(280 - 10 * damaged.length);
        const seqs = records.map((record) => record.seq);
        expect(seqs).toEqual(seqs.toSorted((a, b) => a - b));
        expect(new Set(seqs).size).toBe(seqs.length);
        const { first, last } = await log.state();
        expect(first).toBe(seqs[0] ?? last + 1);
        expect(last).toBeGreaterThanOrEqual(seqs.at(-1) ?? 0);
        expect(report.recordsRead).toBeGreaterThanOrEqual(seqs.length);
        if (report.quarantinePath === "") expect(report.recordsQuarantined).toBe(0);
        else expect(report.recordsRead + report.recordsQuarantined).toBe(last - 20);
        await expectUsable(path, log);
      },
    ),
    { numRuns: 30 },
  );
});

test("a damaged record inside the log leaves a hole, and everything around it", async () => {
  const path = join(await newFolder(), "log.db");
  await filledLog(path, 200);
  // The chain of one record's pages: its content runs over whole pages, so one of them can be found by its bytes.
  const victim = 93;
  expect(content(victim).length).toBeGreaterThan(12_000);
  const needle = content(victim).subarray(6000, 6064);
  const at = readFileSync(path).indexOf(needle);
  expect(at).toBeGreaterThan(0);
  damagePage(path, Math.floor(at / PAGE), () => 0xff);
  const { log, records, report } = await openWhatIsLeft(path);
  expect(intact(records)).toEqual(Array.from({ length: 200 }, (_, i) => i + 1).filter((seq) => seq !== victim));
  expect(report).toMatchObject({ recordsRead: 199, recordsQuarantined: 1 });
  expect(await log.state()).toMatchObject({ first: 1, last: 200 });
  expect((await log.read(victim, { recordsMax: 1, bytesMax: 1 }))[0]?.seq).toBe(victim + 1);
  expect(readdirSync(report.quarantinePath)).toContain("log.db");
  await expectUsable(path, log);
});

test.each(["not a database at all ".repeat(5000), "SQLite format 3\0".padEnd(5000, "\0")])(
  "a file that is no database (%#) is moved away",
  async (text) => {
    const path = join(await newFolder(), "log.db");
    writeFileSync(path, text);
    const { log, records, report } = await openWhatIsLeft(path);
    expect(records).toEqual([]);
    expect(readFileSync(join(report.quarantinePath, "log.db"), "utf8")).toBe(text);
    await expectUsable(path, log);
  },
);

test("a salvage that died between moving away and putting in place is finished", async () => {
  const folder = await newFolder();
  const path = join(folder, "log.db");
  await filledLog(path, 30);
  await filledLog(`${path}-salvage`, 20);
  await rm(path);
  writeFileSync(`${path}-wal`, "left behind by the damaged database");
  const { log, records, report } = await openWhatIsLeft(path);
  expect(intact(records)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
  expect(report.quarantinePath).not.toBe("");
  expect(existsSync(`${path}-salvage`)).toBe(false);
  await expectUsable(path, log);
});

test("a salvage that died before it was complete starts over", async () => {
  const folder = await newFolder();
  const path = join(folder, "log.db");
  await filledLog(path, 30);
  await filledLog(`${path}-salvage`, 5);
  const { log, records } = await openWhatIsLeft(path);
  expect(records).toHaveLength(30);
  expect(existsSync(`${path}-salvage`)).toBe(false);
  await log.close();
});

test("a torn end of the write-ahead log costs only what was never acknowledged", async () => {
  const folder = await newFolder();
  const path = join(folder, "live.db");
  const log = await openSqliteLog(path);
  for (let seq = 1; seq <= 10; seq++) await log.append(content(seq), seq - 1);
  // A copy of the files of a running log is what a kill leaves behind.
  const copy = join(folder, "copy.db");
  copyFileSync(path, copy);
  copyFileSync(`${path}-wal`, `${copy}-wal`);
  await log.close();
  const wal = readFileSync(`${copy}-wal`);
  writeFileSync(`${copy}-wal`, wal.subarray(0, wal.length - 1000));
  const { log: left, records, report } = await openWhatIsLeft(copy);
  expect(intact(records)).toEqual(Array.from({ length: 9 }, (_, i) => i + 1));
  expect(report.quarantinePath).toBe("");
  await left.close();
});

test.each([
  ["holds the first page, too", (seq: number) => content(seq)],
  ["does not hold the first page", (seq: number) => content(seq).subarray(0, 9)],
])("a killed owner's write-ahead log that %s is read although the database beside it is damaged", async (_, contentOf) => {
  const folder = await newFolder();
  const path = join(folder, "live.db");
  await filledLog(path, 60);
  let log = await openSqliteLog(path);
  await log.append(contentOf(61), 60);
  await log.close();
  // Small records go on the page that the one before them began, and nothing else changes.
  log = await openSqliteLog(path);
  for (let seq = 62; seq <= 65; seq++) await log.append(contentOf(seq), seq - 1);
  const copy = join(folder, "copy.db");
  copyFileSync(path, copy);
  copyFileSync(`${path}-wal`, `${copy}-wal`);
  await log.close();
  for (const page of [0, 1, 2]) damagePage(copy, page, () => 0xff);
  const { log: left, records } = await openWhatIsLeft(copy);
  expect(records.map((record) => record.seq)).toEqual(Array.from({ length: 65 }, (_, i) => i + 1));
  expect(intact(records.slice(0, 60))).toHaveLength(60);
  for (const { seq, data } of records.slice(60)) expect(data).toEqual(contentOf(seq));
  await expectUsable(copy, left);
});
