import { openChunk } from "@tributary/common/format/block";
import { payloadOf } from "@tributary/common/format/event-columns";
import { evenRangeIndex, keyHash } from "@tributary/common/key-hash";
import { decodeCheckpoint } from "@tributary/edge/store/checkpoint-record";
import { decodeEntry } from "@tributary/edge/store/log-cursor";
import { runOf, type Violate } from "./plain.ts";

/** An event as a gateway's log has it: the same event may have several, since a device sent it again. */
export interface Copy {
  readonly id: number;
  /** Writer, incarnation and lane. */
  readonly run: string;
  readonly number: number;
  readonly key: string;
  /** The gateway's own id of the stream: numbers are counted in it. */
  readonly localId: string;
  readonly record: LoggedRecord;
}

/** A record of a gateway's log, which copies of the log share. */
export interface LoggedRecord {
  readonly seq: number;
  /** The log that it was written to first. */
  readonly origin: string;
  readonly copies: readonly Copy[];
  /** Logs that hold it, and those that held it until something took it that the level of acknowledgement allows for. */
  readonly heldBy: Set<string>;
  readonly lostBy: Set<string>;
  /** The log went back to where it had not been written: nobody is left who could tell of it. */
  forgotten: boolean;
  /** The power went while it was written: it never was durable. */
  torn: boolean;
}

/** Numbers that a gateway's log itself says it gave up. */
interface DeclaredGap {
  readonly run: string;
  readonly localId: string;
  readonly first: number;
  readonly last: number;
}

interface LogHistory {
  /** Those that are gone since, too: what a backup does not have may be among them. */
  readonly records: Map<number, LoggedRecord>;
  readonly gaps: Map<string, DeclaredGap>;
  /** Streams that were deleted at the gateway, with the records that say so. */
  deletions: Map<string, number>;
  /** How far it had freed its records when a stream was mapped to one of the core's, by the ids of both. */
  freedAtMapping: Map<string, number>;
  /** How far it has, by its newest checkpoint; the records themselves go later. */
  freedByCheckpoint: number;
  freedThrough: number;
  /** By record: when it was freed. */
  freedMs: Map<number, number>;
}

/**
 * Watches the logs of gateways from outside: which event was written where, under which number, and what became of it. So it is known
 * exactly which events a loss, a drop or a torn write may take. It shares the codec with the implementation, and no decision.
 */
export class EdgeLogs {
  readonly #violate: Violate;
  readonly #identify: (data: Uint8Array) => number;
  readonly #logs = new Map<string, LogHistory>();
  readonly #byId = new Map<number, Copy[]>();
  readonly #byNumber = new Map<string, Copy[]>();
  readonly #writers = new Set<string>();
  readonly #streams = new Map<string, Set<string>>();
  /** The core's streams to which a gateway's stream was ever mapped: what is logged of it is read there. */
  readonly #mapped = new Map<string, Set<string>>();
  /** Of the core's streams: into how many segments they are cut. */
  readonly #segments = new Map<string, number>();
  /** By a gateway's stream: the run that wrote to it last. */
  readonly #lastRun = new Map<string, string>();
  #replaced = 0;

  constructor(violate: Violate, identify: (data: Uint8Array) => number) {
    this.#violate = violate;
    this.#identify = identify;
  }

