import { sleep } from "@tributary/common/clock";
import { toTributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import type { MetaChange, MetaEntry } from "@tributary/common/ports/meta-store";
import type { MetaAccess } from "../service/meta-change.ts";

const PAUSE_MS = 200;
/** A watch that has not told by then what a look found has been lost. */
const PATIENCE_MS = 1_500;

/** A watch over a prefix that is begun again when it breaks off, and when it was lost without a word. */
export class RecordWatch {
  readonly #access: MetaAccess;
  readonly #prefix: string;
  readonly #onChange: (change: MetaChange) => void;
  readonly #log: Logger;
  /** Revisions that a look found and the watch has not told yet. */
  readonly #awaited = new Map<string, { readonly revision: number; readonly sinceMs: number }>();
  /** Highest revision told of each key that is there. */
  readonly #told = new Map<string, number>();
  #current = new AbortController();

  constructor(access: MetaAccess, prefix: string, onChange: (change: MetaChange) => void, log: Logger) {
    this.#access = access;
    this.#prefix = prefix;
    this.#onChange = onChange;
    this.#log = log;
  }

  async run(stop: AbortSignal): Promise<void> {
    while (!stop.aborted) {
      this.#current = new AbortController();
      const signal = AbortSignal.any([stop, this.#current.signal]);
      try {
        await this.#access.meta.watch(this.#prefix, signal, (change) => {
          if (!signal.aborted) this.#tell(change);
        });
      } catch (error) {
        this.#log.warn("a watch over the cluster's records broke off", { prefix: this.#prefix, code: toTributaryError(error).code });
      }
      await sleep(this.#access.clock, PAUSE_MS, stop);
    }
  }

  /** Compares what a look found with what the watch told. */
  compare(found: readonly MetaEntry[]): void {
    const nowMs = this.#access.clock.monotonicMs();
    const keys = new Set(found.map((entry) => entry.key));
    for (const key of this.#awaited.keys()) if (!keys.has(key)) this.#awaited.delete(key);
    let lost = false;
    for (const { key, revision } of found) {
      if ((this.#told.get(key) ?? 0) >= revision) continue;
      const awaited = this.#awaited.get(key);
      if (!awaited) this.#awaited.set(key, { revision, sinceMs: nowMs });
      else if (nowMs - awaited.sinceMs >= PATIENCE_MS) lost = true;
    }
    if (!lost) return;
    this.#log.warn("a watch over the cluster's records was lost and is begun again", { prefix: this.#prefix });
    this.beginAnew();
  }

  /** Reports the present entries again, whatever was told before. */
  beginAnew(): void {
    this.#told.clear();
    this.#awaited.clear();
    this.#current.abort();
  }

  #tell(change: MetaChange): void {
    const { key, value, revision } = change;
    if (value === undefined) this.#told.delete(key);
    else this.#told.set(key, revision);
    if ((this.#awaited.get(key)?.revision ?? 0) <= revision) this.#awaited.delete(key);
    this.#onChange(change);
  }
}
