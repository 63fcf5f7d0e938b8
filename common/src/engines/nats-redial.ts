import type { NodeConnectionOptions } from "@nats-io/transport-node";
import type { Clock } from "../clock.ts";

/** Less than that the wall clock may go back without being noticed: a server then waits so much longer. */
const SET_BACK_MS_MIN = 100;

/**
 * When the client library dials a server again: `delayMs` after it did so last. The library reckons that by the wall clock. Where that was
 * set back since, it would leave the server alone until the clock has caught up, an hour or more: such a server is due at once.
 */
export function redialOptions(
  clock: Clock,
  delayMs: () => number,
): Required<Pick<NodeConnectionOptions, "reconnectToServer" | "reconnectDelayHandler">> {
  /** How far the wall clock was ahead of the monotonic one when a server was dialled last. */
  const leadsMs = new Map<string, number>();
  const leadMs = () => clock.nowMs() - clock.monotonicMs();
  return {
    // Asked before each dial; the first is the one that the library has chosen, and null says that it chose well.
    reconnectToServer: ([chosen]) => {
      if (chosen) leadsMs.set(chosen.listen, leadMs());
      return null;
    },
    // Asked before the library chooses: while one of them is due at once, the others do not wait either.
    reconnectDelayHandler: () => {
      const lead = leadMs();
      const isSetBack = [...leadsMs.values()].some((before) => before - lead >= SET_BACK_MS_MIN);
      return isSetBack ? Number.NEGATIVE_INFINITY : delayMs();
    },
  };
}