  landed(log: string, seq: number, data: Uint8Array): void {
    const history = this.#log(log);
    const entry = decodeEntry({ seq, data });
    if (!entry) {
      this.#violate(1, "no record", `${log}: record ${seq} was written damaged`);
      return;
    }
    if (entry.kind === "incarnation") this.#writers.add(entry.writer);
    if (entry.kind === "checkpoint") {
      const { writer, gaps, fold } = decodeCheckpoint(entry.raw);
      history.freedByCheckpoint = fold.position;
      for (const { localId, incarnation, lane, first, last } of gaps.pending) {
        const run = runOf({ writer, incarnation, lane });
        history.gaps.set(`${run} ${localId} ${first} ${last}`, { run, localId, first, last });
      }
    }
    const copies: Copy[] = [];
    const record: LoggedRecord = { seq, origin: log, copies, heldBy: new Set([log]), lostBy: new Set(), forgotten: false, torn: false };
    history.records.set(seq, record);
    if (entry.kind !== "commit") return;
    for (const change of entry.changes) {
      if (change.type === "delete-stream") history.deletions.set(change.id, seq);
      if (change.type !== "map-stream") continue;
      history.freedAtMapping.set(`${change.id} ${change.mapping.id}`, history.freedByCheckpoint);
      this.#mapped.set(change.id, (this.#mapped.get(change.id) ?? new Set()).add(change.mapping.id));
      this.#segments.set(change.mapping.id, change.mapping.segments);
    }
    const localIds = new Map(entry.streams.map(({ blockId, localId }) => [blockId, localId]));
    for (const block of entry.blocks) {
      const run = runOf(block);
      this.#writers.add(block.writer);
      const streams = this.#streams.get(run) ?? new Set();
      for (const localId of localIds.values()) streams.add(localId);
      this.#streams.set(run, streams);
      for (const slice of block.slices) {
        if (slice.kind === "gap") continue;
        const events = openChunk(block, slice.chunk);
        for (let row = slice.start; row < slice.start + slice.count; row++) {
          const id = this.#identify(payloadOf(events, row));
          const key = events.keys[events.keyIndex[row] as number] as string;
          const localId = localIds.get(slice.streamId) as string;
          this.#lastRun.set(localId, run);
          const copy: Copy = { id, run, number: events.number[row] as number, key, localId, record };
          copies.push(copy);
          push(this.#byId, id, copy);
          push(this.#byNumber, `${run} ${localId} ${copy.number}`, copy);
        }
      }
    }
  }

  /** `to` is another log with the content that `from` has now. */
  copied(from: string, to: string): void {
    const { records, gaps, deletions, freedAtMapping, freedByCheckpoint, freedThrough, freedMs } = this.#log(from);
    for (const record of records.values()) record.heldBy.add(to);
    this.#logs.set(to, {
      records: new Map(records),
      gaps: new Map(gaps),
      deletions: new Map(deletions),
      freedAtMapping: new Map(freedAtMapping),
      freedByCheckpoint,
      freedThrough,
      freedMs: new Map(freedMs),
    });
  }

  /** A backup of the log that held its records through `seq` took its place. */
  replaced(log: string, seq: number): void {
    const history = this.#log(log);
    const before = `${log} before ${++this.#replaced}`;
    this.#log(before).deletions = new Map(history.deletions);
    this.#log(before).freedAtMapping = new Map(history.freedAtMapping);
    this.#log(before).freedMs = history.freedMs;
    for (const [localId, at] of history.deletions) if (at > seq) history.deletions.delete(localId);
    // What the backup still has is freed once more.
    history.freedByCheckpoint = 0;
    history.freedThrough = 0;
    history.freedMs = new Map();
    for (const record of history.records.values()) {
      // Where it stood among the others is still to be kept.
      record.heldBy.add(before);
      if (record.seq <= seq) continue;
      this.#take(log, record, true);
      if (record.origin === log) record.forgotten = true;
    }
  }

  /** A record's bytes changed, or cannot be read any more. `torn`: it never was durable; else its loss is allowed for. */
  damaged(log: string, seq: number, torn: boolean): void {
    const record = this.#log(log).records.get(seq);
    if (record) this.#take(log, record, !torn);
  }

