import { TributaryError } from "@tributary/common/errors";
import type { MetaChange, MetaEntry, MetaStore } from "@tributary/common/ports/meta-store";
import type { MemoryMetaStore } from "./memory-meta-store.ts";

/** What goes wrong: each is asked once an operation. */
export interface MetaFaults {
  /** How many changes behind the read may be; 0 is up to date. */
  readonly staleBy?: (key: string) => number;
  /** "lost": carried out, the answer was lost. "dropped": not carried out, and nobody knows. */
  readonly unknown?: () => "lost" | "dropped" | undefined;
  /** The node dies at this operation (counted from 0), before or after it is carried out; it does nothing any more afterwards. */
  readonly diesAt?: { readonly operation: number; readonly when: "before" | "after" };
}

/** Stands for the end of the process: nobody handles it. */
export class Death extends Error {
  override readonly name = "Death";
}

export class FaultyMetaStore implements MetaStore {
  readonly #inner: MemoryMetaStore;
  readonly #faults: MetaFaults;
  #operations = 0;
  #dead = false;

  constructor(inner: MemoryMetaStore, faults: MetaFaults) {
    this.#inner = inner;
    this.#faults = faults;
  }

  get dead(): boolean {
    return this.#dead;
  }

  get(key: string): Promise<MetaEntry | undefined> {
    return this.#mortal(async () => this.#inner.at(key, this.#faults.staleBy?.(key) ?? 0));
  }
  create(key: string, value: Uint8Array): Promise<number> {
    return this.#mortal(() => this.#uncertain(() => this.#inner.create(key, value)));
  }
  update(key: string, value: Uint8Array, revision: number): Promise<number> {
    return this.#mortal(() => this.#uncertain(() => this.#inner.update(key, value, revision)));
  }
  delete(key: string, revision: number): Promise<void> {
    return this.#mortal(() => this.#uncertain(() => this.#inner.delete(key, revision)));
  }
  list(prefix: string): Promise<MetaEntry[]> {
    return this.#mortal(() => this.#inner.list(prefix));
  }
  watch(prefix: string, signal: AbortSignal, onChange: (change: MetaChange) => void): Promise<void> {
    return this.#inner.watch(prefix, signal, (change) => {
      if (!this.#dead) onChange(change);
    });
  }
  async close(): Promise<void> {}

  async #uncertain<T>(operation: () => Promise<T>): Promise<T> {
    const fault = this.#faults.unknown?.();
    if (fault === "dropped") throw new TributaryError("LOG_RESULT_UNKNOWN", "dropped");
    const result = await operation();
    if (fault === "lost") throw new TributaryError("LOG_RESULT_UNKNOWN", "lost");
    return result;
  }

  async #mortal<T>(operation: () => Promise<T>): Promise<T> {
    const { diesAt } = this.#faults;
    const dies = diesAt !== undefined && this.#operations++ === diesAt.operation;
    if (dies && diesAt.when === "before") this.#dead = true;
    if (this.#dead) throw new Death("the node is dead");
    try {
      return await operation();
    } finally {
      if (dies) {
        this.#dead = true;
        // biome-ignore lint/correctness/noUnsafeFinally: a dead node learns neither result nor error
        throw new Death("the node died");
      }
    }
  }
}
