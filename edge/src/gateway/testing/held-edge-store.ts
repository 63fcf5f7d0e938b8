import type { Clock } from "@tributary/common/clock";
import { TributaryError } from "@tributary/common/errors";
import type { Id } from "@tributary/common/names";
import type { Random } from "@tributary/common/random";
import type { CommitBatch, CommitResult, EdgeStore, LocalEvent, OpenedEdge } from "../../store/edge-store.ts";
import { createEdgeStore } from "../../store/log-edge-store.ts";
import { MemoryDisk, MemoryLog } from "../../store/testing/memory-log.ts";

/** The real edge store over a disk in memory, whose commits wait or fail as a test says. */
export class HeldEdgeStore implements EdgeStore {
  readonly disk: MemoryDisk;
  /** Commits wait for `release` while true. */
  held = false;
  /** The next commit finds no space; those behind it fail until `reopen`. */
  failNext = false;
  /** Nothing can be written. */
  diskFull = false;
  /** Batches that became durable. */
  readonly commits: { readonly events: number; readonly changes: CommitBatch["changes"] }[] = [];
  reopens = 0;
  readonly #store: EdgeStore;
  #waiting: (() => void)[] = [];
  #tail: Promise<unknown> = Promise.resolve();
  #log: MemoryLog | undefined;
  #killed = false;

  constructor(clock: Clock, random: Random, disk: MemoryDisk = new MemoryDisk()) {
    this.disk = disk;
    disk.fault = () => (this.diskFull ? "full" : undefined);
    this.#store = createEdgeStore({
      log: async () => {
        if (this.#killed) throw new TributaryError("DATA_DIR_LOCKED", "another process has it now");
        this.#log = new MemoryLog(disk);
        return { log: this.#log, report: { recordsQuarantined: 0, quarantinePath: "" } };
      },
      random,
      clock,
      // Checkpoints, and with them truncations, after a few events.
      checkpointBytesMin: 2_048,
    });
  }

  /** Commits that wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  release(count: number = this.#waiting.length): void {
    for (const go of this.#waiting.splice(0, count)) go();
  }

  /** As when the process is killed: nothing that this store has begun goes on. */
  async kill(): Promise<void> {
    this.#killed = true;
    await this.#log?.close();
  }

  /** Events of a stream, all that are durable. */
  async events(streamId: Id): Promise<LocalEvent[]> {
    const events: LocalEvent[] = [];
    for (let ordinal = 0; ; ) {
      const page = await this.#store.readLocal(streamId, ordinal, { eventsMax: 10_000, bytesMax: 100_000_000 });
      if (page.events.length === 0) return events;
      events.push(...page.events);
      ordinal = page.nextOrdinal;
    }
  }

  open(): Promise<OpenedEdge> {
    return this.#store.open();
  }

  reopen(): Promise<OpenedEdge> {
    this.reopens++;
    return this.#store.reopen();
  }

  commit(batch: CommitBatch): Promise<CommitResult> {
    const released = this.held ? new Promise<void>((resolve) => this.#waiting.push(resolve)) : undefined;
    // Carried out in the order of the calls.
    const result = this.#tail.then(async () => {
      await released;
      if (this.failNext) {
        this.failNext = false;
        this.disk.fault = () => "full";
      }
      try {
        const done = await this.#store.commit(batch);
        this.commits.push({ events: batch.columns.count, changes: batch.changes });
        return done;
      } finally {
        this.disk.fault = () => (this.diskFull ? "full" : undefined);
      }
    });
    this.#tail = result.catch(() => {});
    return result;
  }

  uplinkNext: EdgeStore["uplinkNext"] = (bytesMax) => this.#store.uplinkNext(bytesMax);
  uplinkRewind: EdgeStore["uplinkRewind"] = (reached) => this.#store.uplinkRewind(reached);
  uplinkFree: EdgeStore["uplinkFree"] = (throughUnit) => this.#store.uplinkFree(throughUnit);
  readLocal: EdgeStore["readLocal"] = (streamId, from, bounds) => this.#store.readLocal(streamId, from, bounds);
  dropOldest: EdgeStore["dropOldest"] = (bytesTarget) => this.#store.dropOldest(bytesTarget);
  reclaim: EdgeStore["reclaim"] = (bytesTarget) => this.#store.reclaim(bytesTarget);
  usage: EdgeStore["usage"] = () => this.#store.usage();
  close: EdgeStore["close"] = () => this.#store.close();
}
