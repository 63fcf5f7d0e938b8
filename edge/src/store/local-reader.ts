import { type Block, openChunk } from "@tributary/common/format/block";
import { type EventColumns, payloadOf } from "@tributary/common/format/event-columns";
import type { Id } from "@tributary/common/names";
import type { Log } from "@tributary/common/ports/log";
import type { CommitRecord, CommitStream } from "./commit-record.ts";
import type { EdgeState } from "./edge-state.ts";
import type { LocalEvent, LocalPage } from "./edge-store.ts";
import type { GapLedger, LocalGap } from "./gap-ledger.ts";
import type { LocalPositions } from "./local-positions.ts";
import { type DamageListener, decodeEntry, LogCursor } from "./log-cursor.ts";

/** Checkpoints that a scan passes before it looks for a place further on. */
const SCAN_CHECKPOINTS_MAX = 2;

export interface LocalLog {
  readonly log: Log;
  readonly state: EdgeState;
  readonly positions: LocalPositions;
  readonly gaps: () => GapLedger;
  /** Sequences of checkpoints, ascending. */
  readonly checkpoints: () => readonly number[];
  /** Sequence of the last durable record, and of the last one that was truncated. */
  readonly end: () => number;
  readonly truncated: () => number;
  readonly onDamage: DamageListener;
}

interface Bounds {
  readonly eventsMax: number;
  readonly bytesMax: number;
}

/** Reads a stream's own events out of the log, in local order. */
export class LocalReader {
  readonly #of: LocalLog;

  constructor(of: LocalLog) {
    this.#of = of;
  }

  async read(id: Id, fromOrdinal: number, bounds: Bounds): Promise<LocalPage> {
    const page = new Page(fromOrdinal, bounds);
    // Each round ends the page, or takes at least one event or gap, or goes on behind the sequence of the round before.
    let atLeast = 0;
    while (!page.full) {
      const stream = this.#of.state.streams.get(id);
      if (!stream || page.next >= stream.nextOrdinal) break;
      const gap = this.#of.gaps().localAt(id, page.next);
      if (gap) {
        page.addGap(gap);
        continue;
      }
      const seq = Math.max(await this.#locate(id, page.next, atLeast > 0), atLeast);
      const scannedTo = await this.#scan(id, seq, page);
      if (scannedTo === undefined) break;
      atLeast = scannedTo;
    }
    return page.finish();
  }

  async #locate(id: Id, ordinal: number, isFar: boolean): Promise<number> {
    const { positions, end, truncated, checkpoints } = this.#of;
    const oldest = truncated() + 1;
    const recalled = isFar ? undefined : positions.recall(id, ordinal);
    if (recalled !== undefined && recalled >= oldest) return recalled;
    const durable = checkpoints().filter((seq) => seq >= oldest && seq <= end());
    const checkpoint = await positions.search(id, ordinal, durable, (seq) => this.#loadOrdinals(seq));
    return Math.max(oldest, (checkpoint ?? 0) + 1);
  }

  async #loadOrdinals(seq: number): Promise<Uint8Array | undefined> {
    const [record] = await this.#of.log.read(seq, { recordsMax: 1, bytesMax: 1 });
    const entry = record?.seq === seq ? decodeEntry(record) : undefined;
    return entry?.kind === "checkpoint" ? entry.raw.body.slice() : undefined;
  }

