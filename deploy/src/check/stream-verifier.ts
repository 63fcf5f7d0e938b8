import { NumberSet } from "./number-set.ts";

/** One event or gap record as the envelope read gives it. The verifier knows nothing else of Tributary. */
export interface PlainRecord {
  readonly segment: string;
  readonly ordinal: number;
  readonly writer: string;
  readonly incarnation: string;
  readonly lane: string;
  readonly number: number;
  readonly key: string;
  /** Set for a gap record: the writer's numbers from `first` to `number` in this segment are declared lost. */
  readonly gap?: { readonly first: number; readonly count: number };
}

export interface Violation {
  readonly kind: "missing" | "doubled" | "reordered";
  readonly count: number;
  readonly detail: string;
}

export interface VerifyReport {
  readonly events: number;
  readonly gapRecords: number;
  /** Events that gap records declare lost. */
  readonly eventsDeclaredLost: number;
  readonly writers: number;
  readonly missing: number;
  readonly doubled: number;
  readonly reordered: number;
  /** The first violations, in the order in which they were found. */
  readonly violations: readonly Violation[];
}

const VIOLATIONS_KEPT_MAX = 100;

interface WriterRun {
  readonly numbers: NumberSet;
}

/**
 * Judges a complete read of one stream, from its first event on, in the order read: every number of a writer's incarnation
 * is there once or declared lost, ordinals of a segment follow each other, and a key's events keep their writer's order.
 */
export class StreamVerifier {
  readonly #runs = new Map<string, WriterRun>();
  readonly #nextOrdinal = new Map<string, number>();
  /** Latest (run, number) of each writer's key, and the runs of that key that are over. */
  readonly #keys = new Map<string, { run: string; number: number; over: Set<string> }>();
  readonly #violations: Violation[] = [];
  #events = 0;
  #gapRecords = 0;
  #eventsDeclaredLost = 0;
  #missing = 0;
  #doubled = 0;
  #reordered = 0;

  add(record: PlainRecord): void {
    this.#checkOrdinal(record);
    const run = `${record.writer}/${record.incarnation}/${record.lane}`;
    let state = this.#runs.get(run);
    if (!state) {
      state = { numbers: new NumberSet() };
      this.#runs.set(run, state);
    }
    if (record.gap) {
      this.#gapRecords++;
      this.#eventsDeclaredLost += record.gap.count;
      // A gap names the numbers of one segment; those of others in between arrive by themselves, so a known one is no double.
      state.numbers.add(record.gap.first, record.number);
      return;
    }
    this.#events++;
    if (state.numbers.add(record.number, record.number) > 0) this.#violate("doubled", 1, `number ${record.number} of ${run}`);
    this.#checkKeyOrder(record, run);
  }

  /** `firstNumber`: the lowest number expected of each run; 1 unless retention cut the stream. */
  finish(firstNumber = 1): VerifyReport {
    for (const [run, { numbers }] of this.#runs) {
      for (const [from, to] of numbers.missing(firstNumber)) {
        this.#violate("missing", to - from + 1, `numbers ${from} to ${to} of ${run}`);
      }
    }
    return {
      events: this.#events,
      gapRecords: this.#gapRecords,
      eventsDeclaredLost: this.#eventsDeclaredLost,
      writers: new Set([...this.#runs.keys()].map((run) => run.slice(0, run.indexOf("/")))).size,
      missing: this.#missing,
      doubled: this.#doubled,
      reordered: this.#reordered,
      violations: this.#violations,
    };
  }

  #checkOrdinal(record: PlainRecord): void {
    const expected = this.#nextOrdinal.get(record.segment) ?? 0;
    if (record.ordinal > expected) {
      this.#violate("missing", record.ordinal - expected, `ordinals ${expected} to ${record.ordinal - 1} of segment ${record.segment}`);
    } else if (record.ordinal < expected) {
      this.#violate("doubled", 1, `ordinal ${record.ordinal} of segment ${record.segment}`);
    }
    this.#nextOrdinal.set(record.segment, Math.max(expected, record.ordinal + 1));
  }

  #checkKeyOrder(record: PlainRecord, run: string): void {
    const name = `${record.writer}/${record.lane}/${record.key}`;
    const state = this.#keys.get(name);
    if (!state) {
      this.#keys.set(name, { run, number: record.number, over: new Set() });
      return;
    }
    if (state.run === run) {
      if (record.number < state.number)
        this.#violate("reordered", 1, `key '${record.key}': ${record.number} behind ${state.number} of ${run}`);
    } else if (state.over.has(run)) {
      this.#violate("reordered", 1, `key '${record.key}': ${run} came back behind ${state.run}`);
    } else {
      state.over.add(state.run);
    }
    state.run = run;
    state.number = record.number;
  }

  #violate(kind: Violation["kind"], count: number, detail: string): void {
    if (kind === "missing") this.#missing += count;
    else if (kind === "doubled") this.#doubled += count;
    else this.#reordered += count;
    if (this.#violations.length < VIOLATIONS_KEPT_MAX) this.#violations.push({ kind, count, detail });
  }
}
