import { assert } from "@tributary/common/assert";
import { hasCode } from "@tributary/common/errors";
import type { Id } from "@tributary/common/names";
import type { Log, LogState } from "@tributary/common/ports/log";
import { type Checkpoint, decodeCheckpoint } from "./checkpoint-record.ts";
import type { CommitRecord } from "./commit-record.ts";
import { applyChange, type EdgeState, emptyEdgeState, forgetStream, recoveredStreamName, restoreEdgeState } from "./edge-state.ts";
import { GapLedger } from "./gap-ledger.ts";
import type { IncarnationRecord } from "./incarnation-record.ts";
import { extendEras } from "./local-eras.ts";
import { LocalPositions } from "./local-positions.ts";
import { type DamageListener, decodeEntry, LogCursor } from "./log-cursor.ts";
import { NumberBook } from "./number-book.ts";
import { UplinkFold } from "./uplink-fold.ts";

/** What the log's records amount to. */
export interface Recovered {
  readonly log: LogState;
  /** undefined for a new log, or where nothing tells any more. */
  readonly writer: Id | undefined;
  /** The newest incarnation in the log. */
  readonly incarnation: Id | undefined;
  readonly numbers: NumberBook;
  readonly state: EdgeState;
  readonly fold: UplinkFold;
  readonly gaps: GapLedger;
  readonly events: number;
  readonly positions: LocalPositions;
  /** The newest checkpoint, undefined if there is none. */
  readonly checkpoint: { readonly seq: number; readonly freed: number } | undefined;
  readonly checkpoints: readonly number[];
  readonly truncateThrough: number;
  readonly recordsRead: number;
  /** What was read behind the checkpoint, in the measure of checkpointCost. */
  readonly grown: number;
}

/** Replaying a record costs this much beside its bytes, in bytes. */
const RECORD_COST_BYTES = 1024;

/** What a record adds to the time of a recovery that has to replay it. */
export function replayCost(bytes: number): number {
  return bytes + RECORD_COST_BYTES;
}

/**
 * Folds the log: the newest checkpoint that can be read, and the records behind it. What lies before the checkpoint is not read,
 * so the time this takes does not grow with the backlog.
 * @throws FORMAT_UNSUPPORTED
 */
export async function recover(log: Log, onDamage: DamageListener): Promise<Recovered> {
  const logState = await log.state();
  const found = await findCheckpoint(log, logState, onDamage);
  const replay = new Replay(found, logState);
  const cursor = new LogCursor(log, replay.from, onDamage);
  for (let entry = await cursor.peek(logState.last); entry; entry = await cursor.peek(logState.last)) {
    if (entry.kind === "commit") replay.commit(entry);
    else if (entry.kind === "incarnation") replay.incarnate(entry);
    replay.count(entry.bytes);
    cursor.advance();
  }
  return replay.finish(logState);
}

interface FoundCheckpoint {
  readonly seq: number;
  readonly checkpoint: Checkpoint;
}

/** Every record names the newest checkpoint before it: looks from the end back to the first record that can be read, and there. */
async function findCheckpoint(log: Log, { first, last }: LogState, onDamage: DamageListener): Promise<FoundCheckpoint | undefined> {
  for (let seq = last; seq >= first; ) {
    const [record] = await log.read(seq, { recordsMax: 1, bytesMax: 1 });
    const entry = record?.seq === seq ? decodeEntry(record) : undefined;
    if (entry?.kind === "checkpoint") {
      try {
        return { seq, checkpoint: decodeCheckpoint(entry.raw) };
      } catch (error) {
        if (!hasCode(error, "STORE_CORRUPT")) throw error;
      }
    }
    const before = entry ? entry.checkpoint : seq - 1;
    if (!entry) onDamage(seq, seq, record?.seq === seq ? record.data : undefined);
    if (before === 0) return undefined;
    seq = before;
  }
  return undefined;
}

