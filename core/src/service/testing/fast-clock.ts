import type { Clock } from "@tributary/common/clock";
import type { Random } from "@tributary/common/random";

/** Timers of at least this delay are never due. */
export const NEVER_MS: number = 2 ** 30;

/** A clock whose timers are due at once: what waits goes on in the next turn of the loop, and time has passed. */
export function fastClock(): Clock {
  let nowMs = 1_000_000;
  return {
    nowMs: () => nowMs,
    monotonicMs: () => nowMs,
    setTimer(delayMs, callback) {
      if (delayMs >= NEVER_MS) return () => {};
      const timer = setImmediate(() => {
        nowMs += delayMs;
        callback();
      });
      return () => clearImmediate(timer);
    },
  };
}

/** mulberry32: small, seeded, good enough to vary tests. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  const float = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return { float, bytes: (count) => Uint8Array.from({ length: count }, () => Math.floor(float() * 256)) };
}
