/** A set of whole numbers kept as disjoint, ascending, inclusive ranges: small as long as the numbers come nearly in order. */
export class NumberSet {
  readonly #from: number[] = [];
  readonly #to: number[] = [];

  /** Adds [from, to]; returns how many of its numbers were in the set already. */
  add(from: number, to: number): number {
    let at = this.#firstEndingAtOrAfter(from - 1);
    let known = 0;
    let mergedFrom = from;
    let mergedTo = to;
    const start = at;
    while (at < this.#from.length && (this.#from[at] as number) <= to + 1) {
      const [f, t] = [this.#from[at] as number, this.#to[at] as number];
      known += Math.max(0, Math.min(t, to) - Math.max(f, from) + 1);
      mergedFrom = Math.min(mergedFrom, f);
      mergedTo = Math.max(mergedTo, t);
      at++;
    }
    this.#from.splice(start, at - start, mergedFrom);
    this.#to.splice(start, at - start, mergedTo);
    return known;
  }

  /** The ranges, in order. */
  ranges(): [from: number, to: number][] {
    return this.#from.map((from, i) => [from, this.#to[i] as number]);
  }

  /** The ranges, in order; the set is empty from now on. */
  take(): [from: number, to: number][] {
    const ranges = this.ranges();
    this.#from.length = 0;
    this.#to.length = 0;
    return ranges;
  }

  /** How many numbers of [from, to] are in the set. */
  countWithin(from: number, to: number): number {
    let count = 0;
    for (let i = this.#firstEndingAtOrAfter(from); i < this.#from.length && (this.#from[i] as number) <= to; i++) {
      count += Math.min(this.#to[i] as number, to) - Math.max(this.#from[i] as number, from) + 1;
    }
    return count;
  }

  /** Ranges between `first` and the highest number that are not in the set. */
  missing(first: number): [from: number, to: number][] {
    const holes: [number, number][] = [];
    let next = first;
    for (let i = 0; i < this.#from.length; i++) {
      const from = this.#from[i] as number;
      if (from > next) holes.push([next, from - 1]);
      next = Math.max(next, (this.#to[i] as number) + 1);
    }
    return holes;
  }

  #firstEndingAtOrAfter(number: number): number {
    let low = 0;
    let high = this.#to.length;
    // Numbers mostly come at the end.
    if (high > 0 && (this.#to[high - 1] as number) < number) return high;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#to[middle] as number) < number) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
