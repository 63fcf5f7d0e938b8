import type { Id } from "@tributary/common/names";
import { ordinalAt } from "./checkpoint-record.ts";
import type { CommitStream } from "./commit-record.ts";

/** Newest commits remembered for each stream: readers at the tail jump from one to the next. */
const RECENT_COMMITS = 8;
/** Readers whose place is remembered. */
const READERS_MAX = 1024;
/** Checkpoints whose ordinals are kept in memory. */
const TABLES_MAX = 8;

/** The newest commits of a stream: a ring of (first ordinal, sequence). */
class Ring {
  readonly #ordinals = new Float64Array(RECENT_COMMITS);
  readonly #seqs = new Float64Array(RECENT_COMMITS);
  #count = 0;

  push(ordinal: number, seq: number): void {
    const at = this.#count++ % RECENT_COMMITS;
    this.#ordinals[at] = ordinal;
    this.#seqs[at] = seq;
  }

  /** The newest commit that begins at or below the ordinal. */
  find(ordinal: number): number | undefined {
    for (let i = this.#count - 1; i >= 0 && i >= this.#count - RECENT_COMMITS; i--) {
      if ((this.#ordinals[i % RECENT_COMMITS] as number) <= ordinal) return this.#seqs[i % RECENT_COMMITS];
    }
    return undefined;
  }

  /** First ordinal of the oldest commit behind a sequence. */
  after(seq: number): number | undefined {
    let ordinal: number | undefined;
    for (let i = this.#count - 1; i >= 0 && i >= this.#count - RECENT_COMMITS; i--) {
      if ((this.#seqs[i % RECENT_COMMITS] as number) <= seq) break;
      ordinal = this.#ordinals[i % RECENT_COMMITS];
    }
    return ordinal;
  }
}

/** Where in the log an ordinal of a stream may be found. Bounded, and only hints: a reader scans on from there. */
export class LocalPositions {
  readonly #rings = new Map<Id, Ring>();
  readonly #readers = new Map<string, number>();
  readonly #tables = new Map<number, Uint8Array>();

  committed(seq: number, streams: readonly CommitStream[]): void {
    for (const { localId, first, shift } of streams) {
      let ring = this.#rings.get(localId);
      if (!ring) {
        ring = new Ring();
        this.#rings.set(localId, ring);
      }
      ring.push(first + shift, seq);
    }
  }

  forget(id: Id): void {
    this.#rings.delete(id);
  }

  /** Ordinal behind the stream's events in records up to `end`, where only the newest few commits can lie behind it. */
  nextOrdinalAt(end: number, id: Id, nextOrdinal: number): number {
    return this.#rings.get(id)?.after(end) ?? nextOrdinal;
  }

  /** A reader stopped before `ordinal`, which is not below `seq`. */
  remember(id: Id, ordinal: number, seq: number): void {
    const key = `${id}.${ordinal}`;
    this.#readers.delete(key);
    this.#readers.set(key, seq);
    if (this.#readers.size > READERS_MAX) this.#readers.delete(this.#readers.keys().next().value as string);
  }

  /** A sequence at or below that of the ordinal's commit, from memory. */
  recall(id: Id, ordinal: number): number | undefined {
    return this.#rings.get(id)?.find(ordinal) ?? this.#readers.get(`${id}.${ordinal}`);
  }

  /**
   * The newest of the checkpoints (ascending sequences) at which the ordinal was not written yet: it lies behind that one.
   * `load` gives a checkpoint's ordinals; undefined if it is damaged.
   */
  async search(
    id: Id,
    ordinal: number,
    checkpoints: readonly number[],
    load: (seq: number) => Promise<Uint8Array | undefined>,
  ): Promise<number | undefined> {
    let low = 0;
    let high = checkpoints.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const table = await this.#table(checkpoints[middle] as number, load);
      // A damaged one tells nothing: looking below it is always right, if slower.
      if (table && ordinalAt(table, id) <= ordinal) low = middle + 1;
      else high = middle;
    }
    return checkpoints[low - 1];
  }

  async #table(seq: number, load: (seq: number) => Promise<Uint8Array | undefined>): Promise<Uint8Array | undefined> {
    const known = this.#tables.get(seq);
    if (known) {
      this.#tables.delete(seq);
      this.#tables.set(seq, known);
      return known;
    }
    const table = await load(seq);
    if (!table) return undefined;
    this.#tables.set(seq, table);
    if (this.#tables.size > TABLES_MAX) this.#tables.delete(this.#tables.keys().next().value as number);
    return table;
  }
}
