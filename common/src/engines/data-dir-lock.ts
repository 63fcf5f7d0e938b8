import { truncateSync } from "node:fs";
import { join } from "node:path";
import { TributaryError } from "../errors.ts";
import { createFolderSync } from "./fs-durability.ts";
import { loadSqlite, type SqliteDatabase, type SqliteDriver } from "./sqlite-driver.ts";
import { sqliteFailure, toStoreError } from "./sqlite-errors.ts";

export interface DataDirLock {
  release(): void;
}

/**
 * Makes this process the only one that uses a data folder. The lock is SQLite's lock on `lock.db` inside: the operating system
 * drops it with the process, however that ends, so a stale lock never keeps a gateway from starting.
 * @throws DATA_DIR_LOCKED, CONFIG_INVALID
 */
export async function lockDataDir(path: string): Promise<DataDirLock> {
  const driver = await loadSqlite();
  const file = join(path, "lock.db");
  try {
    createFolderSync(path);
    try {
      return hold(driver, file);
    } catch (error) {
      if (sqliteFailure(error) !== "damaged") throw error;
      // Only the lock matters, which was ours a moment ago; the content is nobody's.
      truncateSync(file);
      return hold(driver, file);
    }
  } catch (error) {
    if (sqliteFailure(error) !== "locked") throw toStoreError(error, path);
    throw new TributaryError("DATA_DIR_LOCKED", `another process uses the data folder ${path}`, { path }, { cause: error });
  }
}

function hold(driver: SqliteDriver, file: string): DataDirLock {
  const db: SqliteDatabase = driver.open(file, { mustExist: false });
  try {
    // Nothing is ever written into the file.
    db.exec("PRAGMA journal_mode=MEMORY; BEGIN EXCLUSIVE");
  } catch (error) {
    db.close();
    throw error;
  }
  return { release: () => db.close() };
}
