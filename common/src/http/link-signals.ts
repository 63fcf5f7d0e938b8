/**
 * A signal that aborts with the first of several. Unlike AbortSignal.any it can be let go: the server's own signal lives as long as the
 * process, and every read that ever waited would stay hooked to it.
 */
export function linkSignals(signals: readonly (AbortSignal | undefined)[]): { signal: AbortSignal; abort(): void; unlink(): void } {
  const controller = new AbortController();
  const abort = () => controller.abort();
  for (const signal of signals) {
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort, { once: true });
  }
  return {
    signal: controller.signal,
    abort,
    unlink() {
      for (const signal of signals) signal?.removeEventListener("abort", abort);
    },
  };
}
