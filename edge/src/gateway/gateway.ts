import type { Clock } from "@tributary/common/clock";
import { hasCode } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { PhaseListener } from "@tributary/common/phases";
import type { Bus } from "@tributary/common/ports/bus";
import type { Random } from "@tributary/common/random";
import type { StreamService } from "@tributary/common/stream-service";
import type { EdgeStore, EdgeUsage, OpenedEdge, RecoveryReport, StateChange } from "../store/edge-store.ts";
import { UPLINK_DEFAULTS, type UplinkOptions } from "../uplink/options.ts";
import type { UnresolvedStream } from "../uplink/resolver.ts";
import { Uplink, type UplinkStatus } from "../uplink/uplink.ts";
import { CoreHistory } from "./core-history.ts";
import { GroupCommit, type IngestCounters } from "./group-commit.ts";
import { admissionError, type Ingest } from "./ingest.ts";
import { PromisedAnswers } from "./promised-answers.ts";
import type { QuotaPolicy } from "./quota.ts";
import { QuotaKeeper } from "./quota-keeper.ts";
import { GatewayStreamService } from "./stream-service.ts";
import type { StreamState } from "./stream-table.ts";

export interface GatewayParts {
  readonly store: EdgeStore;
  /** undefined: a gateway on its own. It may also be down, and come and go. */
  readonly bus: Bus | undefined;
  /** Stands in the subjects of the uplink. */
  readonly cluster: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly phases: PhaseListener;
  readonly options: GatewayOptions;
}

export interface GatewayOptions {
  /** What its operator calls the gateway. */
  readonly name: string;
  readonly version: string;
  readonly quota: QuotaPolicy;
  /** Longest wait of an idle gateway for more events before it commits. */
  readonly lingerMsMax: number;
  readonly streamsMax: number;
  readonly uplink: Partial<Omit<UplinkOptions, "cluster" | "name" | "version">>;
}

export interface GatewayStatus {
  readonly writer: Id;
  readonly incarnation: Id;
  readonly streams: number;
  readonly counters: Readonly<IngestCounters>;
  readonly usage: EdgeUsage;
  readonly diskBytesMax: number;
  /** Events are refused, or wait, because of the disk quota. */
  readonly overQuota: boolean;
  readonly eventsDropped: number;
  /** Why the log cannot be written now, "CODE: message"; empty while it can. */
  readonly trouble: string;
  /** undefined without a core. */
  readonly uplink: UplinkStatus | undefined;
  readonly recovery: RecoveryReport;
}

export interface Gateway {
  readonly streams: StreamService;
  readonly ingest: Ingest;
  status(): GatewayStatus;
  /** Refuses what is new, makes durable what was accepted and answers it, then stops the uplink and closes the store. */
  close(): Promise<void>;
}

/**
 * Opens a gateway over its store. It serves at once, whether or not the core can be reached.
 * @throws DATA_DIR_LOCKED, STORAGE_FULL, FORMAT_UNSUPPORTED
 */
export async function openGateway(parts: GatewayParts): Promise<Gateway> {
  const opened = await parts.store.open();
  reportRecovery(parts.log, opened.report);
  return new RunningGateway(parts, opened, await parts.store.usage());
}

class RunningGateway implements Gateway {
  readonly streams: GatewayStreamService;
  readonly ingest: GroupCommit;
  readonly #parts: GatewayParts;
  readonly #quota: QuotaKeeper;
  readonly #uplink: Uplink | undefined;
  readonly #answers = new PromisedAnswers();
  #opened: OpenedEdge;
  #streamsSeen: number;
  #eventsDropped = 0;
  #closing: Promise<void> | undefined;