  /**
   * Invariant 8: what a gateway frees is safe, or its own log says that it was given up. To be called before the records go.
   */
  freeing(log: string, throughSeq: number, nowMs: number, isSafe: (copy: Copy) => boolean): void {
    const history = this.#log(log);
    for (let seq = history.freedThrough + 1; seq <= throughSeq; seq++) {
      history.freedMs.set(seq, nowMs);
      for (const copy of history.records.get(seq)?.copies ?? []) {
        // Another copy of the log that held it may have declared its number first, or have lost it: the gap record stands for it at the core.
        const isGivenUp = [...copy.record.heldBy].some((holder) => this.#declares(holder, copy));
        if (isGivenUp || copy.record.lostBy.size > 0 || isSafe(copy)) continue;
        this.#violate(8, "freed early", `${log} frees event ${copy.id}, number ${copy.number} of ${copy.run} (record ${seq})`);
      }
    }
    history.freedThrough = Math.max(history.freedThrough, throughSeq);
  }

  copiesOf(id: number): readonly Copy[] {
    return this.#byId.get(id) ?? [];
  }

  /** A later incarnation or lane wrote to the stream after each copy of the event. */
  wasFollowed(id: number): boolean {
    return this.copiesOf(id).every(({ localId, run }) => this.#lastRun.get(localId) !== run);
  }

  /** What its run wrote behind the event into the same segment of a stream of the core. */
  behind(copy: Copy, streamId: string): readonly Copy[] {
    const { run, localId, number } = copy;
    const segment = this.segmentOf(copy, streamId);
    const found: Copy[] = [];
    for (let next = number + 1; ; next++) {
      const copies = this.numbered(run, localId, next);
      if (copies.length === 0) return found;
      found.push(...copies.filter((later) => this.segmentOf(later, streamId) === segment));
    }
  }

  /** Into which segment of a stream of the core the event belongs. */
  segmentOf({ key }: Copy, streamId: string): number {
    return evenRangeIndex(keyHash(key), this.#segments.get(streamId) ?? 1);
  }

  /** More than one disk held a record of the event: its log was cloned, or its disk replaced by a backup. */
  wasCopied(id: number): boolean {
    return this.copiesOf(id).some(({ record }) => record.heldBy.size + record.lostBy.size > 1);
  }

  /**
   * The log deleted the event's stream before it wrote `later`, and gave the event up: only another copy of the log can still bring it,
   * and it may do so at any time.
   */
  wasGivenUp(log: string, { record, localId }: Copy, later: Copy): boolean {
    const deletedAt = this.#log(log).deletions.get(localId);
    return deletedAt !== undefined && deletedAt < later.record.seq && record.heldBy.size + record.lostBy.size > 1;
  }

  /**
   * The log had freed the event before it sent anything to this stream of the core: only another copy of the log can bring it there. It
   * says how far it has before a stream goes on in another one.
   */
  wasFreedBefore(log: string, { record, localId }: Copy, streamId: string): boolean {
    return (this.#log(log).freedAtMapping.get(`${localId} ${streamId}`) ?? 0) >= record.seq;
  }

  /** The log had freed the record by then, and another one that holds it had not: what comes of it then is of the other one. */
  onlyAnotherHad(log: string, { seq, heldBy }: LoggedRecord, atMs: number): boolean {
    const had = (holder: string) => (this.#log(holder).freedMs.get(seq) ?? Number.POSITIVE_INFINITY) >= atMs;
    return !had(log) && [...heldBy].some(had);
  }

  /**
   * The copy of event `id` that is read under this number in a stream of the core; undefined if no log ever had one. Numbers are counted
   * stream by stream: what was sent again after its stream had been deleted may have the number in the next one that it had before.
   */
  find(id: number, run: string, number: number, streamId: string): Copy | undefined {
    const found = this.copiesOf(id).filter(
      (copy) => copy.run === run && copy.number === number && this.#mapped.get(copy.localId)?.has(streamId),
    );
    return found.find(({ record }) => !record.torn) ?? found[0];
  }

  /** Events of a gateway's stream that have this number. More than one where a record was torn, or written anew after a loss. */
  numbered(run: string, localId: string, number: number): readonly Copy[] {
    return this.#byNumber.get(`${run} ${localId} ${number}`) ?? [];
  }

  /** The core's streams to which a gateway's stream was ever mapped. */
  mappedOf(localId: string): ReadonlySet<string> {
    return this.#mapped.get(localId) ?? new Set();
  }

  /** The gateway's own ids of the streams that have events of a run. */
  streamsOf(run: string): ReadonlySet<string> {
    return this.#streams.get(run) ?? new Set();
  }

  /** True for a writer whose log is watched. */
  knows(writer: string): boolean {
    return this.#writers.has(writer);
  }

  /** The log says that it gave the number up. */
  #declares(log: string, { run, localId, number }: Copy): boolean {
    for (const gap of this.#log(log).gaps.values()) {
      if (gap.run === run && gap.localId === localId && gap.first <= number && number <= gap.last) return true;
    }
    return false;
  }

  #take(log: string, record: LoggedRecord, allowed: boolean): void {
    this.#log(log).records.delete(record.seq);
    record.heldBy.delete(log);
    if (allowed) record.lostBy.add(log);
    else record.torn = true;
  }

  #log(name: string): LogHistory {
    let log = this.#logs.get(name);
    if (!log) {
      log = {
        records: new Map(),
        gaps: new Map(),
        deletions: new Map(),
        freedAtMapping: new Map(),
        freedByCheckpoint: 0,
        freedThrough: 0,
        freedMs: new Map(),
      };
      this.#logs.set(name, log);
    }
    return log;
  }
}

function push<K>(map: Map<K, Copy[]>, key: K, copy: Copy): void {
  const list = map.get(key);
  if (list) list.push(copy);
  else map.set(key, [copy]);
}

/** The writer's own log lost it, as its level of acknowledgement allows. */
export function isLost({ record }: Copy): boolean {
  return record.lostBy.has(record.origin);
}
