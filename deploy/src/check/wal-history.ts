import type { SegmentId } from "@tributary/common/names";
import type { Operation } from "@tributary/core/container/operations";

/** Records of one segment that a frame added: ordinals [from, from + count). */
export interface Placed {
  readonly streamId: string;
  readonly segment: string;
  readonly from: number;
  readonly count: number;
}

export interface StoredBlock {
  readonly bytes: Uint8Array;
  readonly ids: readonly number[];
  /** Names of undamaged objects that hold it. */
  readonly objects: Set<string>;
}

/** Whether something that landed once still is part of what its container says. */
export interface Standing {
  readonly counts: boolean;
}

/**
 * A frame that counts behind the one before it, or the root of a generation behind the frame from which it goes on. Where a log went
 * back several may follow one; those that lead to the newest are what the container says now.
 */
export class HistoryEntry implements Standing {
  readonly before: HistoryEntry | undefined;
  readonly hash: string;
  readonly epoch: number;
  readonly attempt: number;
  readonly seq: number;
  /** Of the take-over under which its events were appended. */
  nonce: string;
  /** How far the newest checkpoint on the way to it reaches in its log, and the entry there. */
  checkpointed = 0;
  confirmed: HistoryEntry | undefined;
  readonly placed: Placed[] = [];
  /** What it did to whole streams. */
  readonly fates: Extract<Operation, { type: "register-stream" | "delete-stream" | "close-stream" }>[] = [];
  /** Until they are truncated. */
  blocks: StoredBlock[] = [];
  readonly #history: History;

  constructor(
    history: History,
    before: HistoryEntry | undefined,
    of: { readonly hash: string; readonly epoch: number; readonly attempt: number; readonly seq: number; readonly nonce: string },
  ) {
    this.#history = history;
    this.before = before;
    this.hash = of.hash;
    this.epoch = of.epoch;
    this.attempt = of.attempt;
    this.seq = of.seq;
    this.nonce = of.nonce;
  }

  get counts(): boolean {
    return this.#history.isCurrent(this);
  }
}

/** All that ever counted in one container. */
export class History {
  /** Whether it ever went on from another entry than its newest. */
  forked = false;
  readonly #byHash = new Map<string, HistoryEntry>();
  /** Entries that said to be in the lake when the container went on from another one. */
  readonly #confirmed: HistoryEntry[] = [];
  /** Entries that a log lost; an object of the lake may hold them. */
  readonly lost: Set<HistoryEntry> = new Set();
  #newest: HistoryEntry | undefined;
  /** The newest before its log went back, while nobody has gone on from there: the owner that had all of it serves on. */
  #unnoticed: HistoryEntry | undefined;
  #current: Set<HistoryEntry> | undefined;

  /** `before`: undefined for the first of all. */
  add(entry: HistoryEntry): void {
    this.#byHash.set(entry.hash, entry);
  }

  byHash(hash: string): HistoryEntry | undefined {
    return this.#byHash.get(hash);
  }

  get newest(): HistoryEntry | undefined {
    return this.#unnoticed ?? this.#newest;
  }

  /** The log went back to here. Whoever goes on from there, or from what the lake has, lets what it lost count no more. */
  goBack(to: HistoryEntry | undefined): void {
    const { newest } = this;
    this.moveTo(to);
    this.#unnoticed = newest;
    this.#current = undefined;
  }

  /** The container goes on from here. */
  moveTo(entry: HistoryEntry | undefined): void {
    if (this.#unnoticed) this.#current = undefined;
    this.#unnoticed = undefined;
    const before = this.#newest;
    this.#newest = entry;
    if (entry === before) return;
    if (before === undefined || entry?.before === before) {
      if (entry) this.#current?.add(entry);
      return;
    }
    this.forked = true;
    this.#current = undefined;
    if (before.confirmed) this.#confirmed.push(before.confirmed);
    for (let lost: HistoryEntry | undefined = before; lost && lost !== entry; lost = lost.before)
      if (lost.blocks.length > 0) this.lost.add(lost);
  }

  isCurrent(entry: HistoryEntry): boolean {
    if (!this.forked) return true;
    if (!this.#current) this.#current = new Set(this.entries());
    return this.#current.has(entry);
  }

  /** Those that count, the newest first. */
  *entries(): Generator<HistoryEntry> {
    yield* leadingTo(this.newest);
  }

  /** What was in the lake once, by the word of a checkpoint that counted, and is no part of what log and lake say now. */
  get forsaken(): HistoryEntry[] {
    const current = new Set(leadingTo(this.#newest));
    return this.#confirmed.filter((entry) => !current.has(entry));
  }
}

function* leadingTo(newest: HistoryEntry | undefined): Generator<HistoryEntry> {
  for (let entry = newest; entry; entry = entry.before) yield entry;
}

/** The segment that takes what is appended to `id`, in a log of a generation. */
export function inGeneration(id: SegmentId, generation: number): SegmentId {
  return { ...id, generation };
}
