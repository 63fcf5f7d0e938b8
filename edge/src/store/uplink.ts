import { assert } from "@tributary/common/assert";
import type { Id } from "@tributary/common/names";
import type { Log } from "@tributary/common/ports/log";
import { decodeCheckpoint } from "./checkpoint-record.ts";
import type { CommitRecord } from "./commit-record.ts";
import type { EdgeState } from "./edge-state.ts";
import type { FreeReport, UplinkUnit } from "./edge-store.ts";
import type { GapLedger } from "./gap-ledger.ts";
import { type DamageListener, LogCursor, type LogEntry } from "./log-cursor.ts";
import { type Destination, UnitBuilder } from "./unit-builder.ts";
import type { ChainMove, CursorMove, MissingNumbers, ReachedTail, UplinkFold } from "./uplink-fold.ts";

/** A commit of at least this many bytes is sent alone, as it is where possible; smaller ones are merged. */
const WHOLE_BYTES_MIN = 32 * 1024;
/**
 * Merging stops at this many payload bytes, which make a block of 100 to 150 KB, or at this many bytes of the log: a unit is made
 * in one go, some 10 ms, and commits wait for that.
 */
const MERGE_PAYLOAD_BYTES = 512 * 1024;
const MERGE_LOG_BYTES = 1024 * 1024;
/** Gap records in one unit. */
const UNIT_GAPS_MAX = 4096;

/** A unit that was handed out: how the freed fold moves once it is confirmed. */
interface HandedOut {
  readonly unit: number;
  readonly position: number;
  readonly eventsThrough: number;
  readonly logBytes: number;
  readonly chainMoves: readonly ChainMove[];
  readonly cursorMoves: readonly CursorMove[];
  /** Ordinal behind the last event, by stream. */
  readonly nextOrdinals: ReadonlyMap<Id, number>;
  /** How many of the ledger's pending gaps it carries. */
  readonly gaps: number;
  readonly eventsSkipped: number;
}

export interface UplinkOptions {
  readonly log: Log;
  readonly writer: Id;
  readonly state: EdgeState;
  /** The stream is mapped by a record that is not durable yet. */
  readonly isBeingMapped: (localId: Id) => boolean;
  /** The fold at the freed position. */
  readonly freed: UplinkFold;
  readonly gaps: GapLedger;
  /** Sequence of the last durable record. */
  readonly end: () => number;
  readonly onDamage: DamageListener;
  /** Lets commits go between two steps of long work. */
  readonly breathe: () => Promise<void>;
  /** Number of the last unit that was ever handed out, by whatever came before this. */
  readonly lastUnit: number;
}

/** The way of the log to the core: what was sent, what was freed, and what comes next. Calls must not overlap. */
export class Uplink {
  readonly #log: Log;
  readonly #writer: Id;
  readonly #state: EdgeState;
  readonly #isBeingMapped: (localId: Id) => boolean;
  readonly #end: () => number;
  readonly #onDamage: DamageListener;
  readonly breathe: () => Promise<void>;
  freed: UplinkFold;
  gaps: GapLedger;
  #sent: UplinkFold;
  #cursor: LogCursor;
  /** Pending gaps that are part of a unit handed out. */
  #gapsSent = 0;
  /** Damage was passed: the next checkpoint tells which numbers had been given out before it. */
  #passedDamage = false;
  #units: HandedOut[] = [];
  #lastUnit: number;
  /** Events of deleted streams that were freed without being sent. */
  eventsSkipped = 0;

  constructor(options: UplinkOptions) {
    this.#log = options.log;
    this.#writer = options.writer;
    this.#state = options.state;
    this.#isBeingMapped = options.isBeingMapped;
    this.freed = options.freed;
    this.gaps = options.gaps;
    this.#end = options.end;
    this.#onDamage = options.onDamage;
    this.breathe = options.breathe;
    this.#lastUnit = options.lastUnit;
    this.#sent = this.freed.clone();
    this.#cursor = this.cursorFrom(this.freed.position + 1);
  }

  /** Events in all commits through the send position. */
  get eventsSent(): number {
    return this.#sent.events;
  }

  get lastUnit(): number {
    return this.#lastUnit;
  }

