import { NumberSet } from "./number-set.ts";
import { type PlainRecord, runOf, type Violate } from "./plain.ts";

/** How many of the numbers of a run that are not there something else explains. */
export type ExplainHole = (run: string, from: number, to: number) => number;

/**
 * Invariant 1 by numbers: every number of a run is there once or declared lost, and in a segment a run's numbers only rise, so that
 * nothing is both there and declared lost in it.
 */
export class WriterNumbers {
  readonly #violate: Violate;
  /** Of each run: numbers that are there or declared lost, and those that are there. */
  readonly #runs = new Map<string, { readonly all: NumberSet; readonly events: NumberSet }>();
  /** Highest number of each run in each segment. */
  readonly #tails = new Map<string, number>();

  constructor(violate: Violate) {
    this.#violate = violate;
  }

  get writers(): number {
    return new Set([...this.#runs.keys()].map((run) => run.slice(0, run.indexOf("/")))).size;
  }

  add(record: PlainRecord): void {
    const { segment, number, gap } = record;
    const run = runOf(record);
    let numbers = this.#runs.get(run);
    if (!numbers) {
      numbers = { all: new NumberSet(), events: new NumberSet() };
      this.#runs.set(run, numbers);
    }
    const first = gap?.first ?? number;
    numbers.all.add(first, number);
    // A gap names the numbers of one segment; those of others in between arrive by themselves, whichever of the two is read first.
    const isDouble = !gap && numbers.events.add(number, number) > 0;
    if (isDouble) this.#violate(1, "doubled", `number ${number} of ${run}`);
    // Whatever takes a segment's place in a later generation goes on with its numbers.
    const tailKey = `${run} ${segment.replace(/^\d+\./, "")}`;
    const tail = this.#tails.get(tailKey) ?? 0;
    if (first <= tail && !isDouble) {
      this.#violate(1, "numbers fall", `segment ${segment}: ${gap ? `a gap from ${first} to ${number}` : number} behind ${tail} of ${run}`);
    }
    if (gap && (gap.count < 1 || gap.count > number - first + 1))
      this.#violate(1, "impossible gap", `${gap.count} events from ${first} to ${number} of ${run}`);
    this.#tails.set(tailKey, Math.max(tail, number));
  }

  /** `firstNumber`: the lowest number expected of each run; 1 unless retention cut the stream. */
  finish(firstNumber: number, explain: ExplainHole): void {
    for (const [run, { all }] of this.#runs) {
      for (const [from, to] of all.missing(firstNumber)) {
        const count = to - from + 1 - explain(run, from, to);
        if (count > 0) this.#violate(1, "missing", `numbers ${from} to ${to} of ${run}`, count);
      }
    }
  }
}
