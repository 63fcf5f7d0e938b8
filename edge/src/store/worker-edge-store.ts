import type { Worker } from "node:worker_threads";
import { startWorker } from "@tributary/common/engines/worker-thread";
import { hasCode, TributaryError } from "@tributary/common/errors";
import type { Id } from "@tributary/common/names";
import type {
  CommitBatch,
  CommitResult,
  DropReport,
  EdgeStore,
  EdgeUsage,
  FreeReport,
  LocalPage,
  OpenedEdge,
  ReachedNumber,
  UplinkUnit,
} from "./edge-store.ts";
import {
  type EdgeMethod,
  type PackedPage,
  packBatch,
  unpackPage,
  type WorkerEdgeAnswer,
  type WorkerEdgeRequest,
  type WorkerEdgeSettings,
} from "./worker-edge-protocol.ts";

export type WorkerEdgeStoreOptions = Pick<WorkerEdgeSettings, "path" | "quarantineDir"> & {
  /** Default "full". */
  readonly synchronous?: "full" | "off";
};

/**
 * An EdgeStore over a SQLite log in a thread of its own, so that compression and commits never hold up the sockets. The buffers of
 * batches, units and pages are handed over, not copied. Should the thread die, everything fails until `reopen`, which starts another.
 */
export function createWorkerEdgeStore(options: WorkerEdgeStoreOptions): EdgeStore {
  return new WorkerEdgeStore({ synchronous: "full", ...options, lastUnit: 0 });
}

class WorkerEdgeStore implements EdgeStore {
  readonly #settings: WorkerEdgeSettings;
  #thread: Thread | undefined;
  #closed = false;
  #lastUnit = 0;

  constructor(settings: WorkerEdgeSettings) {
    this.#settings = settings;
  }

  open(): Promise<OpenedEdge> {
    return this.#start("open");
  }

  reopen(): Promise<OpenedEdge> {
    return this.#start("reopen");
  }

  commit(batch: CommitBatch): Promise<CommitResult> {
    const { value, transfer } = packBatch(batch);
    return this.#request("commit", [value], transfer);
  }

  async uplinkNext(bytesMax: number): Promise<UplinkUnit[]> {
    const units = await this.#request<UplinkUnit[]>("uplinkNext", [bytesMax]);
    this.#lastUnit = Math.max(this.#lastUnit, units.at(-1)?.unit ?? 0);
    return units;
  }

  uplinkRewind(reached: readonly ReachedNumber[] = []): Promise<void> {
    return this.#request("uplinkRewind", [reached]);
  }

  uplinkFree(throughUnit: number): Promise<FreeReport> {
    return this.#request("uplinkFree", [throughUnit]);
  }

  async readLocal(streamId: Id, fromOrdinal: number, bounds: { eventsMax: number; bytesMax: number }): Promise<LocalPage> {
    return unpackPage(await this.#request<PackedPage>("readLocal", [streamId, fromOrdinal, bounds]));
  }

  dropOldest(bytesTarget: number): Promise<DropReport> {
    return this.#request("dropOldest", [bytesTarget]);
  }

  reclaim(bytesTarget: number): Promise<DropReport> {
    return this.#request("reclaim", [bytesTarget]);
  }

  usage(): Promise<EdgeUsage> {
    return this.#request("usage", []);
  }

  async close(): Promise<void> {
    this.#closed = true;
    const thread = this.#thread;
    this.#thread = undefined;
    await thread?.close();
  }

  async #start(method: "open" | "reopen"): Promise<OpenedEdge> {
    this.#closed = false;
    let thread = this.#thread;
    if (!thread || thread.gone) {
      thread = await Thread.start({ ...this.#settings, lastUnit: this.#lastUnit });
      if (this.#closed) {
        // Closed while it started: a thread that nobody ends keeps the process.
        await thread.close();
        throw new TributaryError("LOG_CLOSED", "the edge store was closed");
      }
      this.#thread = thread;
    }
    try {
      return await thread.request<OpenedEdge>(method, [], []);
    } catch (error) {
      // A gateway that gives up after this must be able to exit; one that tries again gets another thread.
      await thread.close();
      throw error;
    }
  }

  #request<T>(method: EdgeMethod, args: readonly unknown[], transfer: ArrayBuffer[] = []): Promise<T> {
    if (!this.#thread) return Promise.reject(new TributaryError("LOG_CLOSED", "the edge store is not open"));
    return this.#thread.request(method, args, transfer);
  }
}

interface Waiting {
  readonly method: EdgeMethod;
  readonly resolve: (result: never) => void;
  readonly reject: (error: TributaryError) => void;
}

class Thread {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  gone = false;

  static async start(settings: WorkerEdgeSettings): Promise<Thread> {
    return new Thread(await startWorker(new URL("./worker-edge-entry.ts", import.meta.url), { workerData: settings }));
  }

  private constructor(worker: Worker) {
    this.#worker = worker;
    this.#worker.on("message", (answer: WorkerEdgeAnswer) => this.#settle(answer));
    this.#worker.on("error", (error) => this.#abandon(error instanceof Error ? error.message : String(error)));
    this.#worker.on("exit", (code) => this.#abandon(`it exited with ${code}`));
  }

  request<T>(method: EdgeMethod, args: readonly unknown[], transfer: ArrayBuffer[]): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.gone) return reject(new TributaryError("LOG_CLOSED", "the edge store's thread is gone"));
      const id = this.#nextId++;
      this.#waiting.set(id, { method, resolve: resolve as Waiting["resolve"], reject });
      const request: WorkerEdgeRequest = { id, method, args };
      this.#worker.postMessage(request, transfer);
    });
  }

  /** Closes the log after what was asked for before, then ends the thread. */
  async close(): Promise<void> {
    try {
      await this.request("close", [], []);
    } catch (error) {
      // A thread that died has nothing left to close.
      if (!hasCode(error, "LOG_CLOSED")) throw error;
    } finally {
      this.gone = true;
      await this.#worker.terminate();
    }
  }

  #settle(answer: WorkerEdgeAnswer): void {
    const waiting = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    if ("result" in answer) waiting?.resolve(answer.result as never);
    else waiting?.reject(new TributaryError(answer.error.code, answer.error.message, answer.error.details));
  }

  /** Nobody knows how far its commits came. */
  #abandon(reason: string): void {
    this.gone = true;
    for (const { method, reject } of this.#waiting.values()) {
      reject(new TributaryError(method === "commit" ? "LOG_RESULT_UNKNOWN" : "LOG_CLOSED", `the edge store's thread is gone: ${reason}`));
    }
    this.#waiting.clear();
  }
}
