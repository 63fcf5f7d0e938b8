import type { Clock } from "@tributary/common/clock";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import type { Id } from "@tributary/common/names";
import type { Bus, Subscription } from "@tributary/common/ports/bus";
import { type LevelsAnswer, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import type { UnitTracker } from "./unit-tracker.ts";

export interface LevelWatchOptions {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly cluster: string;
  readonly requestTimeoutMs: number;
  /** How often levels are asked for while something waits to be freed and no container says that it has flushed. */
  readonly intervalMs: number;
  readonly tracker: UnitTracker;
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
  readonly #subscriptions = new Map<number, Promise<Subscription | undefined>>();
  readonly #asking = new Set<number>();
  #cancelTimer: () => void;
  #closed = false;

  constructor(options: LevelWatchOptions) {
    this.#options = options;
    this.#cancelTimer = this.#askLater();
  }

  /** Hears from now on when the container has flushed. */
  listen(container: number): void {
    if (this.#closed || this.#subscriptions.has(container)) return;
    const { bus, cluster } = this.#options;
    const subscription = bus.subscribe(UPLINK_SUBJECTS.tiered(cluster, container), () => void this.#ask(container));
    this.#subscriptions.set(
      container,
      subscription.catch(() => {
        // The intervals do without it, and the next block tries again.
        this.#subscriptions.delete(container);
        return undefined;
      }),
    );
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelTimer();
    await Promise.all(Array.from(this.#subscriptions.values(), async (subscription) => (await subscription)?.close()));
  }

  #askLater(): () => void {
    return this.#options.clock.setTimer(this.#options.intervalMs, () => {
      if (this.#closed) return;
      for (const container of this.#options.tracker.containersToAsk()) void this.#ask(container);
      this.#cancelTimer = this.#askLater();
    });
  }

  async #ask(container: number): Promise<void> {
    const { bus, cluster, tracker, requestTimeoutMs: timeoutMs } = this.#options;
    if (this.#closed || !this.#options.mayAsk() || this.#asking.has(container)) return;
    const question = tracker.levelsQuestion(container, this.#options.writer());
    if (question.request.entries.length === 0) return;
    this.#asking.add(container);
    try {
      const answer = await bus.request(UPLINK_SUBJECTS.levels(cluster, container), encodeCbor(question.request), { timeoutMs });
      // Numbers that were safe once stay safe: an answer counts however late it comes.
      const reached = tracker.confirm(question, decodeCbor(answer) as LevelsAnswer);
      this.#options.confirmed();
      if (!reached) this.#options.lost();
    } catch {
      // Nothing is known then, and nothing freed; it is asked again soon.
    } finally {
      this.#asking.delete(container);
    }
  }
}
