import { assert } from "@tributary/common/assert";
import type { Clock } from "@tributary/common/clock";
import { TributaryError, toTributaryError } from "@tributary/common/errors";
import { decodeBlock } from "@tributary/common/format/block";
import { encodeCbor } from "@tributary/common/format/cbor";
import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import { inPhase, type PhaseListener } from "@tributary/common/phases";
import type { Bus } from "@tributary/common/ports/bus";
import type { Random } from "@tributary/common/random";
import { type AppendAnswer, type HelloRequest, SLICE_STATUS, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import type { EdgeStore, OpenedEdge, ReachedNumber, UplinkUnit } from "../store/edge-store.ts";
import { decodeAppendAnswer, decodeHelloAnswer } from "./answers.ts";
import { backoffMs } from "./backoff.ts";
import { ContainerQueue, type QueuedBlock } from "./container-queue.ts";
import { followCore, type News } from "./core-news.ts";
import { isDetour } from "./detour.ts";
import { LevelWatch } from "./level-watch.ts";
import { type LinkEvent, type LinkState, nextLinkState } from "./link-state.ts";
import { type ResolveResult, resolveStreams, type UnresolvedStream } from "./resolver.ts";
import { RouteTable } from "./route-table.ts";
import { UnitTracker } from "./unit-tracker.ts";

export interface UplinkOptions {
  /** Stands in the subjects. */
  readonly cluster: string;
  /** What its operator calls the gateway. */
  readonly name: string;
  readonly version: string;
  /** When the gateway may forget an event. */
  readonly freeAt: "committed" | "tiered";
  readonly requestTimeoutMs: number;
  /** Waits after failures double from the first to the longest. */
  readonly backoffFirstMs: number;
  readonly backoffMaxMs: number;
  readonly levelsIntervalMs: number;
  /** Bounds of what is handed out and not freed: when the core is slow, sending stops there (rule C7). */
  readonly unitsMax: number;
  readonly bytesMax: number;
  readonly needsMax: number;
}

const VERSION_CHARS_MAX = 64;
/** Encoded bytes of one unit asked of the store. */
const UNIT_BYTES_TARGET = 262_144;

export const UPLINK_DEFAULTS: Omit<UplinkOptions, "cluster" | "name" | "version"> = {
  freeAt: "tiered",
  requestTimeoutMs: 5_000,
  backoffFirstMs: 100,
  backoffMaxMs: 5_000,
  levelsIntervalMs: 1_000,
  unitsMax: 512,
  bytesMax: 67_108_864,
  needsMax: 262_144,
};

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

export interface UplinkCounters {
  blocksSent: number;
  blocksAccepted: number;
  blocksRefused: number;
  bytesSent: number;
  eventsFreed: number;
  rewinds: number;
  hellos: number;
  failures: number;
  /** Answers of the core that could not be understood. */
  answersInvalid: number;
  /** Times that a container's owner was not found where it was asked directly. */
  detours: number;
  streamsQuarantined: number;
  siblings: number;
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

/** Statuses after which the stream has to be looked up again. */
const LOOK_UP_AGAIN: ReadonlySet<number> = new Set([SLICE_STATUS.sealed, SLICE_STATUS.streamGone, SLICE_STATUS.wrongContainer]);
const OUT_OF_PLACE: ReadonlySet<number> = new Set([SLICE_STATUS.previousNotReached, SLICE_STATUS.parentNotReached]);

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
  readonly #queues = new Map<number, ContainerQueue>();
  readonly #lookUpAgain = new Map<Id, UnresolvedStream>();
  /** What containers said that they have as they refused what was first in their turn. */
  #reached: ReachedNumber[] = [];
  /** Work in the store that has not ended. */
  readonly #inStore = new Set<Promise<unknown>>();
  readonly #counters: UplinkCounters = {
    blocksSent: 0,
    blocksAccepted: 0,
    blocksRefused: 0,
    bytesSent: 0,
    eventsFreed: 0,
    rewinds: 0,
    hellos: 0,
    failures: 0,
    answersInvalid: 0,
    detours: 0,
    streamsQuarantined: 0,
    siblings: 0,
  };
  readonly #unsubscribeStatus: () => void;
  #identity: OpenedEdge;
  #state: LinkState = "offline";
  /** Counts entries into states: work of an earlier one has no say any more. */
  #visit = 0;
  /** Counts rewinds: units of an earlier round are void. */
  #round = 0;
  #rewindNeeded = true;
  /** The incarnation that the core was told last, and whether it is being told of another one beside what is sent. */
  #told: Id | undefined;
  #telling = false;
  #pulling = false;
  #wokenWhilePulling = false;
  #freeing = false;
  #freeThrough: { readonly round: number; readonly unit: number } | undefined;
  #failuresInRow = 0;
  #lastError: TributaryError | undefined;
  #cancelRetry: (() => void) | undefined;

  constructor(opened: OpenedEdge, options: UplinkOptions, parts: UplinkParts) {
    this.#identity = opened;
    this.#options = options;
    this.#parts = parts;
    this.#tracker = new UnitTracker(options.freeAt);
    this.#routes = new RouteTable(parts.clock);
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
      confirmed: () => this.#free(),
      lost: () => this.#lost(),
      misunderstood: () => this.#counters.answersInvalid++,
    });
    this.#news = followCore(parts.bus, options.cluster, {
      tiered: (container) => {
        if (options.freeAt === "tiered") this.#levels.tiered(container);
      },
      moved: (container, epoch) => this.#moved(container, epoch),
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
    this.#wokenWhilePulling = this.#pulling;
    this.#pump();
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
        this.#startOver();
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
        this.#pump();
        return;
      case "offline":
      case "forked":
      case "stopped":
        this.#startOver();
    }
  }

  /** What is on its way may never be answered: it will be sent again. */
  #startOver(): void {
    for (const queue of this.#queues.values()) queue.resend();
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
    const { cluster, name, version } = this.#options;
    const request: HelloRequest = {
      type: "hello",
      writer,
      incarnation,
      parent,
      // Host names may be longer than what the core takes.
      name: name.slice(0, LIMITS.nameCharsMax),
      version: version.slice(0, VERSION_CHARS_MAX),
    };
    const answer = decodeHelloAnswer(await this.#request(UPLINK_SUBJECTS.control(cluster), encodeCbor(request)));
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
    for (const [id, stream] of this.#lookUpAgain) open.set(id, stream);
    if (open.size > 0) {
      const { bus, random, host } = this.#parts;
      const { cluster, requestTimeoutMs: timeoutMs } = this.#options;
      const isTaken = (coreId: Id, streamId: Id) => host.isMappedByAnother(coreId, streamId);
      const result = await resolveStreams([...open.values()], this.#identity.writer, { bus, cluster, timeoutMs, random, isTaken });
      if (visit !== this.#visit) return;
      await this.#parts.host.map(result.changes);
      this.#reportQuarantined(result.quarantined);
      for (const id of open.keys()) this.#lookUpAgain.delete(id);
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
    const reached = this.#reached;
    this.#reached = [];
    await this.#store(this.#parts.store.uplinkRewind(reached));
    this.#rewindNeeded = false;
  }

  #forgetUnits(): void {
    if (this.#tracker.size > 0) this.#counters.rewinds++;
    this.#round++;
    this.#rewindNeeded = true;
    this.#freeThrough = undefined;
    this.#tracker.clear();
    this.#startOver();
    this.#queues.clear();
  }

  /** Sends what the windows allow, and fetches units while there is room for them. */
  #pump(): void {
    const mayResolve = this.#state === "resolving" && !this.#rewindNeeded && this.#lookUpAgain.size === 0;
    if (this.#state !== "sending" && !mayResolve) return;
    for (const queue of this.#queues.values()) {
      const epoch = this.#routes.directEpoch(queue.container);
      for (let block = queue.takeNext(epoch); block; block = queue.takeNext(epoch)) void this.#send(queue, block, epoch);
    }
    const { unitsMax, bytesMax, needsMax } = this.#options;
    const room = this.#tracker.size < unitsMax && this.#tracker.bytes < bytesMax && this.#tracker.needsCount < needsMax;
    if (room && !this.#pulling) this.#work(() => this.#pull());
  }

  async #pull(): Promise<void> {
    const round = this.#round;
    let units: UplinkUnit[];
    this.#pulling = true;
    this.#wokenWhilePulling = false;
    try {
      units = await this.#store(this.#parts.store.uplinkNext(UNIT_BYTES_TARGET));
    } finally {
      this.#pulling = false;
    }
    // What was handed out before a rewind comes again.
    if (round === this.#round) for (const unit of units) this.#enqueue(unit);
    // A unit of which nothing has to be sent is free in its turn.
    this.#free();
    if (units.length === 0 && !this.#tracker.hasPending()) this.#allWell();
    if (units.length > 0 || this.#wokenWhilePulling) this.#pump();
  }

  #enqueue(unit: UplinkUnit): void {
    const tracked = this.#tracker.add(unit);
    for (const { container, bytes, needs } of unit.blocks) {
      let queue = this.#queues.get(container);
      if (!queue) {
        queue = new ContainerQueue(container);
        this.#queues.set(container, queue);
      }
      queue.push({ container, unit: tracked, bytes, rowsMin: needs.length });
    }
  }

  /** `epoch`: of the owner that is asked directly; 0: through any node. */
  async #send(queue: ContainerQueue, block: QueuedBlock, epoch: number): Promise<void> {
    const { attempt, container } = queue;
    this.#counters.blocksSent++;
    this.#counters.bytesSent += block.bytes.length;
    const { cluster } = this.#options;
    const subject = epoch > 0 ? UPLINK_SUBJECTS.direct(cluster, container, epoch, "append") : UPLINK_SUBJECTS.append(cluster, container);
    try {
      const payload = await inPhase(this.#parts.phases, "uplink", () => this.#request(subject, block.bytes));
      const answer = decodeAppendAnswer(payload, block.rowsMin);
      if (epoch === 0) this.#routes.answered(container, answer.epoch);
      if (answer.slices.every(([status]) => status === SLICE_STATUS.accepted)) this.#accepted(queue, block);
      else this.#refused(queue, block, answer, attempt);
    } catch (error) {
      if (attempt !== queue.attempt) return;
      const failure = toTributaryError(error);
      if (epoch > 0 && isDetour(failure)) this.#detour(queue, epoch);
      else this.#fail(failure);
    }
  }

  /** The owner of this epoch does not answer: another node finds whoever it is now. */
  #detour(queue: ContainerQueue, epoch: number): void {
    this.#counters.detours++;
    this.#routes.failed(queue.container, epoch);
    queue.resend();
    this.#pump();
  }

  /** What is on its way to an owner before this one is not waited for: if it was accepted all the same, that counts when it is heard. */
  #moved(container: number, epoch: number): void {
    if (!this.#routes.heard(container, epoch)) return;
    const queue = this.#queues.get(container);
    if (queue && queue.directEpoch > 0) queue.resend();
    this.#pump();
  }

  /** Durable is durable: this counts however late it comes. */
  #accepted(queue: ContainerQueue, block: QueuedBlock): void {
    if (this.#queues.get(block.container) !== queue || !queue.accepted(block)) return;
    this.#counters.blocksAccepted++;
    this.#allWell();
    block.unit.blocksPending--;
    assert(block.unit.blocksPending >= 0, "a block is accepted once");
    this.#free();
    this.#pump();
  }

  #refused(queue: ContainerQueue, block: QueuedBlock, answer: AppendAnswer, attempt: number): void {
    this.#counters.blocksRefused++;
    if (attempt !== queue.attempt) return;
    if (answer.slices.some(([status]) => status === SLICE_STATUS.forked)) {
      this.#lastError = new TributaryError("WRITER_FORKED", "another gateway wrote different events under the numbers of this one");
      this.#parts.log.error("the uplink stopped: another gateway writes under this identity; retire one of them", {
        writer: this.#identity.writer,
        incarnation: this.#identity.incarnation,
      });
      this.#on("forked");
      return;
    }
    this.#noteLookUps(block, answer);
    // Behind a block that is missing, sending again heals it; at the front the core lacks what it had accepted before.
    if (queue.isFirst(block)) this.#noteReached(block, answer);
    if (this.#lookUpAgain.size > 0 || this.#reached.length > 0) this.#rewindNeeded = true;
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

  #noteLookUps(block: QueuedBlock, answer: AppendAnswer): void {
    if (!answer.slices.some(([status]) => LOOK_UP_AGAIN.has(status))) return;
    const { slices } = decodeBlock(block.bytes);
    answer.slices.forEach(([status], i) => {
      const coreId = slices[i]?.streamId;
      const stream = LOOK_UP_AGAIN.has(status) && coreId !== undefined ? this.#parts.host.byCoreId(coreId) : undefined;
      if (!stream || coreId === undefined) return;
      // With a fixed number of segments only a stream that was closed at the core is sealed.
      this.#lookUpAgain.set(stream.id, status === SLICE_STATUS.sealed ? { ...stream, avoid: coreId } : stream);
    });
  }

  #noteReached(block: QueuedBlock, answer: AppendAnswer): void {
    if (!answer.slices.some(([status]) => OUT_OF_PLACE.has(status))) return;
    const { slices, lane, incarnation } = decodeBlock(block.bytes);
    answer.slices.forEach(([status, last], i) => {
      const slice = slices[i];
      if (!slice) return;
      const { streamId, segment, parent } = slice;
      if (status === SLICE_STATUS.previousNotReached) this.#reached.push({ streamId, segment, incarnation, lane, last });
      else if (status === SLICE_STATUS.parentNotReached && parent)
        this.#reached.push({ streamId, segment, incarnation: parent.incarnation, lane, last });
    });
  }

  #free(): void {
    if (this.#state === "forked" || this.#state === "stopped") return;
    const freeable = this.#tracker.takeFreeable();
    if (freeable) {
      this.#counters.eventsFreed += freeable.events;
      this.#freeThrough = { round: this.#round, unit: freeable.throughUnit };
    }
    if (this.#freeThrough && !this.#freeing) this.#work(() => this.#tellStore());
  }

  async #tellStore(): Promise<void> {
    this.#freeing = true;
    try {
      for (let told = this.#freeThrough; told; told = this.#freeThrough) {
        await this.#store(this.#parts.store.uplinkFree(told.unit));
        if (this.#freeThrough === told) this.#freeThrough = undefined;
        this.#parts.host.freed();
      }
    } finally {
      this.#freeing = false;
    }
    this.#pump();
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

  #request(subject: string, payload: Uint8Array): Promise<Uint8Array> {
    return this.#parts.bus.request(subject, payload, { timeoutMs: this.#options.requestTimeoutMs });
  }
}

function refusal(answer: AppendAnswer): TributaryError {
  const [status, number] = answer.slices.find(([status]) => status !== SLICE_STATUS.accepted) ?? [SLICE_STATUS.accepted, 0];
  switch (status) {
    case SLICE_STATUS.parentNotReached:
      return new TributaryError("PARENT_NOT_REACHED", "the core lacks events of the incarnation before", { number });
    case SLICE_STATUS.streamGone:
      return new TributaryError("STREAM_GONE", "the stream was deleted at the core");
    case SLICE_STATUS.wrongContainer:
    case SLICE_STATUS.sealed:
      return new TributaryError("CONTAINER_NOT_OWNED", "the segment is served elsewhere now");
    default:
      return new TributaryError("PREVIOUS_NOT_REACHED", "the core lacks earlier events", { number });
  }
}
