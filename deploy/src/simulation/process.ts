import type { Clock } from "@tributary/common/clock";
import type { Random } from "@tributary/common/random";
import type { Scheduler } from "./scheduler.ts";

/** Where wall clocks start. */
const EPOCH_MS = Date.UTC(2026, 10, 20);

/**
 * One run of a program, from its start to its end. Everything that it hears comes through `deliver`: after its death nothing does,
 * so none of its continuations has effects any more; while it is paused everything waits.
 */
export class SimProcess {
  readonly name: string;
  readonly random: Random;
  readonly clock: Clock;
  readonly scheduler: Scheduler;
  alive = true;
  paused = false;
  /** How far its wall clock is off. */
  clockSkewMs = 0;
  readonly #held: (() => void)[] = [];
  readonly #onDeath: (() => void)[] = [];

  /** `rate`: how fast its monotonic clock runs. */
  constructor(scheduler: Scheduler, name: string, random: Random, rate = 1) {
    this.scheduler = scheduler;
    this.name = name;
    this.random = random;
    const startedMs = scheduler.nowMs;
    this.clock = {
      nowMs: () => Math.floor(EPOCH_MS + scheduler.nowMs + this.clockSkewMs),
      monotonicMs: () => (scheduler.nowMs - startedMs) * rate,
      // As the timers of every runtime: whole milliseconds, at least one.
      setTimer: (delayMs, callback) => this.deliver(Math.max(1, Math.ceil(delayMs)) / rate, callback),
    };
  }

  /** Continues the process after a delay, if it still lives then. */
  deliver(delayMs: number, run: () => void): () => void {
    return this.scheduler.schedule(delayMs, this, run);
  }

  /** For the scheduler: what happens while the process is paused. */
  hold(run: () => void): void {
    this.#held.push(run);
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    if (!this.paused) return;
    this.paused = false;
    for (const run of this.#held.splice(0)) this.deliver(0, run);
  }

  /** Called when the process dies. */
  onDeath(listener: () => void): void {
    this.#onDeath.push(listener);
  }

  kill(): void {
    if (!this.alive) return;
    this.alive = false;
    this.#held.length = 0;
    for (const listener of this.#onDeath.splice(0)) listener();
  }

  /**
   * A call to something outside: `arrive` happens there after `thereMs`, whether or not the caller still lives, and says how the call
   * ends; the caller hears it after `backMs`. undefined: never.
   */
  call<T>(thereMs: number, backMs: number, arrive: () => Outcome<T> | undefined): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (!this.alive) return;
      this.scheduler.schedule(thereMs, undefined, () => {
        const outcome = arrive();
        if (outcome)
          this.deliver(backMs + (outcome.lateMs ?? 0), () => ("error" in outcome ? reject(outcome.error) : resolve(outcome.value)));
      });
    });
  }
}

/** `lateMs`: this much later than usual. */
export type Outcome<T> = ({ readonly value: T } | { readonly error: unknown }) & { readonly lateMs?: number };

/** A process's connection to something outside: nothing goes out, nothing comes in, or neither. */
export interface Wire {
  cut: "none" | "out" | "in" | "both";
}

export function createWire(): Wire {
  return { cut: "none" };
}

/** A call over a wire: if it does not come through, or its answer does not, the caller hears `lost` after a while. */
export function across<T>({ cut }: Wire, lost: Outcome<T>, arrive: () => Outcome<T> | undefined): Outcome<T> | undefined {
  if (cut === "out" || cut === "both") return lost;
  const outcome = arrive();
  return cut === "in" ? lost : outcome;
}

/** What a piece of work ends with. */
export function outcomeOf<T>(work: () => T): Outcome<T> {
  try {
    return { value: work() };
  } catch (error) {
    return { error };
  }
}
