import type { EdgeStore } from "../store/edge-store.ts";
import type { UplinkCounters } from "./counters.ts";
import type { UnitTracker } from "./unit-tracker.ts";

export interface FreeingParts {
  readonly store: Pick<EdgeStore, "uplinkFree">;
  readonly tracker: UnitTracker;
  readonly counters: UplinkCounters;
  /** False once the writer is forked or the uplink stopped. */
  readonly mayFree: () => boolean;
  /** Work of the present state: what it throws is that state's failure. */
  readonly work: (work: () => Promise<void>) => void;
  /** Waits for the store. */
  readonly stored: <T>(work: Promise<T>) => Promise<T>;
  /** Space was freed. */
  readonly freed: () => void;
  /** There is room for more units. */
  readonly madeRoom: () => void;
}

/** Frees in the store what is confirmed, in its order, with one call at a time. */
export class Freeing {
  readonly #parts: FreeingParts;
  /** The last unit that the store is to be told of. */
  #through: { readonly unit: number } | undefined;
  #telling = false;

  constructor(parts: FreeingParts) {
    this.#parts = parts;
  }

  /** More may be confirmed now. */
  free(): void {
    const { tracker, counters, mayFree, work } = this.#parts;
    if (!mayFree()) return;
    const freeable = tracker.takeFreeable();
    if (freeable) {
      counters.eventsFreed += freeable.events;
      this.#through = { unit: freeable.throughUnit };
    }
    if (this.#through && !this.#telling) work(() => this.#tellStore());
  }

  /** The units are handed out again: what the store was not told of yet is confirmed again. */
  forget(): void {
    this.#through = undefined;
  }

  async #tellStore(): Promise<void> {
    const { store, stored, freed, madeRoom } = this.#parts;
    this.#telling = true;
    try {
      for (let told = this.#through; told; told = this.#through) {
        await stored(store.uplinkFree(told.unit));
        if (this.#through === told) this.#through = undefined;
        freed();
      }
    } finally {
      this.#telling = false;
    }
    madeRoom();
  }
}
