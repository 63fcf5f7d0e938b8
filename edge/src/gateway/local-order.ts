import type { Id, Lane } from "@tributary/common/names";
import type { LocalEra } from "../store/local-eras.ts";

/** Ordinals that follow each other, and the number of the first; the incarnation is empty where nothing tells whose they were. */
export interface LocalRange {
  readonly ordinal: number;
  readonly count: number;
  readonly incarnation: Id;
  readonly first: number;
}

/** Where a stream's numbers stand in the local order, for one read of ordinals from one up to another. */
export class LocalOrder {
  readonly #eras: readonly LocalEra[];
  readonly #fromOrdinal: number;
  readonly #endOrdinal: number;
  readonly #byWriter = new Map<string, LocalEra[]>();

  constructor(eras: readonly LocalEra[], fromOrdinal: number, endOrdinal: number) {
    this.#eras = eras;
    this.#fromOrdinal = fromOrdinal;
    this.#endOrdinal = endOrdinal;
    for (const era of eras) {
      const key = `${era.incarnation}.${era.lane}`;
      const known = this.#byWriter.get(key);
      if (known) known.push(era);
      else this.#byWriter.set(key, [era]);
    }
  }

  asksFor(ordinal: number): boolean {
    return ordinal >= this.#fromOrdinal && ordinal < this.#endOrdinal;
  }

  /** undefined if this log did not write it. */
  ordinalOf(incarnation: Id, lane: Lane, number: number): number | undefined {
    const era = this.#erasOf(incarnation, lane).find(({ first, count }) => number >= first && number < first + count);
    return era && era.ordinal + number - era.first;
  }

  /** What of the numbers `first` to `last` this log wrote. */
  rangesOf(incarnation: Id, lane: Lane, first: number, last: number): LocalRange[] {
    return this.#erasOf(incarnation, lane).flatMap((era) => {
      const from = Math.max(first, era.first);
      const to = Math.min(last, era.first + era.count - 1);
      return from > to ? [] : [{ ordinal: era.ordinal + from - era.first, count: to - from + 1, incarnation, first: from }];
    });
  }

  /**
   * Ordinals from this one on of which no record is left, so that the core cannot be asked for them: damage took all of an
   * incarnation's commits. What lies before the first era is only forgotten.
   */
  lostAt(ordinal: number): LocalRange | undefined {
    const next = this.#eras.findIndex((era) => ordinal < era.ordinal + era.count);
    const [before, era] = [this.#eras[next - 1], this.#eras[next]];
    if (!before || !era || ordinal >= era.ordinal) return undefined;
    return { ordinal, count: Math.min(era.ordinal, this.#endOrdinal) - ordinal, incarnation: "", first: 0 };
  }

  #erasOf(incarnation: Id, lane: Lane): readonly LocalEra[] {
    return this.#byWriter.get(`${incarnation}.${lane}`) ?? [];
  }
}
