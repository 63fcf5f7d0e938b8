import { sleep } from "@tributary/common/clock";
import { TributaryError, toTributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import { formatStreamName, type Id, type StreamName } from "@tributary/common/names";
import type { MetaChange, MetaEntry } from "@tributary/common/ports/meta-store";
import { BoundedCache } from "./bounded-cache.ts";
import { type Change, changeKey, type MetaAccess } from "./meta-change.ts";
import {
  decodeIdPointer,
  decodeStreamRecord,
  encodeIdPointer,
  encodeStreamRecord,
  idKey,
  nameOfKey,
  recoveredName,
  STREAMS_PREFIX,
  type StreamRecord,
  streamKey,
} from "./stream-record.ts";

/** A stream's record as this node knows it. */
export interface StreamEntry {
  readonly name: StreamName;
  readonly record: StreamRecord;
  readonly revision: number;
  /** True when this revision was won here by compare-and-set; false when it was only read, and may be old. */
  readonly certain: boolean;
}

export type StreamProposal = Pick<StreamRecord, "id" | "contentType" | "segments" | "containers" | "createdAtMs" | "closed">;

export type CreateOutcome =
  /** "exists" carries an open stream with another id. */
  | { readonly type: "created" | "exists"; readonly entry: StreamEntry }
  /** The name's former stream is on its way out: finish that, then try again. */
  | { readonly type: "deleting"; readonly entry: StreamEntry }
  /** The proposed id was this name's stream once, and is deleted or being deleted. */
  | { readonly type: "retired" }
  /** The proposed id belongs to another name. */
  | { readonly type: "id-taken" };

const WATCH_PAUSE_MS = 1_000;
const CERTAIN_MS = 5_000;

/**
 * Which streams there are, in the MetaStore. A name's record decides; `ids/` is an index into it.
 *
 * Creation writes the pointer first, then the record. Dying in between, or losing the name to somebody else, leaves a pointer to
 * a name whose record does not carry the id: a lookup by that id finds no stream, a retry under the same id takes the pointer
 * over, and nothing else ever looks at it. The other order could leave a stream that cannot be found by its id. Deletion turns the record to
 * "deleting" (the intent, rule C8), removes what the container has, then the pointer, then turns the record to "deleted".
 * Dying anywhere leaves "deleting", and `start` hands it out to be resumed.
 */
export class StreamDirectory {
  readonly #access: MetaAccess;
  readonly #log: Logger;
  readonly #byName = new BoundedCache<StreamEntry>(LIMITS.directoryCacheEntriesMax);
  readonly #keyOfId = new BoundedCache<StreamName>(LIMITS.directoryCacheEntriesMax);
  /** When entries were read or won. */
  readonly #knownSinceMs = new WeakMap<StreamEntry, number>();
  readonly #lookups = new Map<Id, Promise<StreamEntry | undefined>>();
  readonly #stopped = new AbortController();
  #following: Promise<void> | undefined;
  #watch = new AbortController();
  #count = 0;
  #tombstones = 0;

  constructor(access: MetaAccess, log: Logger) {
    this.#access = access;
    this.#log = log;
  }

  /** Streams that exist; other nodes' changes since the start are not counted. */
  get count(): number {
    return this.#count;
  }

  /** Returns the streams whose deletion was begun and not finished. */
  async start(): Promise<StreamEntry[]> {
    const entries = this.#decodeAll(await this.#access.meta.list(STREAMS_PREFIX));
    this.#count = entries.filter((entry) => entry.record.state !== "deleted").length;
    await this.#forgetOldTombstones(entries);
    this.#following = this.#follow();
    return entries.filter((entry) => entry.record.state === "deleting");
  }

  async close(): Promise<void> {
    this.#stopped.abort();
    await this.#following;
  }

  /** The stream of a name unless it is deleted; it may be on its way out. */
  async find(name: StreamName): Promise<StreamEntry | undefined> {
    const key = streamKey(name);
    const cached = this.#byName.get(key);
    if (cached) return cached;
    const entry = await this.#access.meta.get(key);
    if (!entry) return undefined;
    return this.#remember(entry, false);
  }

  /**
   * The open stream of an id. One that is found may have been deleted meanwhile unless the entry is certain; that there is none
   * is won by compare-and-set before it is said, because a gateway gives events up for it. Calls for one id share one lookup.
   */
  findById(id: Id): Promise<StreamEntry | undefined> {
    const running = this.#lookups.get(id);
    if (running) return running;
    const lookup = this.#lookUp(id).finally(() => this.#lookups.delete(id));
    this.#lookups.set(id, lookup);
    return lookup;
  }

  /** The name's record, won by compare-and-set: nobody had changed it when this was called. undefined if there is no stream. */
  async confirm(name: StreamName): Promise<StreamEntry | undefined> {
    const key = streamKey(name);
    const cached = this.#byName.get(key);
    if (cached && this.#isCertain(cached)) return cached;
    const confirmed = await changeKey<StreamEntry | undefined>(this.#access, key, (entry) => {
      const value = entry?.value ?? encodeStreamRecord(NO_STREAM);
      return { type: "put", value, result: (revision) => this.#remember({ key, value, revision }, true) };
    });
    return confirmed;
  }

  /** @throws TOO_MANY_STREAMS */
  async create(name: StreamName, proposal: StreamProposal): Promise<CreateOutcome> {
    const key = streamKey(name);
    const cached = this.#byName.get(key);
    if (cached && this.#isCertain(cached) && cached.record.state === "open") {
      return cached.record.past.includes(proposal.id) ? { type: "retired" } : found(cached, proposal.id);
    }
    return changeKey<CreateOutcome>(this.#access, key, async (entry): Promise<Change<CreateOutcome>> => {
      const before = entry ? decodeStreamRecord(key, entry.value) : NO_STREAM;
      if (before.past.includes(proposal.id) || (before.state === "deleting" && before.id === proposal.id)) {
        return { type: "keep", result: { type: "retired" } };
      }
      if (before.state !== "deleted" && entry) {
        // A MetaStore that went back between the two writes of its creation has the record alone, and nobody found it by its id.
        if (before.state === "open") await this.#claimId(before.id, name);
        // Written back as it is: only then is it certain that it was not deleted meanwhile.
        const value = entry.value;
        return {
          type: "put",
          value,
          result: (revision) => {
            const current = { name, record: before, revision, certain: true };
            this.#keep(current);
            return before.state === "deleting" ? { type: "deleting", entry: current } : found(current, proposal.id);
          },
        };
      }
      if (this.#count >= LIMITS.streamsMax) throw new TributaryError("TOO_MANY_STREAMS", `${this.#count} streams exist`);
      if (!(await this.#claimId(proposal.id, name))) return { type: "keep", result: { type: "id-taken" } };
      const record: StreamRecord = { ...proposal, state: "open", past: before.past, deletedAtMs: 0 };
      return {
        type: "put",
        value: encodeStreamRecord(record),
        result: (revision) => {
          this.#count++;
          const created = { name, record, revision, certain: true };
          this.#keep(created);
          return { type: "created", entry: created };
        },
      };
    });
  }

  /** Every record, those of deleted names too, read anew. */
  async records(): Promise<StreamEntry[]> {
    return this.#decodeAll(await this.#access.meta.list(STREAMS_PREFIX));
  }

  /** Gives a stream that its container has its record back. "taken": the name or the id is another's, or the stream is known to be deleted. */
  async restore(name: StreamName, proposal: StreamProposal): Promise<"restored" | "known" | "taken"> {
    const key = streamKey(name);
    if (!(await this.#claimId(proposal.id, name))) return "taken";
    return changeKey<"restored" | "known" | "taken">(this.#access, key, (entry) => {
      const before = entry ? decodeStreamRecord(key, entry.value) : NO_STREAM;
      if (before.id === proposal.id) return { type: "keep", result: "known" };
      if (before.state !== "deleted" || before.past.includes(proposal.id)) return { type: "keep", result: "taken" };
      const record: StreamRecord = { ...proposal, state: "open", past: before.past, deletedAtMs: 0 };
      return {
        type: "put",
        value: encodeStreamRecord(record),
        result: (revision) => {
          this.#count++;
          this.#keep({ name, record, revision, certain: true });
          return "restored";
        },
      };
    });
  }

  /**
   * Records the intent to delete. undefined if there is no stream, or another one than that of `id`, where that is given.
   * @throws LOG_RESULT_UNKNOWN if it may have been recorded, and the name has another stream since: that one stays
   */
  async beginDelete(name: StreamName, id?: Id): Promise<StreamEntry | undefined> {
    const key = streamKey(name);
    let tried: Id | undefined;
    const begun = await changeKey<StreamEntry | "unknown" | undefined>(this.#access, key, (entry, mayHaveLanded) => {
      const before = entry ? decodeStreamRecord(key, entry.value) : NO_STREAM;
      if (id !== undefined && before.id !== id) return { type: "keep", result: undefined };
      if (before.state === "deleted") {
        // A read that found nothing may be old: what this node itself wrote is newer.
        const cached = this.#byName.get(key);
        const old = cached && this.#isCertain(cached) && (entry?.revision ?? 0) <= cached.revision;
        return old ? { type: "again" } : { type: "keep", result: undefined };
      }
      if (mayHaveLanded && before.id !== tried) return { type: "keep", result: "unknown" };
      tried = before.id;
      const record: StreamRecord = { ...before, state: "deleting" };
      return {
        type: "put",
        value: encodeStreamRecord(record),
        result: (revision) => {
          // This one, whatever is known by now: others may have finished it and created the name again before the answer came.
          const deleting = { name, record, revision, certain: true };
          this.#keep(deleting);
          return deleting;
        },
      };
    });
    if (begun !== "unknown") return begun;
    throw new TributaryError("LOG_RESULT_UNKNOWN", `'${formatStreamName(name)}' may have been deleted, and has been created since`);
  }

  /** After the containers have forgotten the stream. Idempotent. */
  async finishDelete(deleting: StreamEntry): Promise<void> {
    const { name, record } = deleting;
    const pointerKey = idKey(record.id);
    await changeKey<void>(this.#access, pointerKey, (entry) => (entry ? { type: "remove", result: undefined } : DONE));
    this.#keyOfId.delete(record.id);
    const key = streamKey(name);
    await changeKey<void>(this.#access, key, (entry) => {
      const before = entry ? decodeStreamRecord(key, entry.value) : NO_STREAM;
      if (before.id !== record.id) return !entry || entry.revision < deleting.revision ? { type: "again" } : DONE;
      // Also where it is open, since the MetaStore went back and forgot the intent: the containers have deleted it for good.
      const value = encodeStreamRecord({
        ...NO_STREAM,
        past: [...before.past, record.id].slice(-LIMITS.pastIdsPerNameMax),
        deletedAtMs: this.#access.clock.nowMs(),
      });
      return {
        type: "put",
        value,
        result: () => {
          this.#byName.delete(key);
          this.#count--;
          this.#tombstones++;
        },
      };
    });
    if (this.#tombstones > 2 * LIMITS.deletedStreamsMax) {
      await this.#forgetOldTombstones(this.#decodeAll(await this.#access.meta.list(STREAMS_PREFIX)));
    }
  }

  /** Drops what is cached of a name because it proved to be old. */
  forget(name: StreamName): void {
    this.#byName.delete(streamKey(name));
  }

  /** Drops all that is cached: another node may have decided about streams while it owned their container. */
  forgetAll(): void {
    this.#byName.clear();
  }

  /** Open streams, of one scope or all, in order of scope and name. */
  async list(scope: string | undefined): Promise<StreamEntry[]> {
    const entries = this.#decodeAll(await this.#access.meta.list(scope === undefined ? STREAMS_PREFIX : `${STREAMS_PREFIX}/${scope}`));
    return entries.filter((entry) => entry.record.state === "open").sort((a, b) => compareNames(a.name, b.name));
  }

  async #lookUp(id: Id): Promise<StreamEntry | undefined> {
    const name = this.#keyOfId.get(id) ?? (await this.#nameOfId(id));
    if (!name) return undefined;
    const isIt = (entry: StreamEntry | undefined) => entry?.record.id === id && entry.record.state === "open";
    for (const candidate of [name, recoveredName(name, id)]) {
      const read = await this.find(candidate);
      const entry = isIt(read) ? read : await this.confirm(candidate);
      if (isIt(entry)) return entry;
    }
    return undefined;
  }

  async #nameOfId(id: Id): Promise<StreamName | undefined> {
    const key = idKey(id);
    const name = await changeKey<StreamName | undefined>(this.#access, key, (entry) => {
      const pointer = entry ? decodeIdPointer(key, entry.value) : undefined;
      if (pointer?.type === "stream") return { type: "keep", result: pointer.name };
      return { type: "put", value: encodeIdPointer({ type: "probe" }), result: () => undefined };
    });
    if (name) this.#keyOfId.set(id, name);
    else await this.#removeProbe(key);
    return name;
  }

  /** A probe that stays because this node dies here is overwritten by whoever needs its place. */
  async #removeProbe(key: string): Promise<void> {
    await changeKey<void>(this.#access, key, (entry) =>
      entry && decodeIdPointer(key, entry.value).type === "probe" ? { type: "remove", result: undefined } : DONE,
    );
  }

  /** True once `ids/` points from the id to this name, or to the one that this stands for; false if it points elsewhere. */
  async #claimId(id: Id, name: StreamName): Promise<boolean> {
    const key = idKey(id);
    return changeKey<boolean>(this.#access, key, (entry) => {
      const pointer = entry ? decodeIdPointer(key, entry.value) : undefined;
      if (pointer?.type === "stream") {
        const { name: owner } = pointer;
        return { type: "keep", result: compareNames(owner, name) === 0 || compareNames(recoveredName(owner, id), name) === 0 };
      }
      return { type: "put", value: encodeIdPointer({ type: "stream", name }), result: () => true };
    });
  }

  #remember(entry: MetaEntry, certain: boolean): StreamEntry | undefined {
    const record = decodeStreamRecord(entry.key, entry.value);
    if (record.state === "deleted") {
      this.#byName.delete(entry.key);
      return undefined;
    }
    return this.#keep({ name: nameOfKey(entry.key), record, revision: entry.revision, certain });
  }

  /** Other nodes change records as well, and the watch that tells of it may have been forgotten: what was won counts for a while. */
  #isCertain(entry: StreamEntry): boolean {
    return entry.certain && !this.#isOld(entry);
  }

  #isOld(entry: StreamEntry): boolean {
    return this.#access.clock.monotonicMs() - (this.#knownSinceMs.get(entry) ?? 0) >= CERTAIN_MS;
  }

  /**
   * The newer one of the entry and what is cached. Revisions tell which; but what is won is new: if it is not above what is known, its
   * answer came late, or the MetaStore went back. Which of them holds, the next read tells.
   */
  #keep(entry: StreamEntry): StreamEntry {
    const key = streamKey(entry.name);
    const cached = this.#byName.get(key);
    if (cached && (cached.revision > entry.revision || (cached.revision === entry.revision && cached.certain))) {
      if (!entry.certain) return cached;
      this.#byName.delete(key);
      return entry;
    }
    this.#byName.set(key, entry);
    this.#knownSinceMs.set(entry, this.#access.clock.monotonicMs());
    return entry;
  }

  #decodeAll(entries: readonly MetaEntry[]): StreamEntry[] {
    return entries.flatMap((entry) => {
      try {
        const record = decodeStreamRecord(entry.key, entry.value);
        return [{ name: nameOfKey(entry.key), record, revision: entry.revision, certain: false }];
      } catch (error) {
        // One damaged record must not keep all other streams from being served.
        this.#log.error("a stream's record is damaged and was passed over", { key: entry.key, error: toTributaryError(error).message });
        return [];
      }
    });
  }

  async #forgetOldTombstones(entries: readonly StreamEntry[]): Promise<void> {
    const tombstones = entries.filter((entry) => entry.record.state === "deleted");
    // Names that never had a stream go first. Of the others those that were written longest ago: the clocks of nodes may be wrong.
    const hadStream = ({ record }: StreamEntry) => Number(record.past.length > 0);
    const newestFirst = tombstones.sort((a, b) => hadStream(b) - hadStream(a) || b.revision - a.revision);
    const old = newestFirst.slice(LIMITS.deletedStreamsMax);
    for (const entry of old) {
      try {
        await this.#access.meta.delete(streamKey(entry.name), entry.revision);
      } catch (error) {
        // Somebody created the name again, or the store is away: the next round sees to it.
        this.#log.info("an old deleted name could not be forgotten", {
          stream: formatStreamName(entry.name),
          error: toTributaryError(error).code,
        });
      }
    }
    this.#tombstones = tombstones.length - old.length;
  }

  /** Forgets all that is cached, and what a watch had seen, of a MetaStore that may have gone back. */
  beginAnew(): void {
    this.forgetAll();
    this.#watch.abort();
  }

  /** Keeps cached records from growing old when other nodes change them. */
  async #follow(): Promise<void> {
    const { signal } = this.#stopped;
    while (!signal.aborted) {
      this.#watch = new AbortController();
      try {
        const watching = AbortSignal.any([signal, this.#watch.signal]);
        await this.#access.meta.watch(STREAMS_PREFIX, watching, (change) => this.#observe(change));
      } catch (error) {
        this.#log.warn("the watch over the streams broke off", { error: toTributaryError(error).code });
      }
      await sleep(this.#access.clock, WATCH_PAUSE_MS, signal);
    }
  }

  #observe(change: MetaChange): void {
    const cached = this.#byName.get(change.key);
    if (!cached) return;
    // A MetaStore that went back gives revisions again: a change below what has been known for long, or another one under its revision.
    const wentBack = change.revision < cached.revision ? this.#isOld(cached) : !isOf(change, cached.record);
    if (change.revision > cached.revision || wentBack) this.#byName.delete(change.key);
  }
}

function isOf({ key, value }: MetaChange, record: StreamRecord): boolean {
  try {
    const changed = value && decodeStreamRecord(key, value);
    return changed?.id === record.id && changed.state === record.state;
  } catch {
    // Damaged: whoever reads it is told.
    return false;
  }
}

/** Stands for a name without a stream. */
const NO_STREAM: StreamRecord = {
  id: "",
  contentType: "",
  segments: 0,
  containers: [],
  createdAtMs: 0,
  closed: false,
  state: "deleted",
  past: [],
  deletedAtMs: 0,
};

const DONE: Change<void> = { type: "keep", result: undefined };

function found(entry: StreamEntry, proposedId: Id): CreateOutcome {
  return { type: entry.record.id === proposedId ? "created" : "exists", entry };
}

/** By scope, then by stream, in order of code units. */
export function compareNames(a: StreamName, b: StreamName): number {
  if (a.scope !== b.scope) return a.scope < b.scope ? -1 : 1;
  if (a.stream !== b.stream) return a.stream < b.stream ? -1 : 1;
  return 0;
}
