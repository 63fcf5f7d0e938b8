import type { Clock } from "@tributary/common/clock";

/** A wait that can be cut short. A poke while nobody waits cuts the next wait. */
export class Poke {
  readonly #clock: Clock;
  #poked = false;
  #wake: (() => void) | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  now(): void {
    this.#poked = true;
    this.#wake?.();
  }

  wait(timeoutMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        cancel();
        this.#wake = undefined;
        this.#poked = false;
        resolve();
      };
      const cancel = this.#clock.setTimer(Math.max(0, timeoutMs), done);
      this.#wake = done;
      if (this.#poked || signal.aborted) done();
    });
  }
}
