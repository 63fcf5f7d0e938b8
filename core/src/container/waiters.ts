import type { Id } from "@tributary/common/names";

interface Waiter {
  readonly chain: number;
  wake(): void;
}

/** Tail readers of one level, woken by what reaches it; nothing here polls. They outlive attempts. */
export class Waiters {
  readonly #byStream = new Map<Id, Set<Waiter>>();

  wait(streamId: Id, chain: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal.aborted) return resolve();
      const waiters = this.#byStream.get(streamId) ?? new Set();
      this.#byStream.set(streamId, waiters);
      const waiter: Waiter = {
        chain,
        wake: () => {
          signal.removeEventListener("abort", waiter.wake);
          waiters.delete(waiter);
          if (waiters.size === 0) this.#byStream.delete(streamId);
          resolve();
        },
      };
      waiters.add(waiter);
      signal.addEventListener("abort", waiter.wake, { once: true });
    });
  }

  /** The stream now ends at `chain`; undefined: it was closed or deleted, and everybody has to look. */
  wake(streamId: Id, chain: number | undefined): void {
    for (const waiter of this.#byStream.get(streamId) ?? []) {
      if (chain === undefined || waiter.chain < chain) waiter.wake();
    }
  }

  wakeAll(): void {
    for (const streamId of [...this.#byStream.keys()]) this.wake(streamId, undefined);
  }
}