  constructor(parts: GatewayParts, opened: OpenedEdge, usage: EdgeUsage) {
    const { store, bus, cluster, clock, random, log, phases, options } = parts;
    this.#parts = parts;
    this.#opened = opened;
    this.ingest = new GroupCommit({
      store,
      opened,
      clock,
      random,
      phases,
      streamsMax: options.streamsMax,
      lingerMsMax: options.lingerMsMax,
      observer: {
        committed: (result) => {
          this.#quota.note(result.usage);
          if (result.incarnation !== this.#opened.incarnation) {
            this.#opened = { ...this.#opened, incarnation: result.incarnation, parent: this.#opened.incarnation };
            log.info("a new incarnation began, since a name that was deleted was created again", { incarnation: result.incarnation });
            this.#uplink?.renewed(this.#opened);
          }
          if (this.ingest.table.created !== this.#streamsSeen) {
            this.#streamsSeen = this.ingest.table.created;
            this.#uplink?.streamsChanged();
          }
          this.#uplink?.wake();
        },
        failed: (error) =>
          log.error("the edge log failed; what was not durable was not acknowledged", { code: error.code, reason: error.message }),
        reopenFailed: (error) => log.error("the edge log cannot be opened again yet", { code: error.code, reason: error.message }),
        reopened: (again) => {
          this.#opened = again;
          reportRecovery(log, again.report);
          this.#uplink?.reopened(again);
        },
        overQuota: (bytes) => this.#quota.overQuota(bytes),
      },
    });
    this.#streamsSeen = this.ingest.table.created;
    this.#quota = new QuotaKeeper(
      {
        policy: options.quota,
        store,
        clock,
        pendingBytes: () => this.ingest.pendingBytes,
        apply: (decision, rejects) => this.ingest.applyQuota(decision, rejects),
        dropped: (report) => {
          this.#eventsDropped += report.eventsDropped;
          log.warn("the disk quota is used up: the oldest events were dropped", { events: report.eventsDropped, bytes: report.bytesFreed });
          this.#uplink?.dropped();
        },
        failed: (error) => {
          log.warn("the disk quota cannot be looked after now", { code: error.code, reason: error.message });
          this.#storeFailed(error);
        },
      },
      usage,
    );
    const uplinkOptions: UplinkOptions = { ...UPLINK_DEFAULTS, ...options.uplink, cluster, name: options.name, version: options.version };
    this.streams = new GatewayStreamService({
      ingest: this.ingest,
      store,
      clock,
      writer: () => this.#opened.writer,
      storeFailed: (error) => this.#storeFailed(error),
      history: bus && new CoreHistory(bus, cluster, uplinkOptions.requestTimeoutMs),
    });
    if (!bus) return;
    this.#uplink = new Uplink(opened, uplinkOptions, {
      store,
      bus,
      clock,
      random,
      log,
      phases,
      host: {
        unresolved: () => this.ingest.table.unresolved().map(toUnresolved),
        byCoreId: (coreId) => {
          const stream = this.ingest.table.byCoreId(coreId);
          return stream && toUnresolved(stream);
        },
        isMappedByAnother: (coreId, streamId) => this.ingest.table.isMappedByAnother(coreId, streamId),
        map: (changes) => this.#makeDurable(changes),
        freed: () => void this.#quota.refresh(),
        storeFailed: (error) => this.#storeFailed(error),
      },
    });
  }

  status(): GatewayStatus {
    const trouble = this.ingest.trouble;
    return {
      writer: this.#opened.writer,
      incarnation: this.#opened.incarnation,
      streams: this.ingest.table.size,
      counters: this.ingest.counters,
      usage: this.#quota.usage,
      diskBytesMax: this.#parts.options.quota.diskBytesMax,
      overQuota: this.#quota.refusing,
      eventsDropped: this.#eventsDropped,
      trouble: trouble ? `${trouble.code}: ${trouble.message}` : "",
      uplink: this.#uplink?.status(),
      recovery: this.#opened.report,
    };
  }

  close(): Promise<void> {
    this.#closing ??= this.#stop();
    return this.#closing;
  }

  async #stop(): Promise<void> {
    await this.ingest.close();
    this.#quota.close();
    await this.#uplink?.close();
    await this.#parts.store.close();
  }

  /** Whoever meets a closed log first sees to it that it is opened again: there may be no commit for a long time. */
  #storeFailed(error: unknown): void {
    if (hasCode(error, "LOG_CLOSED")) this.ingest.logClosed(error);
  }

  async #makeDurable(changes: readonly StateChange[]): Promise<void> {
    if (changes.length === 0) return;
    for (const change of changes) {
      // Without a target: the barrier behind them answers for all.
      const admission = this.ingest.change(change, undefined, 0);
      if (admission !== "accepted") throw this.ingest.trouble ?? admissionError(admission);
    }
    const { token, answered } = this.#answers.expect();
    this.ingest.barrier(this.#answers, token);
    await answered;
  }
}

function toUnresolved(stream: StreamState): UnresolvedStream {
  const { id, name, contentType, segments, createdAtMs } = stream;
  return { id, name, contentType, segments, createdAtMs };
}

function reportRecovery(log: Logger, report: RecoveryReport): void {
  const { recordsRead, recordsQuarantined, quarantinePath, tookMs } = report;
  if (recordsQuarantined > 0 || quarantinePath !== "") {
    log.warn("the edge log was damaged; what could not be read was put aside", { recordsQuarantined, quarantinePath });
  }
  log.info("edge log opened", { recordsRead, tookMs });
}