  /** Nothing of the stream is left up to `end`. If something should have been there, it was lost, and the reader must get past it. */
  #ended(id: Id, page: Page, end: number, nextSeq: number): undefined {
    const stream = this.#of.state.streams.get(id);
    const endOrdinal = stream ? this.#of.positions.nextOrdinalAt(end, id, stream.nextOrdinal) : 0;
    if (stream && page.next < endOrdinal && page.next >= stream.firstOrdinal) page.addGap(lostTail(page.next, endOrdinal));
    this.#of.positions.remember(id, page.next, nextSeq);
    return undefined;
  }

  /** Takes events from a sequence on. Returns the sequence from which to look further, undefined if the page is done. */
  async #scan(id: Id, fromSeq: number, page: Page): Promise<number | undefined> {
    const cursor = new LogCursor(this.#of.log, fromSeq, (from, seq, data) => {
      // What was truncated while this was reading is not damaged.
      if (from > this.#of.truncated()) this.#of.onDamage(from, seq, data);
    });
    let checkpoints = 0;
    for (;;) {
      const end = this.#of.end();
      const entry = await cursor.peek(end);
      if (!entry) return this.#ended(id, page, end, cursor.next);
      if (entry.kind === "checkpoint" && ++checkpoints > SCAN_CHECKPOINTS_MAX) return entry.seq;
      const stream = entry.kind === "commit" ? entry.streams.find(({ localId }) => localId === id) : undefined;
      if (entry.kind === "commit" && stream && stream.last + stream.shift >= page.next) {
        const first = stream.first + stream.shift;
        if (first > page.next) {
          // Freed and gone, or a gap that became known meanwhile, or lost.
          const firstHeld = this.#of.state.streams.get(id)?.firstOrdinal ?? 0;
          if (page.next < firstHeld) {
            if (!page.skipTo(Math.min(first, firstHeld))) return undefined;
            continue;
          }
          if (this.#of.gaps().localAt(id, page.next)) return entry.seq;
          const gapEnd = Math.min(first, this.#of.gaps().nextLocal(id, page.next) ?? first);
          page.addGap(lostGap(entry, stream, page.next, gapEnd));
          if (gapEnd < first || page.full) return entry.seq;
        }
        page.addEvents(entry, stream);
        if (page.full) {
          this.#of.positions.remember(id, page.next, entry.seq);
          return undefined;
        }
      }
      cursor.advance();
    }
  }
}

/** Events of which no later commit tells anything: the incarnation is not known. */
function lostTail(ordinal: number, end: number): LocalGap {
  return { ordinal, count: end - ordinal, lane: "live", incarnation: "", first: 0, reason: "corrupt" };
}

/** Events before a commit that are not in the log any more. Their numbers are only known within the commit's incarnation. */
function lostGap(commit: CommitRecord, stream: CommitStream, ordinal: number, end: number): LocalGap {
  return {
    ordinal,
    count: end - ordinal,
    lane: commit.lane,
    incarnation: commit.blocks[0]?.incarnation ?? "",
    first: Math.max(0, ordinal - stream.shift),
    reason: "corrupt",
  };
}

class Page {
  readonly #bounds: Bounds;
  readonly #events: LocalEvent[] = [];
  #bytes = 0;
  next: number;

  constructor(fromOrdinal: number, bounds: Bounds) {
    this.next = fromOrdinal;
    this.#bounds = bounds;
  }

  get full(): boolean {
    return this.#events.length > 0 && (this.#events.length >= this.#bounds.eventsMax || this.#bytes >= this.#bounds.bytesMax);
  }

  /** What was freed is left out at the beginning of a page, and ends it elsewhere. */
  skipTo(ordinal: number): boolean {
    if (this.#events.length > 0) return false;
    this.next = ordinal;
    return true;
  }

  finish(): LocalPage {
    return { events: this.#events, nextOrdinal: this.next };
  }

  addGap(gap: LocalGap): void {
    const { ordinal, count, lane, incarnation, first, reason } = gap;
    this.#events.push({
      ordinal,
      key: "",
      timeMs: 0,
      incarnation,
      lane,
      number: first + count - 1,
      data: new Uint8Array(0),
      gap: { first, count, reason },
    });
    this.next = ordinal + count;
  }

  addEvents(commit: CommitRecord, stream: CommitStream): void {
    const rows = rowsFrom(commit, stream, this.next - stream.shift);
    for (const { block, columns, row } of rows) {
      if (this.full) return;
      const number = columns.number[row] as number;
      const data = payloadOf(columns, row);
      this.#events.push({
        ordinal: number + stream.shift,
        key: columns.keys[columns.keyIndex[row] as number] as string,
        timeMs: columns.timeMs[row] as number,
        incarnation: block.incarnation,
        lane: block.lane,
        number,
        data,
      });
      this.#bytes += data.length;
      this.next = number + stream.shift + 1;
    }
  }
}

/** A stream's events in a commit from a number on, in order of number. */
function rowsFrom(commit: CommitRecord, stream: CommitStream, fromNumber: number): { block: Block; columns: EventColumns; row: number }[] {
  const rows: { block: Block; columns: EventColumns; row: number; number: number }[] = [];
  for (const block of commit.blocks) {
    for (const slice of block.slices) {
      if (slice.streamId !== stream.blockId || slice.kind === "gap" || slice.last < fromNumber) continue;
      const columns = openChunk(block, slice.chunk);
      for (let row = slice.start; row < slice.start + slice.count; row++) {
        const number = columns.number[row] as number;
        if (number >= fromNumber) rows.push({ block, columns, row, number });
      }
    }
  }
  return stream.segments > 1 ? rows.sort((a, b) => a.number - b.number) : rows;
}
