/** Time, injected: domain code never asks the machine. */
export interface Clock {
  /** Wall-clock time in ms since 1970. May jump. For event times and display only. */
  nowMs(): number;
  /** Monotonic ms from an arbitrary start. For leases, timeouts and lingers. */
  monotonicMs(): number;
  /** Calls back once, not before `delayMs` ms. Returns a function that cancels. */
  setTimer(delayMs: number, callback: () => void): () => void;
}

/** Resolves after `delayMs`, or at once when the signal aborts. Never rejects. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const finish = () => {
      cancel();
      signal?.removeEventListener("abort", finish);
      resolve();
    };
    const cancel = clock.setTimer(delayMs, finish);
    signal?.addEventListener("abort", finish, { once: true });
  });
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  setTimer(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};