class Replay {
  readonly from: number;
  readonly #state: EdgeState;
  readonly #positions = new LocalPositions();
  readonly #found: FoundCheckpoint | undefined;
  readonly #fold: UplinkFold;
  #numbers = new NumberBook();
  #writer: Id | undefined;
  #incarnation: Id | undefined;
  #events: number;
  #recordsRead = 0;
  #grown = 0;

  constructor(found: FoundCheckpoint | undefined, { first }: LogState) {
    this.#found = found;
    const checkpoint = found?.checkpoint;
    this.from = found ? found.seq + 1 : first;
    this.#state = checkpoint ? restoreEdgeState(checkpoint.state) : emptyEdgeState();
    this.#fold = checkpoint ? UplinkFold.restore(checkpoint.fold) : new UplinkFold(first - 1, 0);
    this.#writer = checkpoint?.writer;
    this.#incarnation = checkpoint?.incarnation;
    this.#events = checkpoint?.events ?? 0;
    for (const { id, lane, last } of checkpoint?.numbers ?? []) this.#numbers.set(id, lane, last);
  }

  commit(commit: CommitRecord): void {
    const block = commit.blocks[0];
    if (block) {
      this.#writer ??= block.writer;
      // Its incarnation record was lost.
      if (block.incarnation !== this.#incarnation) this.#begin(block.incarnation);
    }
    // Everything before the first record that is left was lost together with its checkpoints: those events are not held.
    if (this.#events === 0 && this.#fold.events === 0 && !this.#found) this.#fold.events = commit.eventsBefore;
    for (const change of commit.changes) applyChange(this.#state, change);
    for (const { localId, first, last, shift } of commit.streams) {
      const stream = this.#state.streams.get(localId) ?? this.#lostStream(localId, commit);
      stream.nextOrdinal = Math.max(stream.nextOrdinal, last + shift + 1);
      if (block) {
        const run = { ordinal: first + shift, count: last - first + 1, incarnation: block.incarnation, lane: commit.lane, first };
        extendEras(stream.eras, run, this.#state.streams.size);
      }
    }
    this.#numbers.advance(commit.lane, commit.streams);
    this.#positions.committed(commit.seq, commit.streams);
    this.#events = commit.eventsBefore + commit.events;
  }

  incarnate(record: IncarnationRecord): void {
    this.#writer ??= record.writer;
    for (const id of record.forgotten) {
      forgetStream(this.#state, id);
      this.#fold.forget(id);
      this.#positions.forget(id);
    }
    this.#begin(record.incarnation);
  }

  count(bytes: number): void {
    this.#recordsRead++;
    this.#grown += replayCost(bytes);
  }

  finish(log: LogState): Recovered {
    const found = this.#found;
    const checkpoints = found ? [...found.checkpoint.checkpoints, found.seq] : [];
    return {
      log,
      writer: this.#writer,
      incarnation: this.#incarnation,
      numbers: this.#numbers,
      state: this.#state,
      fold: this.#fold,
      gaps: new GapLedger(found?.checkpoint.gaps),
      events: this.#events,
      positions: this.#positions,
      checkpoint: found && { seq: found.seq, freed: found.checkpoint.fold.position },
      checkpoints: checkpoints.filter((seq) => seq >= log.first),
      truncateThrough: found?.checkpoint.truncateThrough ?? 0,
      recordsRead: this.#recordsRead,
      grown: this.#grown,
    };
  }

  #begin(incarnation: Id): void {
    this.#incarnation = incarnation;
    this.#numbers = new NumberBook();
  }

  /** The record of its creation is lost. Its events go to the core under a name made of its id. */
  #lostStream(id: Id, commit: CommitRecord) {
    const stream = commit.streams.find(({ localId }) => localId === id);
    applyChange(this.#state, {
      type: "create-stream",
      id,
      name: recoveredStreamName(id),
      contentType: "application/octet-stream",
      segments: stream?.segments ?? 1,
      createdAtMs: commit.blocks[0]?.slices.at(0)?.timeMinMs ?? 0,
      closed: false,
    });
    const created = this.#state.streams.get(id);
    assert(created !== undefined, "a stream that was created exists");
    created.firstOrdinal = stream ? stream.first + stream.shift : 0;
    return created;
  }
}
