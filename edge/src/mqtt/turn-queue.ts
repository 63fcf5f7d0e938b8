import type { Clock } from "@tributary/common/clock";

/**
 * How long connections may work in one turn of the event loop. In each turn a few connections are accepted and every socket that has
 * something is read; with a thousand busy ones, working on all of it at once makes turns of 60 ms and more, in which new clients
 * wait for their turn to be accepted.
 */
const TURN_MS_MAX = 4;

export interface TurnWaiter {
  turnAgain(): void;
}

/** Shares the event loop among connections: whoever comes when the turn's time is used up goes on in a later turn, in the order of coming. */
export class TurnQueue {
  readonly #clock: Clock;
  #waiting: TurnWaiter[] = [];
  #next = 0;
  #open = false;
  #endsMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** True if the caller may work now; otherwise it should wait. */
  mayWork(): boolean {
    if (!this.#open) this.#begin();
    return this.#waiting.length === 0 && this.#clock.monotonicMs() < this.#endsMs;
  }

  wait(waiter: TurnWaiter): void {
    this.#waiting.push(waiter);
  }

  #begin(): void {
    this.#open = true;
    this.#endsMs = this.#clock.monotonicMs() + TURN_MS_MAX;
    setImmediate(() => this.#end());
  }

  #end(): void {
    this.#open = false;
    if (this.#waiting.length === 0) return;
    this.#begin();
    // At least one goes on, however late it is.
    do {
      this.#waiting[this.#next++]?.turnAgain();
    } while (this.#next < this.#waiting.length && this.#clock.monotonicMs() < this.#endsMs);
    if (this.#next === this.#waiting.length) this.#waiting = [];
    else if (this.#next < 1024) return;
    else this.#waiting = this.#waiting.slice(this.#next);
    this.#next = 0;
  }
}
