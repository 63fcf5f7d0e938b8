import { assert } from "@tributary/common/assert";
import { NumberRows } from "./number-rows.ts";

/** What the core has of one (segment, writer, incarnation, lane) (rule W2). */
export interface WriterEntry {
  /** Highest number appended. */
  readonly last: number;
  /** eventHash of that event; NO_HASH if a gap record took the number. */
  readonly hash: number;
  /** Highest number that is durable and verified in the tier. */
  readonly tiered: number;
}

export const NO_HASH = -1;

/** Cells of a row: those of an entry; the flush that laid it out last, and its row there. */
const LAST = 0;
const HASH = 1;
const TIERED = 2;
const FLUSH = 3;
const FLUSH_ROW = 4;
const CELLS = 5;

/**
 * The entries of one writer, incarnation and lane in the segments of a stream. A block has one writer and many segments, so its slices
 * find their entries close to each other.
 */
export class WriterTable implements Iterable<readonly [position: number, entry: WriterEntry]> {
  /** By position of the segment; one that takes another's place keeps its position. Most writers are in few segments: so not an array. */
  readonly #rows = new Map<number, number>();
  readonly #entries = new NumberRows(CELLS);

  /** The row of the segment at a position; undefined if the writer has nothing there. Rows keep their numbers. */
  rowOf(position: number): number | undefined {
    return this.#rows.get(position);
  }

  at(row: number): WriterEntry {
    return { last: this.#entries.get(row, LAST), hash: this.#entries.get(row, HASH), tiered: this.#entries.get(row, TIERED) };
  }

  /** Enters what was appended to the segment at a position, and returns the row. */
  set(position: number, last: number, hash: number): number {
    let row = this.#rows.get(position);
    if (row === undefined) row = this.#add(position);
    else assert(last > this.#entries.get(row, LAST), "a writer's number only grows");
    this.#entries.set(row, LAST, last);
    this.#entries.set(row, HASH, hash);
    return row;
  }

  /** Enters what the tier tells of the segment at a position. */
  setFromTier(position: number, last: number, hash: number): void {
    this.setTiered(this.set(position, last, hash), last);
  }

  /** The numbers up to `last` are in the tier. */
  setTiered(row: number, last: number): void {
    if (last > this.#entries.get(row, TIERED)) this.#entries.set(row, TIERED, last);
  }

  /** The row's place in what a flush lays out; −1 if it has none yet: a table of these would be searched for each slice. */
  placeIn(row: number, flush: number): number {
    return this.#entries.get(row, FLUSH) === flush ? this.#entries.get(row, FLUSH_ROW) : -1;
  }

  setPlace(row: number, flush: number, place: number): void {
    this.#entries.set(row, FLUSH, flush);
    this.#entries.set(row, FLUSH_ROW, place);
  }

  /** In order of positions. */
  *[Symbol.iterator](): Generator<readonly [position: number, entry: WriterEntry], void> {
    for (const [position, row] of [...this.#rows].sort(([a], [b]) => a - b)) yield [position, this.at(row)];
  }

  #add(position: number): number {
    const row = this.#entries.add();
    this.#rows.set(position, row);
    return row;
  }
}
