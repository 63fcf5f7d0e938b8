import { type Block, type EventSlice, type GapReason, openChunk } from "@tributary/common/format/block";
import { evenRangeIndex } from "@tributary/common/key-hash";
import type { Id, Lane } from "@tributary/common/names";
import { hashOf } from "./batch-slices.ts";
import type { CommitRecord } from "./commit-record.ts";
import type { MissingNumbers } from "./uplink-fold.ts";

/** Numbers of one incarnation that were dropped, not yet known to the core. */
export interface PendingGap {
  readonly localId: Id;
  readonly lane: Lane;
  readonly incarnation: Id;
  readonly reason: GapReason;
  /** Segments into which the stream was cut; `parts` are of these. 0: into which is not known, and neither are the parts. */
  readonly segments: number;
  readonly first: number;
  readonly last: number;
  readonly count: number;
  readonly parts: readonly GapPart[];
  /** 0 if not known. */
  readonly timeMinMs: number;
  readonly timeMaxMs: number;
  /** Ordinal behind the last event; 0 if not known. */
  readonly nextOrdinal: number;
}

/** What of it was in one segment. */
export interface GapPart {
  readonly segment: number;
  readonly first: number;
  readonly last: number;
  readonly count: number;
}

/** Ordinals of a stream whose events were dropped. */
export interface LocalGap {
  readonly ordinal: number;
  readonly count: number;
  readonly lane: Lane;
  readonly incarnation: Id;
  /** Number of the event that had `ordinal`. */
  readonly first: number;
  readonly reason: GapReason;
}

/** Persisted in checkpoints: append only. */
export interface GapSnapshot {
  readonly pending: readonly PendingGap[];
  readonly local: readonly (readonly [Id, readonly LocalGap[]])[];
}

/**
 * What was dropped and is not yet confirmed by the core, in order. All of it is older than every record that is kept.
 * It becomes durable with the checkpoint that a drop writes.
 */
export class GapLedger {
  readonly pending: PendingGap[];
  readonly #local: Map<Id, LocalGap[]>;
  /** Index into `pending` of the newest gap of each stream and lane: what a further drop may extend. */
  readonly #newest = new Map<string, number>();

  constructor(snapshot: GapSnapshot = { pending: [], local: [] }) {
    this.pending = [...snapshot.pending];
    this.#local = new Map(snapshot.local.map(([id, gaps]) => [id, [...gaps]]));
    this.#indexNewest();
  }

  snapshot(): GapSnapshot {
    return { pending: [...this.pending], local: [...this.#local] };
  }

  clone(): GapLedger {
    return new GapLedger(this.snapshot());
  }

  /**
   * Turns all events of a commit into gaps, but those of streams without a `cut`. `cut` is the number of segments that a stream has
   * at the core, 0 if that is not known yet: events may have reached it that were not freed, so a gap must be in the segments where
   * they would be.
   */
  addCommit(commit: CommitRecord, reason: GapReason, cut: (localId: Id) => number | undefined): void {
    const incarnation = commit.blocks[0]?.incarnation;
    if (incarnation === undefined) return;
    const { lane } = commit;
    const byBlockId = slicesByStream(commit);
    for (const stream of commit.streams) {
      const { localId, blockId, first, last, shift } = stream;
      const segmentsAtCore = cut(localId);
      if (segmentsAtCore === undefined) continue;
      const slices = byBlockId.get(blockId) ?? [];
      const recut = segmentsAtCore !== 0 && segmentsAtCore !== stream.segments;
      const count = last - first + 1;
      this.#add({
        localId,
        lane,
        incarnation,
        reason,
        segments: recut ? segmentsAtCore : stream.segments,
        first,
        last,
        count,
        parts: recut ? recutParts(slices, segmentsAtCore) : mergeParts([], slices.map(partOf)),
        timeMinMs: Math.min(...slices.map(({ slice }) => slice.timeMinMs)),
        timeMaxMs: Math.max(...slices.map(({ slice }) => slice.timeMaxMs)),
        nextOrdinal: shift + last + 1,
      });
      this.#addLocal(localId, { ordinal: shift + first, count, lane, incarnation, first, reason });
    }
  }

  addMissing(missing: MissingNumbers): void {
    const { localId, lane, incarnation, first, last } = missing;
    const unknown = { segments: 0, parts: [], timeMinMs: 0, timeMaxMs: 0, nextOrdinal: 0 };
    this.#add({ localId, lane, incarnation, reason: "corrupt", first, last, count: last - first + 1, ...unknown });
  }

  /**
   * Freed numbers that the core has lost since. They are older than all that is pending. Of a stream of several segments some of the
   * numbers between may have been elsewhere: how many is not known any more.
   */
  addLacking(lacking: MissingNumbers & { readonly segment: number; readonly segments: number }): void {
    const { segment, ...numbers } = lacking;
    const { first, last } = numbers;
    const count = last - first + 1;
    const parts = [{ segment, first, last, count }];
    this.pending.unshift({ ...numbers, reason: "lost-by-core", count, parts, timeMinMs: 0, timeMaxMs: 0, nextOrdinal: 0 });
    this.#indexNewest();
  }