  cursorFrom(seq: number): LogCursor {
    return new LogCursor(this.#log, seq, this.#onDamage);
  }

  async next(bytesMax: number): Promise<UplinkUnit[]> {
    const units: UplinkUnit[] = [];
    let bytes = 0;
    while (bytes < bytesMax) {
      const unit = this.#gapsSent < this.gaps.pending.length ? this.#gapUnit() : await this.#commitUnit();
      if (!unit) break;
      units.push(unit);
      for (const block of unit.blocks) bytes += block.bytes.length;
      await this.breathe();
    }
    return units;
  }

  rewind(): void {
    this.#units = [];
    this.#gapsSent = 0;
    this.#passedDamage = false;
    this.#sent = this.freed.clone();
    this.#cursor = this.cursorFrom(this.freed.position + 1);
  }

  /** Units from before the last rewind have lower numbers than all that are out: naming one frees nothing. */
  free(throughUnit: number): FreeReport & { readonly logBytes: number } {
    assert(throughUnit <= this.#lastUnit, "only units that were handed out are freed");
    const eventsBefore = this.freed.events;
    const firstOrdinals = new Map<Id, number>();
    let logBytes = 0;
    let gaps = 0;
    while (this.#units[0] && this.#units[0].unit <= throughUnit) {
      const unit = this.#units.shift() as HandedOut;
      for (const move of unit.cursorMoves) this.freed.moveCursor(move);
      for (const move of unit.chainMoves) this.freed.moveChain(move);
      for (const [id, ordinal] of unit.nextOrdinals) firstOrdinals.set(id, ordinal);
      this.freed.position = unit.position;
      this.freed.events = unit.eventsThrough;
      this.eventsSkipped += unit.eventsSkipped;
      logBytes += unit.logBytes;
      gaps += unit.gaps;
    }
    if (gaps > 0) {
      this.gaps.confirm(gaps);
      this.#gapsSent -= gaps;
    }
    for (const [id, ordinal] of firstOrdinals) {
      const stream = this.#state.streams.get(id);
      if (!stream) continue;
      stream.firstOrdinal = Math.max(stream.firstOrdinal, ordinal);
      this.gaps.forgetLocal(id, stream.firstOrdinal);
    }
    return {
      events: this.freed.events - eventsBefore,
      firstOrdinals: Array.from(firstOrdinals, ([streamId, firstOrdinal]) => ({ streamId, firstOrdinal })),
      logBytes,
    };
  }

  /** Continues from another freed position, with gaps before it: a drop became durable. All units that are out are void. */
  restart(freed: UplinkFold, gaps: GapLedger): void {
    this.freed = freed;
    this.gaps = gaps;
    this.rewind();
  }

  /** Of a stream of which nothing is left to send. */
  forget(localId: Id): void {
    this.freed.forget(localId);
    this.#sent.forget(localId);
  }

  /** The core lacks freed numbers: a gap takes their place, before everything else. What is out must be void. */
  giveUp(at: ReachedTail): void {
    const lacking = this.freed.lacking(at);
    if (!lacking) return;
    const { localId, streamId: target, lane, incarnation, last } = at;
    const segment = at.segment.number;
    this.gaps.addLacking({ localId, lane, incarnation, segment, ...lacking });
    this.freed.moveChain({ localId, target, segments: lacking.segments, segment, lane, incarnation, last });
    this.rewind();
  }

  /** Numbers that are missing before an entry, and how the cursors move with it. */
  static moves(fold: UplinkFold, entry: LogEntry, passedDamage: boolean): { missing: MissingNumbers[]; cursorMoves: CursorMove[] } {
    let missing: MissingNumbers[] = [];
    const cursorMoves: CursorMove[] = [];
    if (entry.kind === "commit") {
      missing = fold.missingBefore(entry);
      const incarnation = entry.blocks[0]?.incarnation;
      if (incarnation !== undefined) {
        for (const { localId, last } of entry.streams) cursorMoves.push({ localId, lane: entry.lane, incarnation, last });
      }
    } else {
      if (entry.kind === "incarnation") missing = fold.missingAtStart(entry);
      if (entry.kind === "checkpoint" && passedDamage) missing = missingAtCheckpoint(fold, entry.raw);
      for (const { localId, lane, incarnation, last } of missing) cursorMoves.push({ localId, lane, incarnation, last });
    }
    return { missing, cursorMoves };
  }

  destination(localId: Id): Destination {
    const stream = this.#state.streams.get(localId);
    // A stream is forgotten only after everything of it was freed.
    if (!stream) return { kind: "skip" };
    const { mapping, deleted } = stream;
    // What is sent by a mapping that a crash can undo is sent again by the next one, which may lead elsewhere; and another stream of the name
    // may be mapped to where it is.
    if (!mapping || this.#isBeingMapped(localId)) return { kind: deleted ? "skip" : "unresolved" };
    return { kind: deleted ? "give-up" : "send", mapping };
  }

  #gapUnit(): UplinkUnit | undefined {
    const builder = this.#builder();
    const nextOrdinals = new Map<Id, number>();
    let gaps = 0;
    for (const gap of this.gaps.pending.slice(this.#gapsSent, this.#gapsSent + UNIT_GAPS_MAX)) {
      if (this.destination(gap.localId).kind === "unresolved") break;
      builder.addPending(gap);
      if (gap.nextOrdinal > 0) nextOrdinals.set(gap.localId, gap.nextOrdinal);
      gaps++;
    }
    if (gaps === 0) return undefined;
    this.#gapsSent += gaps;
    return this.#handOut(builder, { nextOrdinals, gaps, events: 0, logBytes: 0, cursorMoves: [] });
  }

  async #commitUnit(): Promise<UplinkUnit | undefined> {
    const steps: (MissingNumbers | CommitRecord)[] = [];
    const cursorMoves = new Map<string, CursorMove>();
    const nextOrdinals = new Map<Id, number>();
    let commits = 0;
    let events = 0;
    let logBytes = 0;
    let payloadBytes = 0;
    for (;;) {
      const entry = await this.#cursor.peek(this.#end());
      if (!entry) break;
      const isCommit = entry.kind === "commit" && entry.events > 0;
      if (isCommit && commits > 0) {
        const tooMuch = payloadBytes + entry.payloadBytes > MERGE_PAYLOAD_BYTES || logBytes + entry.bytes > MERGE_LOG_BYTES;
        if (tooMuch || entry.bytes >= WHOLE_BYTES_MIN) break;
      }
      const { missing, cursorMoves: moves } = Uplink.moves(this.#sent, entry, this.#passedDamage);
      const touched = isCommit ? [...missing, ...entry.streams] : missing;
      if (touched.some(({ localId }) => this.destination(localId).kind === "unresolved")) break;

      this.#cursor.advance();
      for (const move of moves) {
        this.#sent.moveCursor(move);
        cursorMoves.set(`${move.localId}.${move.lane}`, move);
      }
      steps.push(...missing);
      this.#sent.position = entry.seq;
      logBytes += entry.bytes;
      if (entry.kind === "damaged") this.#passedDamage = true;
      if (entry.kind === "checkpoint") this.#passedDamage = false;
      if (entry.kind === "commit") this.#sent.events = entry.eventsBefore + entry.events;
      if (!isCommit) continue;
      steps.push(entry);
      commits++;
      events += entry.events;
      payloadBytes += entry.payloadBytes;
      for (const { localId, last, shift } of entry.streams) nextOrdinals.set(localId, shift + last + 1);
      if (entry.bytes >= WHOLE_BYTES_MIN) break;
    }
    if (steps.length === 0) {
      // Records without events that nothing waits for: passed, and freed at once.
      if (this.#units.length === 0 && this.gaps.pending.length === 0) {
        this.freed.position = this.#sent.position;
        this.freed.events = this.#sent.events;
      }
      return undefined;
    }
    const builder = this.#builder();
    for (const step of steps) {
      if ("kind" in step) builder.addCommit(step, commits === 1);
      else builder.addMissing(step);
    }
    return this.#handOut(builder, { nextOrdinals, gaps: 0, events, logBytes, cursorMoves: [...cursorMoves.values()] });
  }

  #builder(): UnitBuilder {
    const known = new Map<Id, Destination>();
    return new UnitBuilder(this.#writer, this.#sent, (localId) => {
      let destination = known.get(localId);
      if (!destination) {
        destination = this.destination(localId);
        known.set(localId, destination);
      }
      return destination;
    });
  }

  #handOut(
    builder: UnitBuilder,
    of: Pick<HandedOut, "nextOrdinals" | "gaps" | "logBytes" | "cursorMoves"> & { readonly events: number },
  ): UplinkUnit {
    const { blocks, chainMoves } = builder.finish();
    const { events, ...rest } = of;
    const unit = ++this.#lastUnit;
    const { position, events: eventsThrough } = this.#sent;
    this.#units.push({ unit, position, eventsThrough, chainMoves, eventsSkipped: builder.eventsSkipped, ...rest });
    return { unit, blocks, events, payloadBytes: builder.payloadBytes };
  }
}

function missingAtCheckpoint(fold: UplinkFold, raw: Parameters<typeof decodeCheckpoint>[0]): MissingNumbers[] {
  const { incarnation, numbers } = decodeCheckpoint(raw);
  return incarnation === undefined ? [] : fold.missingUpTo(incarnation, numbers);
}
