import type { Clock } from "@tributary/common/clock";
import { hasCode, TributaryError } from "@tributary/common/errors";
import { type Id, INCARNATION_BYTES, newId, WRITER_ID_BYTES } from "@tributary/common/names";
import type { Log } from "@tributary/common/ports/log";
import type { Random } from "@tributary/common/random";
import { EdgeSession } from "./edge-session.ts";
import { forgetStream, forgettableStreams, snapshotEdgeState } from "./edge-state.ts";
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
import { encodeIncarnation } from "./incarnation-record.ts";
import { type Recovered, recover, replayCost } from "./recovery.ts";

/** A log as its engine opened it. */
export interface OpenedLog {
  readonly log: Log;
  readonly report: {
    readonly recordsQuarantined: number;
    /** Where the engine put damaged files; empty if none. */
    readonly quarantinePath: string;
  };
}

/** Bytes of the disk that are held back, so that a log on a full disk can still write what makes room. */
export interface DiskReserve {
  /** False if there was none left to give up. */
  release(): boolean;
  /** Takes it again if there is room. Never throws. */
  restore(): void;
}

export interface EdgeStoreOptions {
  /** Opens the log; called again by `reopen`, and when reading showed that the engine has to salvage it. */
  readonly log: () => Promise<OpenedLog>;
  readonly random: Random;
  readonly clock: Clock;
  readonly reserve?: DiskReserve;
  /** Puts the bytes of a damaged record aside; once for each. Returns where. */
  readonly quarantine?: (seq: number, data: Uint8Array) => string;
  /** Lets commits go between two steps of long work; absent: long work is not interrupted. */
  readonly breathe?: () => Promise<void>;
  /** Growth of the log at which a checkpoint is written, where the state is small. */
  readonly checkpointBytesMin?: number;
  /** Units handed out by an earlier store over the same log, in this process. */
  readonly lastUnit?: number;
}

const CHECKPOINT_BYTES_MIN = 4 * 1024 * 1024;
/** Attempts at a log that shows damage while it is read: each one salvages. */
const OPEN_ATTEMPTS_MAX = 3;
/** Damaged records whose bytes are put aside; more are only counted. */
const QUARANTINED_MAX = 1024;

async function noBreath(): Promise<void> {}

export function createEdgeStore(options: EdgeStoreOptions): EdgeStore {
  return new LogEdgeStore(options);
}

/** EdgeStore over the Log port, one session for each start. Deterministic for a deterministic log, clock and random source. */
class LogEdgeStore implements EdgeStore {
  readonly #options: EdgeStoreOptions;
  readonly #quarantined = new Set<number>();
  #session: EdgeSession | undefined;
  #lastUnit: number;
  #recordsQuarantined = 0;
  #quarantinePath = "";

  constructor(options: EdgeStoreOptions) {
    this.#options = options;
    this.#lastUnit = options.lastUnit ?? 0;
  }

  async open(): Promise<OpenedEdge> {
    const startedMs = this.#options.clock.monotonicMs();
    await this.close();
    for (let attempt = 1; ; attempt++) {
      const { log, report } = await this.#withReserve(() => this.#options.log());
      this.#recordsQuarantined += report.recordsQuarantined;
      if (report.quarantinePath) this.#quarantinePath = report.quarantinePath;
      try {
        const opened = await this.#begin(log, startedMs);
        this.#options.reserve?.restore();
        return opened;
      } catch (error) {
        await log.close();
        // The engine met damage while reading: opened again, it salvages.
        if (!hasCode(error, "STORE_CORRUPT") || attempt >= OPEN_ATTEMPTS_MAX) throw error;
      }
    }
  }

  reopen(): Promise<OpenedEdge> {
    return this.open();
  }

