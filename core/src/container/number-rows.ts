/**
 * Rows of numbers, all with as many cells, in one piece of memory that grows with them. For what a busy container has some hundred
 * thousand of: as many objects are what its garbage collection spends its time on (measured).
 */
export class NumberRows {
  readonly #width: number;
  #cells: Float64Array;
  #length = 0;

  /** @param width cells of a row */
  constructor(width: number) {
    this.#width = width;
    this.#cells = new Float64Array(width);
  }

  get length(): number {
    return this.#length;
  }

  /** Adds a row of zeros and returns its position. */
  add(): number {
    if ((this.#length + 1) * this.#width > this.#cells.length) this.#cells = copyOf(this.#cells, this.#cells.length * 2);
    return this.#length++;
  }

  get(row: number, cell: number): number {
    return this.#cells[row * this.#width + cell] as number;
  }

  set(row: number, cell: number, value: number): void {
    this.#cells[row * this.#width + cell] = value;
  }

  /** Forgets all before the position, which becomes the first. */
  dropBefore(position: number): void {
    const kept = this.#cells.subarray(position * this.#width, this.#length * this.#width);
    this.#length -= position;
    // A row at least, for it to grow from.
    this.#cells = copyOf(kept, Math.max(this.#length, 1) * this.#width);
  }
}

function copyOf(cells: Float64Array, length: number): Float64Array {
  const copy = new Float64Array(length);
  copy.set(cells);
  return copy;
}
