import { type PlainRecord, runOf, type Violate } from "./plain.ts";

/**
 * Invariant 2 by numbers: a key's events are read in the order in which their writer numbered them, one incarnation behind the other.
 * Where logs were copied, two incarnations may write side by side: then each is judged by itself.
 */
export class KeyOrder {
  readonly #violate: Violate;
  readonly #branched: boolean;
  /** Latest (run, number) of each writer's key, and the runs of that key that are over. */
  readonly #keys = new Map<string, { run: string; number: number; over: Set<string> }>();

  constructor(violate: Violate, branched = false) {
    this.#violate = violate;
    this.#branched = branched;
  }

  add(record: PlainRecord): void {
    const run = runOf(record);
    const { writer, lane, key, number } = record;
    const name = `${this.#branched ? run : `${writer}/${lane}`}/${key}`;
    const state = this.#keys.get(name);
    if (!state) {
      this.#keys.set(name, { run, number, over: new Set() });
      return;
    }
    if (state.run === run) {
      if (number < state.number) this.#violate(2, "reordered", `key '${key}': ${number} behind ${state.number} of ${run}`);
    } else if (state.over.has(run)) {
      this.#violate(2, "reordered", `key '${key}': ${run} came back behind ${state.run}`);
    } else {
      state.over.add(state.run);
    }
    state.run = run;
    state.number = number;
  }
}
