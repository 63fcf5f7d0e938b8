import { dirname } from "node:path";
import { TributaryError } from "../errors.ts";
import type { MetaChange, MetaEntry, MetaStore } from "../ports/meta-store.ts";
import { createFolderSync, fsyncPathSync } from "./fs-durability.ts";
import { checkMetaKey, checkMetaPrefix, isUnderPrefix } from "./meta-key.ts";
import { loadSqlite, type SqliteDatabase, type SqliteRow, type SqliteStatement } from "./sqlite-driver.ts";
import { toStoreError } from "./sqlite-errors.ts";

const FORMAT = 1;

/**
 * A MetaStore in one SQLite file of its own, for one process: watches see the changes made through this object. Each change is
 * one transaction, fsynced before it resolves.
 * @throws DATA_DIR_LOCKED, STORAGE_FULL, STORE_CORRUPT, FORMAT_UNSUPPORTED, CONFIG_INVALID
 */
export async function openSqliteMetaStore(path: string): Promise<MetaStore> {
  const driver = await loadSqlite();
  try {
    createFolderSync(dirname(path));
    const db = driver.open(path, { mustExist: false });
    try {
      db.exec(`PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=FULL; PRAGMA journal_mode=WAL; PRAGMA cache_size=-1000;
        PRAGMA journal_size_limit=4194304`);
      db.transaction(() => createSchema(db, path));
      // What a killed process committed without its fsync becomes durable before anybody decides by it.
      db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
      fsyncPathSync(dirname(path));
      return new SqliteMetaStore(db, path);
    } catch (error) {
      db.close();
      throw error;
    }
  } catch (error) {
    throw toStoreError(error, path);
  }
}

function createSchema(db: SqliteDatabase, path: string): void {
  const format = Number(db.prepare("PRAGMA user_version").get()?.["user_version"]);
  if (format > FORMAT) throw new TributaryError("FORMAT_UNSUPPORTED", `${path} has format ${format}`, { format });
  if (format === FORMAT) return;
  // The counter goes up with every change of any key, so that no key sees a revision twice, deleted or not.
  db.exec(`CREATE TABLE entry(key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE counter(id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL);
    INSERT INTO counter VALUES (1, 0); PRAGMA user_version=${FORMAT}`);
}

interface Watcher {
  readonly prefix: string;
  readonly onChange: (change: MetaChange) => void;
  readonly end: () => void;
}

class SqliteMetaStore implements MetaStore {
  readonly #db: SqliteDatabase;
  readonly #path: string;
  readonly #get: SqliteStatement;
  readonly #put: SqliteStatement;
  readonly #remove: SqliteStatement;
  readonly #list: SqliteStatement;
  readonly #count: SqliteStatement;
  readonly #counted: SqliteStatement;
  readonly #watchers = new Set<Watcher>();
  #closed = false;

  constructor(db: SqliteDatabase, path: string) {
    this.#db = db;
    this.#path = path;
    this.#get = db.prepare("SELECT key, value, revision FROM entry WHERE key = ?");
    this.#put = db.prepare("INSERT OR REPLACE INTO entry VALUES (?, ?, ?)");
    this.#remove = db.prepare("DELETE FROM entry WHERE key = ?");
    this.#list = db.prepare("SELECT key, value, revision FROM entry WHERE key >= ? AND key < ? ORDER BY key");
    this.#count = db.prepare("UPDATE counter SET revision = revision + 1");
    this.#counted = db.prepare("SELECT revision FROM counter");
  }

  async get(key: string): Promise<MetaEntry | undefined> {
    checkMetaKey(key);
    return this.#run(() => this.#find(key));
  }

  async create(key: string, value: Uint8Array): Promise<number> {
    checkMetaKey(key);
    return this.#change(key, value, (found) => {
      if (found !== undefined) throw new TributaryError("META_EXISTS", `${key} exists`, { key, revision: found.revision });
    });
  }

  async update(key: string, value: Uint8Array, revision: number): Promise<number> {
    checkMetaKey(key);
    return this.#change(key, value, (found) => {
      if (found?.revision !== revision) throw conflict(key, revision, found);
    });
  }

  async delete(key: string, revision: number): Promise<void> {
    checkMetaKey(key);
    if (this.#run(() => this.#find(key)) === undefined) return;
    this.#change(key, undefined, (found) => {
      if (found?.revision !== revision) throw conflict(key, revision, found);
    });
  }

  async list(prefix: string): Promise<MetaEntry[]> {
    checkMetaPrefix(prefix);
    return this.#run(() => this.#entries(prefix));
  }

  async watch(prefix: string, signal: AbortSignal, onChange: (change: MetaChange) => void): Promise<void> {
    checkMetaPrefix(prefix);
    if (signal.aborted) return;
    const present = this.#run(() => this.#entries(prefix));
    await new Promise<void>((resolve) => {
      const watcher: Watcher = { prefix, onChange, end: resolve };
      this.#watchers.add(watcher);
      signal.addEventListener(
        "abort",
        () => {
          this.#watchers.delete(watcher);
          resolve();
        },
        { once: true },
      );
      for (const entry of present) this.#report(watcher, entry);
    });
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const { end } of this.#watchers) end();
    this.#watchers.clear();
    this.#db.close();
  }

  /** Stores or (undefined) deletes if `check` lets it, and tells the watchers. */
  #change(key: string, value: Uint8Array | undefined, check: (found: MetaEntry | undefined) => void): number {
    const revision = this.#run(() =>
      this.#db.transaction(() => {
        check(this.#find(key));
        this.#count.run();
        const next = Number(this.#counted.get()?.["revision"]);
        if (value === undefined) this.#remove.run(key);
        else this.#put.run(key, value, next);
        return next;
      }),
    );
    const change: MetaChange = { key, value: value && new Uint8Array(value), revision };
    for (const watcher of this.#watchers) if (isUnderPrefix(key, watcher.prefix)) this.#report(watcher, change);
    return revision;
  }

  /** Later, and so in order also for a watcher that changes something when it hears of a change. */
  #report(watcher: Watcher, change: MetaChange): void {
    queueMicrotask(() => {
      if (this.#watchers.has(watcher)) watcher.onChange(change);
    });
  }

  #find(key: string): MetaEntry | undefined {
    const row = this.#get.get(key);
    return row && toEntry(row);
  }

  #entries(prefix: string): MetaEntry[] {
    // "0" follows "/" in the alphabet, and everything valid comes before "~".
    if (prefix === "") return this.#list.all("", "~").map(toEntry);
    const own = this.#find(prefix);
    return [...(own ? [own] : []), ...this.#list.all(`${prefix}/`, `${prefix}0`).map(toEntry)];
  }

  #run<T>(work: () => T): T {
    if (this.#closed) throw new TributaryError("LOG_CLOSED", "the meta store is closed");
    try {
      return work();
    } catch (error) {
      throw toStoreError(error, this.#path);
    }
  }
}

function toEntry(row: SqliteRow): MetaEntry {
  return { key: row["key"] as string, value: row["value"] as Uint8Array, revision: row["revision"] as number };
}

function conflict(key: string, revision: number, found: MetaEntry | undefined): TributaryError {
  return new TributaryError("META_CONFLICT", `${key} is not at revision ${revision}`, { key, revision: found?.revision ?? 0 });
}
