import { hasCode, TributaryError } from "../errors.ts";
import type { Log, LogRecord, LogState } from "../ports/log.ts";
import { loadSqlite } from "./sqlite-driver.ts";
import { sqliteFailure, toStoreError } from "./sqlite-errors.ts";
import { SqliteLogFile } from "./sqlite-log-file.ts";

/** Appends that wait for the next commit; more are refused. */
const APPENDS_WAITING_MAX = 1024;
/** What shares a commit: bounds the WAL and how long the first of a group waits for the last. */
const GROUP_BYTES_MAX = 4 * 1024 * 1024;
const GROUP_RECORDS_MAX = 64;

export interface SqliteLogOptions {
  /**
   * "full" (default): an append resolves after its fsync. "off" never fsyncs: an acknowledged record can be lost with the power.
   * For measurements, and for checks that must fail without it.
   */
  readonly synchronous?: "full" | "off";
}

export interface SqliteLogState extends LogState {
  /** Part of `bytes` that lies free inside the files: the next appends fill it before the files grow. */
  readonly bytesReusable: number;
}

/** A `Log` on one SQLite file with one owner. A hole in the sequences is damage that was salvaged: `read` goes on behind it. */
export interface SqliteLog extends Log {
  state(): Promise<SqliteLogState>;
  /** @throws as Log; STORE_CORRUPT: open it again with openSqliteLogSalvaging */
  read(fromSeq: number, bounds: { recordsMax: number; bytesMax: number }): Promise<LogRecord[]>;
}

/** @throws DATA_DIR_LOCKED, STORAGE_FULL, STORE_CORRUPT, FORMAT_UNSUPPORTED, CONFIG_INVALID */
export async function openSqliteLog(path: string, options: SqliteLogOptions = {}): Promise<SqliteLog> {
  const driver = await loadSqlite();
  try {
    return new QueuedLog(new SqliteLogFile(driver, path, { synchronous: options.synchronous ?? "full" }));
  } catch (error) {
    throw toStoreError(error, path);
  }
}

interface WaitingAppend {
  readonly data: Uint8Array;
  readonly expectedLast: number;
  readonly resolve: (seq: number) => void;
  readonly reject: (error: unknown) => void;
}

/** Appends that arrive while others wait share a commit. Everything runs on the calling thread, between other callbacks. */
class QueuedLog implements SqliteLog {
  readonly #file: SqliteLogFile;
  readonly #waiting: WaitingAppend[] = [];
  #flushScheduled = false;
  /** After an append of unknown outcome nothing may be appended until the log was read again from its file. */
  #failed = false;
  #closed = false;

  constructor(file: SqliteLogFile) {
    this.#file = file;
  }

  async state(): Promise<SqliteLogState> {
    this.#assertOpen();
    const { first, last } = this.#file;
    return this.#guard(() => ({ first, last, bytes: this.#file.bytes(), bytesReusable: this.#file.bytesReusable() }));
  }

  append(data: Uint8Array, expectedLast: number): Promise<number> {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(closedError());
      if (this.#waiting.length >= APPENDS_WAITING_MAX)
        return reject(new TributaryError("OVERLOADED", "too many appends wait for the disk"));
      this.#waiting.push({ data, expectedLast, resolve, reject });
      this.#scheduleFlush();
    });
  }

  async read(fromSeq: number, bounds: { recordsMax: number; bytesMax: number }): Promise<LogRecord[]> {
    this.#assertOpen();
    return this.#guard(() => this.#file.read(fromSeq, bounds));
  }

  async truncate(throughSeq: number): Promise<void> {
    for (;;) {
      this.#assertOpen();
      if (this.#guard(() => this.#file.truncateStep(throughSeq))) break;
      await this.#breathe();
    }
    while (!this.#closed && !this.#guard(() => this.#file.giveBackStep())) await this.#breathe();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    while (this.#waiting.length > 0) this.#flush();
    this.#closed = true;
    this.#file.close();
  }

  /** Lets appends and reads go between two steps of long work. */
  async #breathe(): Promise<void> {
    if (this.#file.checkpointDue()) this.#file.checkpoint();
    await new Promise((resolve) => setImmediate(resolve));
  }

  /** setImmediate, so that everything that has arrived by then joins the commit. */
  #scheduleFlush(): void {
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    setImmediate(() => {
      this.#flushScheduled = false;
      if (this.#closed) return;
      // The acknowledgements of the last commit are out by now, so a checkpoint keeps nobody waiting who is already durable.
      if (this.#file.checkpointDue()) this.#file.checkpoint();
      this.#flush();
      if (this.#waiting.length > 0 || this.#file.checkpointDue()) this.#scheduleFlush();
    });
  }

  #flush(): void {
    let bytes = 0;
    let count = 0;
    for (const { data } of this.#waiting) {
      bytes += data.byteLength;
      if (count > 0 && (bytes > GROUP_BYTES_MAX || count >= GROUP_RECORDS_MAX)) break;
      count++;
    }
    const group = this.#waiting.splice(0, count);
    if (group.length > 1 && !this.#commit(group, "retry")) for (const one of group) this.#commit([one], "settle");
    else if (group.length === 1) this.#commit(group, "settle");
  }

  /**
   * Commits those of the group that expect the end which the ones before them make. When the disk is full, "retry" returns false
   * with nothing appended and nobody answered, so that each can be tried alone; "settle" answers in any case.
   */
  #commit(group: readonly WaitingAppend[], onFull: "retry" | "settle"): boolean {
    const before = this.#file.last;
    const accepted: WaitingAppend[] = [];
    const mismatched: WaitingAppend[] = [];
    for (const one of group) (one.expectedLast === before + accepted.length ? accepted : mismatched).push(one);
    let failure: unknown;
    if (accepted.length > 0) {
      try {
        if (this.#failed) throw closedError();
        this.#file.append(accepted.map((one) => one.data));
      } catch (error) {
        failure = toStoreError(error, this.#file.path);
        const isFull = hasCode(failure, "STORAGE_FULL");
        if (isFull && onFull === "retry") return false;
        if (!isFull) this.#failed = true;
        if (hasCode(failure, "STORE_CORRUPT")) this.#file.markDamaged();
      }
    }
    for (const [index, one] of accepted.entries()) failure === undefined ? one.resolve(before + 1 + index) : one.reject(failure);
    for (const one of mismatched) {
      const details = { expectedLast: one.expectedLast, last: this.#file.last };
      one.reject(new TributaryError("LOG_SEQUENCE_MISMATCH", `the log ends at ${details.last}, not at ${details.expectedLast}`, details));
    }
    return true;
  }

  #assertOpen(): void {
    if (this.#closed) throw closedError();
  }

  #guard<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      if (sqliteFailure(error) === "damaged") this.#file.markDamaged();
      throw toStoreError(error, this.#file.path);
    }
  }
}

function closedError(): TributaryError {
  return new TributaryError("LOG_CLOSED", "the log is closed, or must be opened again after an append of unknown outcome");
}
