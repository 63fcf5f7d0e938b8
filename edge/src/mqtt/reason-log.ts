import type { Clock } from "@tributary/common/clock";
import type { LogFields, Logger } from "@tributary/common/logger";

const LINE_INTERVAL_MS = 1_000;

/** Warnings that a client can provoke as often as it likes: one line a second for each reason, with how many were left out. */
export class ReasonLog {
  readonly #log: Logger;
  readonly #clock: Clock;
  readonly #reasons = new Map<string, { nextMs: number; leftOut: number }>();

  constructor(log: Logger, clock: Clock) {
    this.#log = log;
    this.#clock = clock;
  }

  /** Reasons come from a fixed list, never from a client. */
  warn(reason: string, message: string, fields: LogFields): void {
    const now = this.#clock.monotonicMs();
    const state = this.#reasons.get(reason) ?? { nextMs: now, leftOut: 0 };
    this.#reasons.set(reason, state);
    if (now < state.nextMs) {
      state.leftOut++;
      return;
    }
    this.#log.warn(message, { reason, ...fields, leftOut: state.leftOut > 0 ? state.leftOut : undefined });
    state.nextMs = now + LINE_INTERVAL_MS;
    state.leftOut = 0;
  }
}
