import { copyFileSync, existsSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { assert } from "../assert.ts";
import type { Clock } from "../clock.ts";
import { hasCode } from "../errors.ts";
import type { LogRecord } from "../ports/log.ts";
import { createFolderSync, fsyncPathSync } from "./fs-durability.ts";
import { loadSqlite, type SqliteDatabase, type SqliteDriver } from "./sqlite-driver.ts";
import { sqliteFailure, toStoreError } from "./sqlite-errors.ts";
import { openSqliteLog, type SqliteLog, type SqliteLogOptions } from "./sqlite-log.ts";
import { DAMAGE_MARKER, SqliteLogFile } from "./sqlite-log-file.ts";
import { PageScan } from "./sqlite-page-scan.ts";

/**
 * Opening that never fails for damage. A damaged database is read as far as it goes, moved into quarantine, and replaced by a
 * fresh log of what could be read, under the original sequences.
 *
 * Steps, each of which may be the last before a crash: (1) the records go into `path-salvage`; (2) it is complete and durable;
 * (3) the damaged files move into quarantine, the database first; (4) `path-salvage` becomes `path`. A crash up to (2) starts
 * over; a missing `path` beside a `path-salvage` says that (3) had begun, and it goes on from there.
 */

export interface SalvageOptions extends SqliteLogOptions {
  /** Folder for damaged files; each salvage makes one folder in it. */
  readonly quarantineDir: string;
  readonly clock: Clock;
}

export interface SalvageReport {
  /** Records that the log holds now. */
  readonly recordsRead: number;
  /** Records known to be lost from it: the holes between the ones that were read. What lay behind the last one is not known. */
  readonly recordsQuarantined: number;
  /** Where the damaged files were put; empty if nothing was damaged. */
  readonly quarantinePath: string;
}

export interface SalvagedLog {
  readonly log: SqliteLog;
  readonly report: SalvageReport;
}

/** Records read before a batch is written. */
const BATCH_RECORDS = 64;
const BATCH_BYTES_MAX = 8 * 1024 * 1024;
/** Sequences tried one by one behind a damaged place, before the steps grow. */
const PROBES_ONE_BY_ONE = 4096;

/**
 * Like openSqliteLog, but damage does not stop it. A healthy log is not read through: damage inside it shows when it is read, as
 * STORE_CORRUPT; then close the log and open it again, and it will be salvaged.
 * @throws DATA_DIR_LOCKED, STORAGE_FULL, FORMAT_UNSUPPORTED, CONFIG_INVALID
 */
export async function openSqliteLogSalvaging(path: string, options: SalvageOptions): Promise<SalvagedLog> {
  const driver = await loadSqlite();
  const found = existsSync(path);
  if (found) removeDatabase(salvagePath(path));
  const interrupted = existsSync(salvagePath(path));
  if (!interrupted && !(found && isKnownDamaged(path))) {
    try {
      const log = await openSqliteLog(path, options);
      const { first, last } = await log.state();
      return { log, report: { recordsRead: last - first + 1, recordsQuarantined: 0, quarantinePath: "" } };
    } catch (error) {
      if (!hasCode(error, "STORE_CORRUPT")) throw error;
    }
  }
  try {
    const quarantinePath = createQuarantineFolder(path, options);
    if (!interrupted) salvage(driver, path, quarantinePath);
    const { held, missing } = replace(driver, path, quarantinePath);
    return { log: await openSqliteLog(path, options), report: { recordsRead: held, recordsQuarantined: missing, quarantinePath } };
  } catch (error) {
    throw toStoreError(error, path);
  }
}

/** SQLite would silently delete the WAL of a database whose file lost everything. */
function isKnownDamaged(path: string): boolean {
  return existsSync(path + DAMAGE_MARKER) || (statSync(path).size === 0 && existsSync(`${path}-wal`));
}

function salvagePath(path: string): string {
  return `${path}-salvage`;
}

function removeDatabase(path: string): void {
  for (const suffix of ["", "-wal", "-journal"]) rmSync(path + suffix, { force: true });
}

function createQuarantineFolder(path: string, options: SalvageOptions): string {
  const time = new Date(options.clock.nowMs()).toISOString().replaceAll(/[:.]/g, "-");
  for (let attempt = 1; ; attempt++) {
    const folder = join(options.quarantineDir, `${basename(path)}-${time}${attempt > 1 ? `-${attempt}` : ""}`);
    if (existsSync(folder)) continue;
    createFolderSync(folder);
    return folder;
  }
}

/**
 * Steps 1 and 2: `path-salvage` is complete and durable afterwards. First what SQLite itself can reach; then, from the bare pages,
 * what it cannot.
 */
function salvage(driver: SqliteDriver, path: string, quarantinePath: string): void {
  try {
    // Reading merges the WAL into the damaged database. A copy of it as it was found is for whoever looks into the case.
    if (existsSync(`${path}-wal`)) copyFileSync(`${path}-wal`, join(quarantinePath, `${basename(path)}-wal`));
  } catch {
    // No space, or unreadable; the records matter more.
  }
  const target = new SqliteLogFile(driver, salvagePath(path), { synchronous: "off" });
  try {
    const found = salvageByTree(driver, path, target);
    const scan = new PageScan(path);
    try {
      adoptAll(target, scan.records());
      const { last, truncated } = scan.meta();
      found.last = Math.max(found.last, last);
      if (truncated > 0) found.truncated ??= truncated;
    } finally {
      scan.close();
    }
    target.adoptEnds(found.truncated, found.last);
    target.checkpointWhole();
  } finally {
    target.close();
  }
  assert(!existsSync(`${salvagePath(path)}-wal`), "a closed log has no WAL");
  fsyncPathSync(salvagePath(path));
  fsyncPathSync(dirname(path));
}

interface Found {
  /** Everything up to it was truncated on purpose; undefined if that cannot be read. */
  truncated: number | undefined;
  last: number;
}

function salvageByTree(driver: SqliteDriver, path: string, target: SqliteLogFile): Found {
  const source = driver.open(path, { mustExist: true });
  try {
    const reader = new DamagedLogReader(source);
    adoptAll(target, reader.records());
    return { truncated: reader.truncated, last: reader.last };
  } finally {
    source.close();
  }
}

function adoptAll(target: SqliteLogFile, records: Iterable<LogRecord>): void {
  let batch: LogRecord[] = [];
  let bytes = 0;
  for (const record of records) {
    batch.push(record);
    bytes += record.data.byteLength;
    if (batch.length < BATCH_RECORDS && bytes < BATCH_BYTES_MAX) continue;
    target.adopt(batch);
    batch = [];
    bytes = 0;
  }
  target.adopt(batch);
}

/** Steps 3 and 4. */
function replace(driver: SqliteDriver, path: string, quarantinePath: string): { held: number; missing: number } {
  const target = new SqliteLogFile(driver, salvagePath(path), { synchronous: "full" });
  const census = target.census();
  target.close();
  for (const suffix of ["", "-wal", "-journal", DAMAGE_MARKER]) {
    if (existsSync(path + suffix)) renameSync(path + suffix, join(quarantinePath, basename(path) + suffix));
  }
  fsyncPathSync(quarantinePath);
  renameSync(salvagePath(path), path);
  fsyncPathSync(dirname(path));
  return census;
}

/** Reads from a damaged log, in order, whatever SQLite can still reach. */
class DamagedLogReader {
  /** Highest sequence met anywhere. */
  last = 0;
  readonly truncated: number | undefined;
  readonly #db: SqliteDatabase;

  constructor(db: SqliteDatabase) {
    this.#db = db;
    this.#attempt(() => db.exec("PRAGMA locking_mode=EXCLUSIVE; PRAGMA cell_size_check=ON"));
    this.#meet(this.#meta("last") ?? 0);
    this.truncated = this.#meta("truncated");
  }

  *records(): Generator<LogRecord> {
    const prepared = this.#attempt(() => ({
      record: this.#db.prepare("SELECT seq, data FROM log WHERE seq = ?"),
      next: this.#db.prepare("SELECT seq FROM log WHERE seq >= ? ORDER BY seq LIMIT 1"),
      previous: this.#db.prepare("SELECT seq FROM log WHERE seq < ? ORDER BY seq DESC LIMIT 1"),
    }));
    if (prepared === "damaged") return;
    const read = (seq: number): LogRecord[] => {
      const row = this.#attempt(() => prepared.record.get(seq));
      const data = row === "damaged" ? undefined : row?.["data"];
      return data instanceof Uint8Array ? [{ seq, data }] : [];
    };
    const next = (from: number): number | "damaged" | "end" => {
      const row = this.#attempt(() => prepared.next.get(from));
      if (row === undefined) return "end";
      return row === "damaged" ? row : this.#checked(row["seq"], from, Number.MAX_SAFE_INTEGER);
    };
    const previous = (below: number, above: number): number | "damaged" | "end" => {
      const row = this.#attempt(() => prepared.previous.get(below));
      if (row === undefined || row === "damaged") return "damaged";
      return Number(row["seq"]) <= above ? "end" : this.#checked(row["seq"], above + 1, below - 1);
    };

    let at = (this.truncated ?? 0) + 1;
    for (;;) {
      const found = next(at);
      if (found === "end") return;
      if (found !== "damaged") {
        yield* read(found);
        at = found + 1;
        continue;
      }
      // The tree cannot be followed here. Find where it can again, then walk back from there to this place.
      let step = 1;
      let resume = at + 1;
      while (resume < Number.MAX_SAFE_INTEGER / 2 && next(resume) === "damaged") {
        if (resume - at >= PROBES_ONE_BY_ONE) step *= 2;
        resume += step;
      }
      const behind: number[] = [];
      for (let seq = previous(resume, at); typeof seq === "number"; seq = previous(seq, at)) behind.push(seq);
      for (const seq of behind.reverse()) yield* read(seq);
      at = resume;
      if (resume >= Number.MAX_SAFE_INTEGER / 2) return;
    }
  }

  #meta(name: string): number | undefined {
    const row = this.#attempt(() => this.#db.prepare("SELECT value FROM meta WHERE name = ?").get(name));
    const value = row === "damaged" ? undefined : row?.["value"];
    return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : undefined;
  }

  /** Damage can make up sequences; what is out of order is damage. */
  #checked(seq: unknown, least: number, most: number): number | "damaged" {
    if (typeof seq !== "number" || !Number.isSafeInteger(seq) || seq < least || seq > most) return "damaged";
    this.#meet(seq);
    return seq;
  }

  #meet(seq: number): void {
    this.last = Math.max(this.last, seq);
  }

  /** Of SQLite's failures only a lock and a full disk are not damage here: even "no such table" is. */
  #attempt<T>(work: () => T): T | "damaged" {
    try {
      return work();
    } catch (error) {
      const failure = sqliteFailure(error);
      if (failure === undefined || failure === "locked" || failure === "full" || failure === "unusable") throw error;
      return "damaged";
    }
  }
}
