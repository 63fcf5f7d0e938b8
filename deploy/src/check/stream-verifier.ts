import { KeyOrder } from "./key-order.ts";
import { Places } from "./places.ts";
import { fingerprintOf, type PlainRecord, placeOf, type Violate } from "./plain.ts";
import { type ExplainHole, WriterNumbers } from "./writer-numbers.ts";

export type { PlainRecord } from "./plain.ts";

export interface Violation {
  readonly invariant: number;
  readonly kind: string;
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
  /** Everything else: places that changed, gap records that cannot be, a read that ends early. */
  readonly otherwiseWrong: number;
  /** The first violations, in the order in which they were found. */
  readonly violations: readonly Violation[];
}

export interface VerifierOptions {
  /** Logs of writers were copied or set back: each incarnation is judged by itself. */
  readonly branched?: boolean;
  /** What else was read of the stream, by anybody. */
  readonly places?: Places;
  /** The core's logs went back in time: a place that was lost is taken again, under another nonce. */
  readonly wentBack?: boolean;
}

const VIOLATIONS_KEPT_MAX = 100;

/** What a complete read alone can show, in the words of `tributary verify`. */
export const VERIFIED_BY_READING: readonly string[] = [
  "every number of every writer's incarnation is there once or declared lost (invariant 1)",
  "ordinals of a segment follow each other from 0 (invariant 1)",
  "the read gives as many records as the server says there are (invariant 1)",
  "a key's events keep their writer's order (invariant 2)",
];

/** What a second read of the stream shows beside. */
export const VERIFIED_BY_READING_TWICE = "every (segment, ordinal) gives the same record again (invariant 3)";

/** Judges a complete read of one stream, from its first event on, in the order read. Keeps a few bytes an event. */
export class StreamVerifier {
  readonly #numbers: WriterNumbers;
  readonly #order: KeyOrder;
  readonly #places: Places;
  readonly #wentBack: boolean;
  readonly #nextOrdinal = new Map<string, number>();
  readonly #violations: Violation[] = [];
  readonly #counts = { missing: 0, doubled: 0, reordered: 0, otherwiseWrong: 0 };
  #events = 0;
  #gapRecords = 0;
  #eventsDeclaredLost = 0;

  constructor(options: VerifierOptions = {}) {
    this.#numbers = new WriterNumbers(this.#violate);
    this.#order = new KeyOrder(this.#violate, options.branched);
    this.#places = options.places ?? new Places();
    this.#wentBack = options.wentBack ?? false;
  }

  add(record: PlainRecord): void {
    this.#checkOrdinal(record);
    this.compare(record);
    this.#numbers.add(record);
    if (record.gap) {
      this.#gapRecords++;
      this.#eventsDeclaredLost += record.gap.count;
      return;
    }
    this.#events++;
    this.#order.add(record);
  }

  /** A record that somebody read at another time, from wherever on. */
  compare({ segment, nonce, ordinal, digest }: PlainRecord): void {
    const place = placeOf({ segment, nonce }, this.#wentBack);
    if (digest === undefined || this.#places.isSame(place, ordinal, fingerprintOf({ nonce, digest }))) return;
    this.#violate(3, "changed", `ordinal ${ordinal} of segment ${segment}`);
  }

  /** The server said before the read that the stream has this many records. */
  expectRecords(atLeast: number): void {
    const records = this.#events + this.#gapRecords;
    if (records < atLeast) this.#violate(1, "incomplete read", `${records} records were read of ${atLeast}`, atLeast - records);
  }

  /** `firstNumber`: the lowest number expected of each run; 1 unless retention cut the stream. */
  finish(firstNumber = 1, explain: ExplainHole = () => 0): VerifyReport {
    this.#numbers.finish(firstNumber, explain);
    return {
      events: this.#events,
      gapRecords: this.#gapRecords,
      eventsDeclaredLost: this.#eventsDeclaredLost,
      writers: this.#numbers.writers,
      ...this.#counts,
      violations: this.#violations,
    };
  }

  #checkOrdinal({ segment, ordinal }: PlainRecord): void {
    const expected = this.#nextOrdinal.get(segment) ?? 0;
    if (ordinal > expected) {
      this.#violate(1, "missing", `ordinals ${expected} to ${ordinal - 1} of segment ${segment}`, ordinal - expected);
    } else if (ordinal < expected) {
      this.#violate(1, "doubled", `ordinal ${ordinal} of segment ${segment}`);
    }
    this.#nextOrdinal.set(segment, Math.max(expected, ordinal + 1));
  }

  readonly #violate: Violate = (invariant, kind, detail, count = 1) => {
    const counted = kind === "missing" || kind === "doubled" || kind === "reordered" ? kind : "otherwiseWrong";
    this.#counts[counted] += count;
    if (this.#violations.length < VIOLATIONS_KEPT_MAX) this.#violations.push({ invariant, kind, count, detail });
  };
}

/** False if anything at all was found. */
export function isClean({ missing, doubled, reordered, otherwiseWrong }: VerifyReport): boolean {
  return missing + doubled + reordered + otherwiseWrong === 0;
}
