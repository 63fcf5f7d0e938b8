import type { Worker } from "node:worker_threads";
import { hasCode, TributaryError } from "../errors.ts";
import type { LogRecord } from "../ports/log.ts";
import type { SqliteLog, SqliteLogOptions, SqliteLogState } from "./sqlite-log.ts";
import type { SalvageReport } from "./sqlite-salvage.ts";
import type { WorkerLogAnswer, WorkerLogRequest, WorkerLogResult } from "./worker-log-protocol.ts";
import { startWorker } from "./worker-thread.ts";

/** Requests on their way to the thread and back; more are refused. */
const REQUESTS_WAITING_MAX = 1024;

export interface WorkerLogOptions extends SqliteLogOptions {
  /** Folder for damaged files, on the same file system as the log. */
  readonly quarantineDir: string;
}

export interface OpenedWorkerLog {
  readonly log: SqliteLog;
  readonly report: SalvageReport;
}

/**
 * openSqliteLogSalvaging in a thread of its own, so that commits and checkpoints never hold up the caller's event loop. An append
 * copies its bytes once, and the caller keeps its own for a retry; bytes read are handed over.
 * @throws as openSqliteLogSalvaging
 */
export async function openWorkerLog(path: string, options: WorkerLogOptions): Promise<OpenedWorkerLog> {
  const log = new WorkerLog(await startWorker(new URL("./worker-log-entry.ts", import.meta.url)));
  try {
    const { quarantineDir, synchronous = "full" } = options;
    const report = (await log.request({ type: "open", settings: { path, quarantineDir, synchronous } })) as SalvageReport;
    return { log, report };
  } catch (error) {
    await log.close();
    throw error;
  }
}

type WithoutId<T> = T extends unknown ? Omit<T, "id"> : never;

interface Waiting {
  readonly type: WorkerLogRequest["type"];
  readonly resolve: (result: WorkerLogResult) => void;
  readonly reject: (error: TributaryError) => void;
}

class WorkerLog implements SqliteLog {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #closing = false;
  #closed: Promise<void> | undefined;
  #gone = false;

  constructor(worker: Worker) {
    this.#worker = worker;
    worker.on("message", (answer: WorkerLogAnswer) => this.#settle(answer));
    worker.on("error", (error) => this.#abandon(error instanceof Error ? error.message : String(error)));
    worker.on("exit", (code) => this.#abandon(`it exited with ${code}`));
  }

  state(): Promise<SqliteLogState> {
    return this.request({ type: "state" }) as Promise<SqliteLogState>;
  }

  append(data: Uint8Array, expectedLast: number): Promise<number> {
    return this.request({ type: "append", data: new Uint8Array(data), expectedLast }) as Promise<number>;
  }

  read(fromSeq: number, { recordsMax, bytesMax }: { recordsMax: number; bytesMax: number }): Promise<LogRecord[]> {
    return this.request({ type: "read", fromSeq, recordsMax, bytesMax }) as Promise<LogRecord[]>;
  }

  async truncate(throughSeq: number): Promise<void> {
    await this.request({ type: "truncate", throughSeq });
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const closed = this.request({ type: "close" });
    this.#closing = true;
    try {
      await closed;
    } catch (error) {
      // A thread that died has nothing left to close.
      if (!hasCode(error, "LOG_CLOSED")) throw error;
    } finally {
      await this.#worker.terminate();
    }
  }

  request(request: WithoutId<WorkerLogRequest>): Promise<WorkerLogResult> {
    return new Promise((resolve, reject) => {
      if (this.#closing || this.#gone) return reject(new TributaryError("LOG_CLOSED", "the log is closed"));
      if (this.#waiting.size >= REQUESTS_WAITING_MAX && request.type !== "close") {
        return reject(new TributaryError("OVERLOADED", "too many requests wait for the log's thread"));
      }
      const id = this.#nextId++;
      this.#waiting.set(id, { type: request.type, resolve, reject });
      this.#worker.postMessage({ ...request, id }, request.type === "append" ? [request.data.buffer as ArrayBuffer] : []);
    });
  }

  #settle(answer: WorkerLogAnswer): void {
    const waiting = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    if ("result" in answer) waiting?.resolve(answer.result);
    else waiting?.reject(new TributaryError(answer.error.code, answer.error.message, answer.error.details));
  }

  /** The thread is gone: nobody knows how far its appends came. */
  #abandon(reason: string): void {
    this.#gone = true;
    for (const { type, reject } of this.#waiting.values()) {
      reject(new TributaryError(type === "append" ? "LOG_RESULT_UNKNOWN" : "LOG_CLOSED", `the log's thread is gone: ${reason}`));
    }
    this.#waiting.clear();
  }
}