  /** The gap that covers an ordinal, cut to begin there. */
  localAt(localId: Id, ordinal: number): LocalGap | undefined {
    const gap = this.#local.get(localId)?.find((gap) => ordinal >= gap.ordinal && ordinal < gap.ordinal + gap.count);
    if (!gap) return undefined;
    const skipped = ordinal - gap.ordinal;
    return { ...gap, ordinal, count: gap.count - skipped, first: gap.first + skipped };
  }

  /** Ordinal at which the next gap behind `ordinal` begins. */
  nextLocal(localId: Id, ordinal: number): number | undefined {
    return this.#local.get(localId)?.find((gap) => gap.ordinal > ordinal)?.ordinal;
  }

  /** The core has the first `count` pending gaps. */
  confirm(count: number): void {
    this.pending.splice(0, count);
    this.#indexNewest();
  }

  /** Forgets what lies below a stream's first ordinal. */
  forgetLocal(localId: Id, firstOrdinal: number): void {
    const kept = this.#local.get(localId)?.filter((gap) => gap.ordinal + gap.count > firstOrdinal);
    if (!kept) return;
    if (kept.length > 0) this.#local.set(localId, kept);
    else this.#local.delete(localId);
  }

  #add(gap: PendingGap): void {
    const key = `${gap.localId}.${gap.lane}`;
    const index = this.#newest.get(key);
    const newest = index === undefined ? undefined : this.pending[index];
    if (index !== undefined && newest && continues(newest, gap)) {
      this.pending[index] = {
        ...newest,
        last: gap.last,
        count: newest.count + gap.count,
        parts: mergeParts(newest.parts, gap.parts),
        timeMinMs: Math.min(newest.timeMinMs, gap.timeMinMs),
        timeMaxMs: Math.max(newest.timeMaxMs, gap.timeMaxMs),
        nextOrdinal: Math.max(newest.nextOrdinal, gap.nextOrdinal),
      };
      return;
    }
    this.#newest.set(key, this.pending.length);
    this.pending.push(gap);
  }

  #addLocal(localId: Id, gap: LocalGap): void {
    const gaps = this.#local.get(localId) ?? [];
    const newest = gaps.at(-1);
    if (
      newest &&
      newest.incarnation === gap.incarnation &&
      newest.lane === gap.lane &&
      newest.reason === gap.reason &&
      newest.ordinal + newest.count === gap.ordinal &&
      newest.first + newest.count === gap.first
    ) {
      gaps[gaps.length - 1] = { ...newest, count: newest.count + gap.count };
    } else gaps.push(gap);
    this.#local.set(localId, gaps);
  }

  #indexNewest(): void {
    this.#newest.clear();
    this.pending.forEach((gap, i) => {
      this.#newest.set(`${gap.localId}.${gap.lane}`, i);
    });
  }
}

function continues(newest: PendingGap, gap: PendingGap): boolean {
  return (
    newest.incarnation === gap.incarnation &&
    newest.reason === gap.reason &&
    newest.segments === gap.segments &&
    newest.last + 1 === gap.first
  );
}

interface BlockSlice {
  readonly block: Block;
  readonly slice: EventSlice;
}

function slicesByStream(commit: CommitRecord): Map<Id, BlockSlice[]> {
  const byBlockId = new Map<Id, BlockSlice[]>();
  for (const block of commit.blocks) {
    for (const slice of block.slices) {
      if (slice.kind !== "events") continue;
      const slices = byBlockId.get(slice.streamId);
      if (slices) slices.push({ block, slice });
      else byBlockId.set(slice.streamId, [{ block, slice }]);
    }
  }
  return byBlockId;
}

function partOf({ slice: { segment, first, last, count } }: BlockSlice): GapPart {
  return { segment: segment.number, first, last, count };
}

/** The parts of events in other segments than those into which they were cut. */
function recutParts(slices: readonly BlockSlice[], segments: number): GapPart[] {
  const numbers = slices.flatMap(({ block, slice }) => {
    const columns = openChunk(block, slice.chunk);
    const hashes = new Float64Array(columns.keys.length).fill(-1);
    return Array.from({ length: slice.count }, (_, i) => {
      const row = slice.start + i;
      return { segment: evenRangeIndex(hashOf(columns, row, hashes), segments), number: columns.number[row] as number };
    });
  });
  numbers.sort((a, b) => a.number - b.number);
  return mergeParts(
    [],
    numbers.map(({ segment, number }) => ({ segment, first: number, last: number, count: 1 })),
  );
}

/** Parts by segment; `more` holds later numbers. */
function mergeParts(parts: readonly GapPart[], more: readonly GapPart[]): GapPart[] {
  const bySegment = new Map(parts.map((part) => [part.segment, part]));
  for (const part of more) {
    const before = bySegment.get(part.segment);
    bySegment.set(part.segment, before ? { ...before, last: part.last, count: before.count + part.count } : part);
  }
  return [...bySegment.values()];
}
