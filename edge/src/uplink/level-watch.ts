import type { Clock } from "@tributary/common/clock";
import { type TributaryError, toTributaryError } from "@tributary/common/errors";
import { encodeCbor } from "@tributary/common/format/cbor";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { Bus } from "@tributary/common/ports/bus";
import { type LevelsAnswer, type LevelsRequest, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import { decodeLevelsAnswer } from "./answers.ts";
import { isDetour } from "./detour.ts";
import type { RouteTable } from "./route-table.ts";
import type { UnitTracker } from "./unit-tracker.ts";

export interface LevelWatchOptions {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly log: Logger;
  readonly cluster: string;
  readonly requestTimeoutMs: number;
  /** How often levels are asked for while something waits to be freed and no container says that it has flushed. */
  readonly intervalMs: number;
  readonly tracker: UnitTracker;
  readonly routes: RouteTable;
  readonly writer: () => Id;
  /** False while the core is not to be asked. */
  readonly mayAsk: () => boolean;
  /** More may be freeable now. */
  readonly confirmed: () => void;
  /** A container does not have what it had accepted. */
  readonly lost: () => void;
  /** An answer could not be understood. */
  readonly misunderstood: () => void;
}

/** Learns what is safe in the tier: asks a container when it says that it has flushed, and at intervals, since such a word can get lost. */
export class LevelWatch {
  readonly #options: LevelWatchOptions;
  readonly #asking = new Set<number>();
  /** What is wrong with the containers that will not answer better by themselves. */
  readonly #problems = new Map<number, TributaryError>();
  #cancelTimer: () => void;
  #closed = false;

  constructor(options: LevelWatchOptions) {
    this.#options = options;
    this.#cancelTimer = this.#askLater();
  }

  /** Why events are not freed although their containers are there; undefined where nothing is known to be wrong. */
  get problem(): TributaryError | undefined {
    return this.#problems.values().next().value;
  }

  /** A container says that it has flushed. */
  tiered(container: number): void {
    void this.#ask(container);
  }

  close(): void {
    this.#closed = true;
    this.#cancelTimer();
  }

  #askLater(): () => void {
    return this.#options.clock.setTimer(this.#options.intervalMs, () => {
      if (this.#closed) return;
      const toAsk = this.#options.tracker.containersToAsk();
      for (const container of this.#problems.keys()) if (!toAsk.includes(container)) this.#problems.delete(container);
      for (const container of toAsk) void this.#ask(container);
      this.#cancelTimer = this.#askLater();
    });
  }

  async #ask(container: number): Promise<void> {
    const { tracker } = this.#options;
    if (this.#closed || !this.#options.mayAsk() || this.#asking.has(container)) return;
    const question = tracker.levelsQuestion(container, this.#options.writer());
    if (question.request.entries.length === 0) return;
    this.#asking.add(container);
    try {
      const answer = await this.#request(container, question.request);
      this.#understood(container);
      // Numbers that were safe once stay safe: an answer counts however late it comes.
      const reached = tracker.confirm(question, answer);
      this.#options.confirmed();
      if (!reached) this.#options.lost();
    } catch (error) {
      // Nothing is known then, and nothing freed; it is asked again soon.
      this.#failed(container, toTributaryError(error));
    } finally {
      this.#asking.delete(container);
    }
  }

  /** A container that is away, or moves, is there again sooner or later, and sending tells of it. One that answers nonsense has to be seen to. */
  #failed(container: number, error: TributaryError): void {
    if (error.code === "CORE_ANSWER_INVALID") this.#options.misunderstood();
    else if (error.retryable) return;
    if (this.#problems.get(container)?.code !== error.code) {
      this.#options.log.warn("what is safe at the core is not known, and nothing of it is freed", {
        container,
        code: error.code,
        reason: error.message,
      });
    }
    this.#problems.set(container, error);
  }

  #understood(container: number): void {
    const problem = this.#problems.get(container);
    if (!problem) return;
    this.#problems.delete(container);
    this.#options.log.info("it is known again what is safe at the core", { container, after: problem.code });
  }

  async #request(container: number, request: LevelsRequest): Promise<LevelsAnswer> {
    const { bus, cluster, routes, requestTimeoutMs: timeoutMs } = this.#options;
    const epoch = routes.directEpoch(container);
    const question = encodeCbor(request);
    const { length } = request.entries;
    if (epoch > 0) {
      try {
        const payload = await bus.request(UPLINK_SUBJECTS.direct(cluster, container, epoch, "levels"), question, { timeoutMs });
        return decodeLevelsAnswer(payload, length);
      } catch (error) {
        if (!isDetour(toTributaryError(error))) throw error;
        routes.failed(container, epoch);
      }
    }
    const answer = decodeLevelsAnswer(await bus.request(UPLINK_SUBJECTS.levels(cluster, container), question, { timeoutMs }), length);
    routes.answered(container, answer.epoch);
    return answer;
  }
}
