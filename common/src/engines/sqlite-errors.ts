import { TributaryError } from "../errors.ts";
import { fsErrorCode, isNoSpace } from "./fs-durability.ts";

/** What a failed SQLite call means for a store. */
export type SqliteFailure =
  /** Somebody else holds the file. */
  | "locked"
  /** No space; the transaction was rolled back. */
  | "full"
  /** The file, or the disk below it, no longer gives back what was written. */
  | "damaged"
  /** The file cannot be opened or written at all: permissions, a folder in its place, a read-only disk. */
  | "unusable"
  /** An I/O error while writing: the outcome of a commit is open. */
  | "uncertain";

/** Bindings put SQLite's extended result code, as its symbol, into `code`. undefined: not SQLite's error. */
export function sqliteFailure(error: unknown): SqliteFailure | undefined {
  const code = typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
  if (typeof code !== "string" || !code.startsWith("SQLITE_")) return undefined;
  if (code.startsWith("SQLITE_BUSY") || code.startsWith("SQLITE_LOCKED")) return "locked";
  if (code === "SQLITE_FULL") return "full";
  if (code.startsWith("SQLITE_CORRUPT") || code === "SQLITE_NOTADB" || code === "SQLITE_FORMAT") return "damaged";
  // A sector that cannot be read is damage like any other.
  if (code === "SQLITE_IOERR_READ" || code === "SQLITE_IOERR_SHORT_READ" || code === "SQLITE_IOERR_CORRUPTFS") return "damaged";
  if (/^SQLITE_(CANTOPEN|READONLY|PERM|AUTH|NOLFS)/.test(code)) return "unusable";
  return "uncertain";
}

/** The error for a store that could not be opened, read or changed; what neither SQLite nor the file system threw passes unchanged. */
export function toStoreError(error: unknown, path: string): unknown {
  const failure = sqliteFailure(error) ?? fsFailure(error);
  if (failure === undefined) return error;
  const reason = error instanceof Error ? error.message : String(error);
  const options = { cause: error };
  switch (failure) {
    case "locked":
      return new TributaryError("DATA_DIR_LOCKED", `another process or thread has ${path} open`, { path }, options);
    case "full":
      return new TributaryError("STORAGE_FULL", `no space left for ${path}`, { path }, options);
    case "damaged":
      return new TributaryError("STORE_CORRUPT", `${path} is damaged: ${reason}`, { path }, options);
    case "unusable":
      return new TributaryError("CONFIG_INVALID", `${path} cannot be used: ${reason}`, { path }, options);
    case "uncertain":
      return new TributaryError("LOG_RESULT_UNKNOWN", `writing ${path} failed: ${reason}`, { path }, options);
  }
}

function fsFailure(error: unknown): SqliteFailure | undefined {
  const code = fsErrorCode(error);
  if (code === undefined) return undefined;
  if (isNoSpace(error)) return "full";
  return code === "EIO" ? "uncertain" : "unusable";
}
