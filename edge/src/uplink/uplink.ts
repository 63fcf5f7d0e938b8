import type { Clock } from "@tributary/common/clock";
import { TributaryError, toTributaryError } from "@tributary/common/errors";
import { encodeCbor } from "@tributary/common/format/cbor";
import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { PhaseListener } from "@tributary/common/phases";
import type { Bus } from "@tributary/common/ports/bus";
import type { Random } from "@tributary/common/random";
import { type AppendAnswer, type HelloRequest, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import type { EdgeStore, OpenedEdge } from "../store/edge-store.ts";
import { decodeHelloAnswer } from "./answers.ts";
import { backoffMs } from "./backoff.ts";
import { BlockSender } from "./block-sender.ts";
import { followCore, type News } from "./core-news.ts";
import { newCounters, type UplinkCounters } from "./counters.ts";
import { Freeing } from "./freeing.ts";
import { LevelWatch } from "./level-watch.ts";
import { type LinkEvent, type LinkState, nextLinkState } from "./link-state.ts";
import type { UplinkOptions } from "./options.ts";
import { Refusals, refusal, tellsOfFork } from "./refusals.ts";
import { type ResolveResult, resolveStreams, type UnresolvedStream } from "./resolver.ts";
import { RouteTable } from "./route-table.ts";
import { UnitTracker } from "./unit-tracker.ts";

const VERSION_CHARS_MAX = 64;

/** What the uplink needs of the gateway. */
export interface UplinkHost {
  /** Streams that the core has not mapped yet. */
  unresolved(): UnresolvedStream[];
  /** The stream that the core knows under this id. */
  byCoreId(coreId: Id): UnresolvedStream | undefined;
  /** True if another stream is or was mapped to it in this incarnation. */
  isMappedByAnother(coreId: Id, streamId: Id): boolean;
  /** Makes the mappings durable. @throws STORAGE_FULL and whatever a commit throws */
  map(changes: ResolveResult["changes"]): Promise<void>;
  /** Space was freed. */
  freed(): void;
  /** The store failed; perhaps it has to be opened again. */
  storeFailed(error: unknown): void;
}

export interface UplinkParts {
  readonly store: Pick<EdgeStore, "uplinkNext" | "uplinkRewind" | "uplinkFree">;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly phases: PhaseListener;
  readonly host: UplinkHost;
}

export interface UplinkStatus {
  readonly state: LinkState;
  /** "CODE: message"; empty while all is well. */
  readonly lastError: string;
  /** Handed out and not freed. */
  readonly unitsOutstanding: number;
  readonly bytesOutstanding: number;
  readonly counters: Readonly<UplinkCounters>;
}

/**
 * Replicates the edge log to the core: greets it, registers streams, sends blocks in order for each container, and frees what is
 * confirmed. Nothing here is durable: after a crash everything not freed is sent again, and the core knows what it has (rule W2).
 */
export class Uplink {
  readonly #options: UplinkOptions;
  readonly #parts: UplinkParts;
  readonly #tracker: UnitTracker;
  readonly #levels: LevelWatch;
  readonly #routes: RouteTable;
  readonly #news: News;
  readonly #sender: BlockSender;
  readonly #refusals: Refusals;
  readonly #freeing: Freeing;
  /** Work in the store that has not ended. */
  readonly #inStore = new Set<Promise<unknown>>();
  readonly #counters = newCounters();
  readonly #unsubscribeStatus: () => void;
  #identity: OpenedEdge;
  #state: LinkState = "offline";
  /** Counts entries into states: work of an earlier one has no say any more. */
  #visit = 0;
  #rewindNeeded = true;
  /** The incarnation that the core was told last, and whether it is being told of another one beside what is sent. */
  #told: Id | undefined;
  #telling = false;
  #failuresInRow = 0;
  #lastError: TributaryError | undefined;
  #cancelRetry: (() => void) | undefined;

  constructor(opened: OpenedEdge, options: UplinkOptions, parts: UplinkParts) {
    this.#identity = opened;
    this.#options = options;
    this.#parts = parts;
    this.#tracker = new UnitTracker(options.freeAt);
    this.#routes = new RouteTable(parts.clock);
    this.#refusals = new Refusals((coreId) => parts.host.byCoreId(coreId));
    const shared = {
      store: parts.store,
      tracker: this.#tracker,
      counters: this.#counters,
      work: (work: () => Promise<void>) => this.#work(work),
      stored: <T>(work: Promise<T>) => this.#store(work),
    };
    this.#sender = new BlockSender({
      ...shared,
      options,
      bus: parts.bus,
      phases: parts.phases,
      routes: this.#routes,
      maySend: () => this.#state === "sending" || (this.#state === "resolving" && !this.#rewindNeeded && this.#refusals.lookUps.size === 0),
      allWell: () => this.#allWell(),
      free: () => this.#freeing.free(),
      refused: (block, answer, isFirst) => this.#refused(block, answer, isFirst),
      failed: (error) => this.#fail(error),
    });
    this.#freeing = new Freeing({
      ...shared,
      mayFree: () => this.#state !== "forked" && this.#state !== "stopped",
      freed: () => parts.host.freed(),
      madeRoom: () => this.#sender.pump(),
    });
    this.#levels = new LevelWatch({
      bus: parts.bus,
      clock: parts.clock,
      log: parts.log,
      cluster: options.cluster,
      requestTimeoutMs: options.requestTimeoutMs,
      intervalMs: options.levelsIntervalMs,
      tracker: this.#tracker,
      routes: this.#routes,
      writer: () => this.#identity.writer,
      mayAsk: () => this.#state === "sending" || this.#state === "resolving",
      confirmed: () => this.#freeing.free(),
      lost: () => this.#lost(),
      misunderstood: () => this.#counters.answersInvalid++,
    });
    this.#news = followCore(parts.bus, options.cluster, {
      tiered: (container) => {
        if (options.freeAt === "tiered") this.#levels.tiered(container);
      },
      moved: (container, epoch) => {
        if (this.#routes.heard(container, epoch)) this.#sender.moved(container);
      },
    });
    this.#unsubscribeStatus = parts.bus.onStatus((connected) => this.#on(connected ? "connected" : "disconnected"));
    if (parts.bus.connected()) this.#on("connected");
  }

  status(): UplinkStatus {
    const error = this.#lastError ?? this.#levels.problem;
    return {
      state: this.#state,
      lastError: error ? `${error.code}: ${error.message}` : "",
      unitsOutstanding: this.#tracker.size,
      bytesOutstanding: this.#tracker.bytes,
      counters: this.#counters,
    };
  }

  /** Something new is durable. */
  wake(): void {
    this.#sender.wake();
  }

  /** A stream was created. */
  streamsChanged(): void {
    this.#on("streams-changed");
  }

  /**
   * A new incarnation began in the log that is open: what is out stays valid. The core is told of it beside what is sent, since names may
   * be created again faster than it answers.
   */
  renewed(opened: OpenedEdge): void {
    this.#identity = opened;
    this.#tellRenewed();
  }

  /** The log was opened again under a new incarnation. */
  reopened(opened: OpenedEdge): void {
    this.#identity = opened;
    this.#forgetUnits();
    this.#on("reopened");
  }

  /** The log dropped events that may have been handed out. */
  dropped(): void {
    this.#forgetUnits();
    this.#on("streams-changed");
  }

  /** Sends no more. Answers that are still on their way are not waited for. */
  async close(): Promise<void> {
    this.#on("stop");
    this.#unsubscribeStatus();
    this.#levels.close();
    await this.#news.close();
    await Promise.allSettled(this.#inStore);
  }

  #on(event: LinkEvent): void {
    const before = this.#state;
    const state = nextLinkState(before, event);
    if (state === before) return;
    this.#parts.log.debug("uplink", { from: before, to: state, event });
    this.#state = state;
    this.#visit++;
    this.#cancelRetry?.();
    this.#cancelRetry = undefined;
    switch (state) {
      case "waiting":
        this.#sender.startOver();
        this.#cancelRetry = this.#parts.clock.setTimer(this.#waitMs(), () => this.#on("retry"));
        return;
      case "greeting":
        this.#work(() => this.#greet());
        return;
      case "resolving":
        this.#work(() => this.#resolve());
        return;
      case "sending":
        this.#tellRenewed();
        this.#sender.pump();
        return;
      case "offline":
      case "forked":
      case "stopped":
        this.#sender.startOver();
    }
  }

  #waitMs(): number {
    // The first contact need not wait; every later one is spread.
    if (this.#counters.hellos === 0 && this.#failuresInRow === 0) return 0;
    return backoffMs(this.#failuresInRow, { firstMs: this.#options.backoffFirstMs, maxMs: this.#options.backoffMaxMs }, this.#parts.random);
  }

  /** Runs work of the present state; what it throws is that state's failure. */
  #work(work: () => Promise<void>): void {
    const visit = this.#visit;
    work().catch((error: unknown) => {
      if (visit === this.#visit) this.#fail(toTributaryError(error));
    });
  }

  #fail(error: TributaryError): void {
    if (error.code !== this.#lastError?.code) this.#parts.log.warn("uplink", { code: error.code, reason: error.message });
    this.#lastError = error;
    this.#counters.failures++;
    if (error.code === "CORE_ANSWER_INVALID") this.#counters.answersInvalid++;
    this.#failuresInRow++;
    this.#on("failed");
  }

  async #greet(): Promise<void> {
    const visit = this.#visit;
    if (await this.#hello(() => visit === this.#visit)) this.#on("greeted");
  }

  /** One at a time: of many that began meanwhile the core hears of the newest. */
  #tellRenewed(): void {
    const connected = () => this.#state === "sending" || this.#state === "resolving";
    if (this.#telling || !connected() || this.#told === this.#identity.incarnation) return;
    this.#telling = true;
    this.#work(async () => {
      try {
        await this.#hello(connected);
      } finally {
        this.#telling = false;
      }
      this.#tellRenewed();
    });
  }

  /** Tells the core which incarnation this is. False if the answer came when it counted no more. */
  async #hello(counts: () => boolean): Promise<boolean> {
    const { writer, incarnation, parent } = this.#identity;
    const { cluster, name, version, requestTimeoutMs: timeoutMs } = this.#options;
    const { bus } = this.#parts;
    const request: HelloRequest = {
      type: "hello",
      writer,
      incarnation,
      parent,
      // Host names may be longer than what the core takes.
      name: name.slice(0, LIMITS.nameCharsMax),
      version: version.slice(0, VERSION_CHARS_MAX),
    };
    const answer = decodeHelloAnswer(await bus.request(UPLINK_SUBJECTS.control(cluster), encodeCbor(request), { timeoutMs }));
    if (!counts()) return false;
    this.#told = incarnation;
    this.#counters.hellos++;
    this.#counters.siblings = answer.siblings.length;
    this.#news.ensure();
    for (const [container, epoch] of (answer.epochs ?? []).entries()) this.#routes.heard(container, epoch);
    if (answer.siblings.length > 0) {
      this.#parts.log.warn("another gateway runs, or ran, from a copy of this data folder", { siblings: answer.siblings.join(" ") });
    }
    return true;
  }

  async #resolve(): Promise<void> {
    const visit = this.#visit;
    if (this.#rewindNeeded) await this.#rewind();
    const open = new Map(this.#parts.host.unresolved().map((stream) => [stream.id, stream]));
    for (const [id, stream] of this.#refusals.lookUps) open.set(id, stream);
    if (open.size > 0) {
      const { bus, random, host } = this.#parts;
      const { cluster, requestTimeoutMs: timeoutMs } = this.#options;
      const isTaken = (coreId: Id, streamId: Id) => host.isMappedByAnother(coreId, streamId);
      const result = await resolveStreams([...open.values()], this.#identity.writer, { bus, cluster, timeoutMs, random, isTaken });
      if (visit !== this.#visit) return;
      await this.#parts.host.map(result.changes);
      this.#reportQuarantined(result.quarantined);
      this.#refusals.lookedUp(open.keys());
    }
    if (visit !== this.#visit) return;
    this.#on("resolved");
    // More may have happened while the core was asked.
    if (this.#rewindNeeded || this.#parts.host.unresolved().length > 0) this.#on("streams-changed");
  }

  #reportQuarantined(quarantined: ResolveResult["quarantined"]): void {
    for (const { id, name, to, problem } of quarantined) {
      this.#counters.streamsQuarantined++;
      this.#parts.log.error("the core cannot map this stream; its events go to a quarantine stream", {
        stream: `${name.scope}/${name.stream}`,
        id,
        problem,
        quarantine: `${to.scope}/${to.stream}`,
      });
    }
  }

  async #rewind(): Promise<void> {
    this.#forgetUnits();
    await this.#store(this.#parts.store.uplinkRewind(this.#refusals.takeReached()));
    this.#rewindNeeded = false;
  }

  #forgetUnits(): void {
    if (this.#tracker.size > 0) this.#counters.rewinds++;
    this.#rewindNeeded = true;
    this.#freeing.forget();
    this.#sender.forget();
  }

  #refused(block: Uint8Array, answer: AppendAnswer, isFirst: boolean): void {
    if (tellsOfFork(answer)) {
      this.#lastError = new TributaryError("WRITER_FORKED", "another gateway wrote different events under the numbers of this one");
      this.#parts.log.error("the uplink stopped: another gateway writes under this identity; retire one of them", {
        writer: this.#identity.writer,
        incarnation: this.#identity.incarnation,
      });
      this.#on("forked");
      return;
    }
    this.#refusals.note(block, answer, isFirst);
    if (this.#refusals.any) this.#rewindNeeded = true;
    this.#fail(refusal(answer));
  }

  #allWell(): void {
    // What was on its way as the writer was found to be forked may be accepted: that heals nothing.
    if (this.#state === "forked") return;
    if (this.#lastError) this.#parts.log.info("the uplink works again", { after: this.#lastError.code });
    this.#failuresInRow = 0;
    this.#lastError = undefined;
  }

  /** The core went back, or the stream was deleted there: what was accepted may have to be sent again, and nothing else tells. */
  #lost(): void {
    if (this.#state !== "sending" && this.#state !== "resolving") return;
    this.#rewindNeeded = true;
    this.#fail(new TributaryError("PREVIOUS_NOT_REACHED", "the core no longer has events that it had accepted"));
  }

  async #store<T>(work: Promise<T>): Promise<T> {
    this.#inStore.add(work);
    try {
      return await work;
    } catch (error) {
      this.#parts.host.storeFailed(error);
      throw error;
    } finally {
      this.#inStore.delete(work);
    }
  }
}