  async #begin(log: Log, startedMs: number): Promise<OpenedEdge> {
    const { random, clock } = this.#options;
    const onDamage = (from: number, seq: number, data: Uint8Array | undefined) => this.#noteDamage(from, seq, data);
    const recovered = await recover(log, onDamage);
    const writer = recovered.writer ?? newId(random, WRITER_ID_BYTES);
    const incarnation = newId(random, INCARNATION_BYTES);
    const begun = await this.#writeIncarnation(log, recovered, writer, incarnation);
    const session = new EdgeSession({
      log,
      recovered: begun,
      writer,
      incarnation,
      drawIncarnation: () => newId(random, INCARNATION_BYTES),
      lastUnit: this.#lastUnit,
      checkpointBytesMin: this.#options.checkpointBytesMin ?? CHECKPOINT_BYTES_MIN,
      onDamage,
      breathe: this.#options.breathe ?? noBreath,
      recordsQuarantined: () => this.#recordsQuarantined,
      releaseReserve: () => this.#options.reserve?.release() ?? false,
      restoreReserve: () => this.#options.reserve?.restore(),
    });
    await session.finishTruncation(recovered.truncateThrough);
    this.#session = session;
    return {
      writer,
      incarnation,
      parent: recovered.incarnation,
      state: snapshotEdgeState(session.state),
      report: {
        recordsRead: recovered.recordsRead,
        recordsQuarantined: this.#recordsQuarantined,
        quarantinePath: this.#quarantinePath,
        tookMs: clock.monotonicMs() - startedMs,
      },
    };
  }

  /** Durable before anything is acknowledged under the new incarnation (rule W1). */
  async #writeIncarnation(log: Log, recovered: Recovered, writer: Id, incarnation: Id): Promise<Recovered> {
    const { state, fold, positions } = recovered;
    const forgotten = forgettableStreams(state, true);
    const isForgotten = new Set(forgotten);
    const isKept = ({ id }: { id: Id }) => !isForgotten.has(id);
    const bytes = encodeIncarnation({
      seq: recovered.log.last + 1,
      checkpoint: recovered.checkpoint?.seq ?? 0,
      writer,
      incarnation,
      parent: recovered.incarnation,
      parentLasts: recovered.numbers.lasts().filter(isKept),
      forgotten,
    });
    await this.#withReserve(() => log.append(bytes, recovered.log.last));
    for (const id of forgotten) {
      forgetStream(state, id);
      fold.forget(id);
      positions.forget(id);
    }
    recovered.numbers.clear();
    const { first, last } = recovered.log;
    return { ...recovered, log: { ...recovered.log, first, last: last + 1 }, grown: recovered.grown + replayCost(bytes.length) };
  }

  async #withReserve<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (!hasCode(error, "STORAGE_FULL") || !this.#options.reserve?.release()) throw error;
      return await work();
    }
  }

  #noteDamage(from: number, seq: number, data: Uint8Array | undefined): void {
    if (this.#quarantined.has(seq)) return;
    this.#recordsQuarantined += seq - from + 1;
    if (this.#quarantined.size >= QUARANTINED_MAX) return;
    this.#quarantined.add(seq);
    if (data && this.#options.quarantine) this.#quarantinePath = this.#options.quarantine(seq, data);
  }

  async commit(batch: CommitBatch): Promise<CommitResult> {
    return this.#live().commit(batch);
  }

  async uplinkNext(bytesMax: number): Promise<UplinkUnit[]> {
    return this.#live().uplinkNext(bytesMax);
  }

  async uplinkRewind(reached: readonly ReachedNumber[] = []): Promise<void> {
    return this.#live().uplinkRewind(reached);
  }

  async uplinkFree(throughUnit: number): Promise<FreeReport> {
    return this.#live().uplinkFree(throughUnit);
  }

  async readLocal(streamId: Id, fromOrdinal: number, bounds: { eventsMax: number; bytesMax: number }): Promise<LocalPage> {
    return this.#live().readLocal(streamId, fromOrdinal, bounds);
  }

  async dropOldest(bytesTarget: number): Promise<DropReport> {
    return this.#live().dropOldest(bytesTarget);
  }

  async reclaim(bytesTarget: number): Promise<DropReport> {
    return this.#live().reclaim(bytesTarget);
  }

  async usage(): Promise<EdgeUsage> {
    return this.#live().usage();
  }

  async close(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    if (!session) return;
    this.#lastUnit = session.lastUnit;
    await session.close();
  }

  #live(): EdgeSession {
    if (!this.#session) throw new TributaryError("LOG_CLOSED", "the edge store is not open");
    return this.#session;
  }
}
