import { closeSync, existsSync, openSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { assert } from "../assert.ts";
import { TributaryError } from "../errors.ts";
import type { LogRecord } from "../ports/log.ts";
import { createFolderSync, fsyncPathSync } from "./fs-durability.ts";
import type { SqliteDatabase, SqliteDriver, SqliteRow, SqliteStatement } from "./sqlite-driver.ts";
import { sqliteFailure } from "./sqlite-errors.ts";

/**
 * The file below SqliteLog: schema, pragmas and transactions, all synchronous. Errors are SQLite's own; SqliteLog translates.
 *
 * WAL mode, because a commit is then one sequential write and one fsync. Exclusive locking, because a log has one owner, and no
 * shared-memory file is needed. Pages of 4 KB, because larger ones write more for every record (measured: 64 KB records cost
 * 2.3 × their bytes with 4 KB pages, 2.9 × with 16 KB). Incremental vacuum costs 3 % more writes; with it pages that truncation
 * freed can be given back to the disk, and a deleted record's pages are found without being read.
 */

const FORMAT = 1;
/** Schema, roots of both tables, and some to spare. */
const USED_PAGES_WHEN_EMPTY = 8;
/** SQLite has 819 for our page size. */
const POINTER_MAP_EVERY_PAGES = 800;
/** Suffix of the file that says that a read met damage. */
export const DAMAGE_MARKER = "-damaged";
/** Records of one read, whatever the caller's bounds. */
const READ_RECORDS_MAX = 4096;
const PAGE_BYTES = 4096;
/** WAL pages at which the owner should checkpoint, between commits. */
const CHECKPOINT_PAGES = 2000;
/** WAL pages at which SQLite checkpoints within a commit, should the owner never come to it. */
const CHECKPOINT_PAGES_MAX = 4000;
/** Rows deleted in one transaction: bounds how long appends wait behind a truncation. */
const DELETE_ROWS_PER_STEP = 64;
/** Pages given back in one transaction. */
const GIVE_BACK_PAGES_PER_STEP = 1024;
/** Free pages below this are kept for the next appends. */
const KEEP_FREE_PAGES = 4096;
/**
 * Bytes held back on the disk. Truncation itself has to write, so a log that filled its disk could never free anything: then
 * the reserve is given up. It covers what a checkpoint may have to add to the database file. Small logs have none.
 */
const RESERVE_BYTES = 16 * 1024 * 1024;
const RESERVE_FROM_PAGES = (2 * RESERVE_BYTES) / PAGE_BYTES;

export interface SqliteLogFileOptions {
  /** "off" never fsyncs: an acknowledged record can be lost with the power. For measurements and for tests that must fail. */
  readonly synchronous: "full" | "off";
}

export class SqliteLogFile {
  readonly path: string;
  /** Sequence of the oldest record; `last + 1` if there is none. */
  first = 1;
  last = 0;
  readonly #db: SqliteDatabase;
  readonly #synchronous: "FULL" | "OFF";
  readonly #insert: SqliteStatement;
  readonly #insertNew: SqliteStatement;
  readonly #deleteRange: SqliteStatement;
  readonly #keep: SqliteStatement;
  readonly #oldest: SqliteStatement;
  readonly #lengths: SqliteStatement;
  readonly #records: SqliteStatement;
  readonly #pageCount: SqliteStatement;
  readonly #freePageCount: SqliteStatement;
  /** Pages written into the WAL since the last checkpoint, estimated: the bindings have no hook for it. */
  #walPages = 0;
  #hasReserve = false;

  /**
   * Opens the log or creates it. Its cost does not grow with the log: only both ends are looked at.
   * @throws SQLite's errors, FORMAT_UNSUPPORTED
   */
  constructor(driver: SqliteDriver, path: string, options: SqliteLogFileOptions) {
    this.path = path;
    this.#synchronous = options.synchronous === "off" ? "OFF" : "FULL";
    createFolderSync(dirname(path));
    // A process that was killed may have written commits that it never synced. They will be taken for durable: make them so.
    if (this.#synchronous === "FULL" && existsSync(`${path}-wal`)) fsyncPathSync(`${path}-wal`);
    this.#db = driver.open(path, { mustExist: false });
    try {
      this.#db.exec(`PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=${this.#synchronous};
        PRAGMA page_size=${PAGE_BYTES}; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL;
        PRAGMA wal_autocheckpoint=${CHECKPOINT_PAGES_MAX}; PRAGMA journal_size_limit=${RESERVE_BYTES};
        PRAGMA cache_size=-4000; PRAGMA secure_delete=OFF; PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY`);
      this.#db.transaction(() => this.#createSchema());
      if (this.#synchronous === "FULL") fsyncPathSync(dirname(path));
      this.#insert = this.#db.prepare("INSERT INTO log VALUES (?, ?)");
      this.#insertNew = this.#db.prepare("INSERT OR IGNORE INTO log VALUES (?, ?)");
      this.#deleteRange = this.#db.prepare("DELETE FROM log WHERE seq BETWEEN ? AND ?");
      this.#keep = this.#db.prepare("UPDATE meta SET value = max(value, ?) WHERE name = ?");
      this.#oldest = this.#db.prepare("SELECT seq, data FROM log ORDER BY seq LIMIT 1");
      this.#lengths = this.#db.prepare("SELECT seq, length(data) AS bytes FROM log WHERE seq >= ? ORDER BY seq LIMIT ?");
      this.#records = this.#db.prepare("SELECT seq, data FROM log WHERE seq BETWEEN ? AND ? ORDER BY seq");
      this.#pageCount = this.#db.prepare("PRAGMA page_count");
      this.#freePageCount = this.#db.prepare("PRAGMA freelist_count");
      this.#findEnds();
      this.#tryAppend();
      this.#findReserve();
      this.#checkpointAtOpen();
    } catch (error) {
      this.#db.close();
      throw error;
    }
  }

  /**
   * Bytes on the disk, all files counted, what they are bound to grow by included: a checkpoint brings the database to the size
   * that its pages already have in the WAL, and the reserve comes once the log is large. Whoever keeps below a cap must not
   * learn of either when it has happened.
   */
  bytes(): number {
    const [database, wal, reserve] = ["", "-wal", "-reserve"].map(
      (suffix) => statSync(this.path + suffix, { throwIfNoEntry: false })?.size ?? 0,
    ) as [number, number, number];
    const pageBytes = this.#pages() * PAGE_BYTES;
    return Math.max(database, pageBytes) + wal + Math.max(reserve, Math.min(RESERVE_BYTES, Math.floor(pageBytes / 2)));
  }

  /** Bytes of `bytes` that the next appends fill before the files grow. */
  bytesReusable(): number {
    return this.#freePages() * PAGE_BYTES;
  }

  /** Appends the records in one commit, from sequence `last + 1` on. */
  append(records: readonly Uint8Array[]): void {
    const pages = records.reduce((sum, data) => sum + Math.ceil(data.byteLength / PAGE_BYTES) + 2, 2);
    this.#assureReserve(pages);
    this.#db.transaction(() => {
      for (const [index, data] of records.entries()) this.#insert.run(this.last + 1 + index, data);
    });
    this.last += records.length;
    this.#walPages += pages;
  }

  /** Adds records read from a damaged log, with the holes between them. Of two of one sequence the first is kept. */
  adopt(records: readonly LogRecord[]): void {
    this.#db.transaction(() => {
      for (const { seq, data } of records) this.#insertNew.run(seq, data);
    });
  }

  /**
   * Ends adoption, with what the damaged log knew of its own ends (undefined: nothing): no sequence is given twice, truncated
   * records stay truncated, and holes at the ends show.
   */
  adoptEnds(truncated: number | undefined, last: number): void {
    if (truncated !== undefined) this.#db.transaction(() => this.#deleteRange.run(0, truncated));
    this.#findEnds();
    this.#db.transaction(() => {
      this.#keep.run(truncated ?? this.first - 1, "truncated");
      this.#keep.run(Math.max(last, this.last), "last");
    });
    this.#findEnds();
  }

  /** Counts the records, and those missing between truncation and end. Walks the whole tree. */
  census(): { readonly held: number; readonly missing: number } {
    const held = Number(this.#db.prepare("SELECT count(*) AS held FROM log").get()?.["held"]);
    const truncated = Number(this.#db.prepare("SELECT value FROM meta WHERE name = 'truncated'").get()?.["value"]);
    return { held, missing: this.last - truncated - held };
  }

  read(fromSeq: number, bounds: { readonly recordsMax: number; readonly bytesMax: number }): LogRecord[] {
    const found = this.#lengths.all(Math.max(fromSeq, this.first), Math.max(1, Math.min(bounds.recordsMax, READ_RECORDS_MAX)));
    let bytes = 0;
    let count = 0;
    for (const row of found) {
      bytes += Number(row["bytes"]);
      if (count > 0 && bytes > bounds.bytesMax) break;
      count++;
    }
    const from = found[0]?.["seq"];
    const to = found[count - 1]?.["seq"];
    if (from === undefined || to === undefined) return [];
    return this.#records.all(from, to).map((row) => toRecord(row));
  }

  /**
   * Removes some of the oldest records up to and including `throughSeq`; true when there is nothing left to do. Not synced by
   * itself: the next append's fsync covers it, and a truncation that a power cut undoes is merely done again.
   */
  truncateStep(throughSeq: number): boolean {
    const through = Math.min(throughSeq, this.last, this.first + DELETE_ROWS_PER_STEP - 1);
    if (through < this.first) return true;
    this.#withoutSync(() =>
      this.#withReserve(() => {
        this.#db.transaction(() => {
          this.#keep.run(this.last, "last");
          this.#keep.run(through, "truncated");
          this.#deleteRange.run(this.first, through);
        });
      }),
    );
    this.#walPages += DELETE_ROWS_PER_STEP;
    // After damage the next record need not be the next sequence.
    this.first = Number(this.#lengths.get(through + 1, 1)?.["seq"] ?? this.last + 1);
    return this.first > Math.min(throughSeq, this.last);
  }

  /**
   * Gives some free pages back to the disk if more of the file is free than used; true when there is nothing left to do. Pages
   * behind the free ones move, so doing it at half keeps the cost below one extra write for each byte ever logged.
   */
  giveBackStep(): boolean {
    const free = this.#freePages();
    if (free <= KEEP_FREE_PAGES || free <= this.#pages() / 2) return true;
    this.#withoutSync(() => this.#withReserve(() => this.#db.exec(`PRAGMA incremental_vacuum(${GIVE_BACK_PAGES_PER_STEP})`)));
    this.#walPages += GIVE_BACK_PAGES_PER_STEP;
    return this.#freePages() >= free;
  }

  /** True when a checkpoint is due. Between commits it delays no acknowledgement. */
  checkpointDue(): boolean {
    return this.#walPages >= CHECKPOINT_PAGES;
  }

  /** Moves the WAL's pages into the database. A failure is not the log's: everything is still in the WAL. */
  checkpoint(): void {
    this.#walPages = 0;
    try {
      this.#db.exec("PRAGMA wal_checkpoint(PASSIVE)");
    } catch (error) {
      if (sqliteFailure(error) === undefined) throw error;
    }
  }

  /** Has the next openSqliteLogSalvaging read the log through. */
  markDamaged(): void {
    writeFileSync(`${this.path}${DAMAGE_MARKER}`, "");
  }

  /** Empties the WAL into the database. @throws SQLite's errors */
  checkpointWhole(): void {
    this.#walPages = 0;
    this.#db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
  }

  close(): void {
    this.#db.close();
  }

  #createSchema(): void {
    const format = Number(this.#db.prepare("PRAGMA user_version").get()?.["user_version"]);
    if (format > FORMAT) throw new TributaryError("FORMAT_UNSUPPORTED", `${this.path} has format ${format}`, { format });
    if (format === FORMAT) return;
    this.#db.exec(`CREATE TABLE log(seq INTEGER PRIMARY KEY, data BLOB NOT NULL);
      CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
      INSERT INTO meta VALUES ('last', 0), ('truncated', 0); PRAGMA user_version=${FORMAT}`);
  }

  /** Reads the outermost records whole, so that a damaged end shows now; damage further in shows when it is read. */
  #findEnds(): void {
    const kept = Number(this.#db.prepare("SELECT value FROM meta WHERE name = 'last'").get()?.["value"]);
    const newest = Number(this.#db.prepare("SELECT seq, data FROM log ORDER BY seq DESC LIMIT 1").get()?.["seq"] ?? 0);
    this.last = Math.max(kept, newest);
    this.first = Number(this.#oldest.get()?.["seq"] ?? this.last + 1);
    // The root of the tree can be damaged into an empty one; the pages that hung from it still count as used.
    const usedPages = this.#pages() - this.#freePages();
    if (this.first > this.last && usedPages > USED_PAGES_WHEN_EMPTY + this.#pages() / POINTER_MAP_EVERY_PAGES) {
      throw new TributaryError("STORE_CORRUPT", `${this.path} is damaged: no record, but ${usedPages} pages in use`, { path: this.path });
    }
  }

  /** Damage where only writing comes by, in the list of free pages, should show now and not at the first append. */
  #tryAppend(): void {
    const undo = new Error("a trial only");
    try {
      this.#db.transaction(() => {
        this.#insert.run(this.last + 1, new Uint8Array(4 * PAGE_BYTES));
        throw undo;
      });
    } catch (error) {
      if (error !== undo) throw error;
    }
  }

  /**
   * What a failed fsync left in doubt is written again by a checkpoint. A full disk is no reason not to start: the WAL was synced
   * before it was opened.
   */
  #checkpointAtOpen(): void {
    try {
      this.#withReserve(() => this.checkpointWhole());
    } catch (error) {
      if (sqliteFailure(error) !== "full") throw error;
    }
  }

  #pages(): number {
    return Number(this.#pageCount.get()?.["page_count"]);
  }

  #freePages(): number {
    return Number(this.#freePageCount.get()?.["freelist_count"]);
  }

  #withoutSync(work: () => void): void {
    if (this.#synchronous === "FULL") this.#db.exec("PRAGMA synchronous=NORMAL");
    try {
      work();
    } finally {
      this.#db.exec(`PRAGMA synchronous=${this.#synchronous}`);
    }
  }

  #reservePath(): string {
    return `${this.path}-reserve`;
  }

  #findReserve(): void {
    const size = statSync(this.#reservePath(), { throwIfNoEntry: false })?.size;
    this.#hasReserve = size === RESERVE_BYTES;
    // Left by a kill while it was being written.
    if (size !== undefined && !this.#hasReserve) rmSync(this.#reservePath());
  }

  /** Runs work that frees space; if the disk is full, gives up the reserve for it. */
  #withReserve(work: () => void): void {
    try {
      work();
    } catch (error) {
      if (sqliteFailure(error) !== "full" || !this.#hasReserve) throw error;
      rmSync(this.#reservePath());
      this.#hasReserve = false;
      this.checkpoint();
      work();
    }
  }

  /** @throws ENOSPC if there is no reserve, no room for one, and the append would not fit into pages that are free. */
  #assureReserve(pages: number): void {
    if (this.#hasReserve || this.#pages() < RESERVE_FROM_PAGES || this.#freePages() >= RESERVE_FROM_PAGES / 2 + pages) return;
    try {
      const fd = openSync(this.#reservePath(), "w");
      try {
        // Zeros really written, because a sparse file would reserve nothing.
        const zeros = new Uint8Array(RESERVE_BYTES / 16);
        for (let written = 0; written < RESERVE_BYTES; )
          written += writeSync(fd, zeros, 0, Math.min(zeros.length, RESERVE_BYTES - written));
      } finally {
        closeSync(fd);
      }
      this.#hasReserve = true;
    } catch (error) {
      rmSync(this.#reservePath(), { force: true });
      throw error;
    }
  }
}

function toRecord(row: SqliteRow): LogRecord {
  const { seq, data } = row;
  assert(typeof seq === "number" && data instanceof Uint8Array, "the columns of a log");
  return { seq, data };
}
