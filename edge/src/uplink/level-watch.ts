import type { Clock } from "@tributary/common/clock";
import { toTributaryError } from "@tributary/common/errors";
import { encodeCbor } from "@tributary/common/format/cbor";
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
}

/** Learns what is safe in the tier: asks a container when it says that it has flushed, and at intervals, since such a word can get lost. */
export class LevelWatch {
  readonly #options: LevelWatchOptions;
  readonly #asking = new Set<number>();
  #cancelTimer: () => void;
  #closed = false;

  constructor(options: LevelWatchOptions) {
    this.#options = options;
    this.#cancelTimer = this.#askLater();
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
      for (const container of this.#options.tracker.containersToAsk()) void this.#ask(container);
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
      // Numbers that were safe once stay safe: an answer counts however late it comes.
      const reached = tracker.confirm(question, answer);
      this.#options.confirmed();
      if (!reached) this.#options.lost();
    } catch {
      // Nothing is known then, and nothing freed; it is asked again soon.
    } finally {
      this.#asking.delete(container);
    }
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
