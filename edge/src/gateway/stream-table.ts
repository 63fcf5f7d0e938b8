import { formatStreamName, type Id, type Lane, type StreamName } from "@tributary/common/names";
import {
  applyChange,
  type EdgeState,
  type EdgeStreamState,
  forgetStream,
  type ProducerState,
  restoreEdgeState,
} from "../store/edge-state.ts";
import type { EdgeStateSnapshot, StateChange, StreamMapping } from "../store/edge-store.ts";
import { extendEras, type LocalEra } from "../store/local-eras.ts";
import type { StreamHandle } from "./ingest.ts";

/** Deleted streams that are remembered while the gateway runs, since the core may have to be asked about them once more. */
const GONE_MAX = 10_000;
/** Names that are remembered because a deleted stream of theirs has numbers of this incarnation; then any creation begins another one. */
const NUMBERED_MAX = 10_000;

/**
 * What the main loop knows of a stream: the state after everything accepted, durable or not (`record`), and beside it how much of
 * that is durable. After a failed commit all of it is read back from the log.
 */
export class StreamState implements StreamHandle {
  readonly id: Id;
  readonly name: StreamName;
  readonly contentType: string;
  record: EdgeStreamState;

  /** Neither closed nor gone: the one thing that each event asks. */
  open: boolean;
  /** Deleted, or created by a commit that failed. */
  gone = false;
  /** Serial of the batch that carries the latest change of this stream; answers that hang on it wait for that batch. */
  changedInBatch = 0;

  /** Number of the next event in this incarnation. */
  nextNumber = 1;
  /** Number of the last durable event in this incarnation. */
  durableNumber = 0;
  /** Ordinal behind the last event accepted, and behind the last one durable. */
  acceptedOrdinal: number;
  durableOrdinal: number;
  durable: boolean;
  durableClosed: boolean;
  /** Called once when something became durable, or the stream was closed or deleted. */
  readonly waiters: Set<() => void> = new Set();

  /** Index in the batch that is open, valid if `batchSerial` is the batch's. */
  batchSerial = 0;
  batchIndex = 0;

  constructor(record: EdgeStreamState, durable: boolean) {
    this.id = record.id;
    this.name = record.name;
    this.contentType = record.contentType;
    this.record = record;
    this.open = !record.closed && !record.deleted;
    this.durableClosed = record.closed && durable;
    this.acceptedOrdinal = record.nextOrdinal;
    this.durableOrdinal = record.nextOrdinal;
    this.durable = durable;
  }

  get segments(): number {
    return this.record.segments;
  }
  /** Of what is durable. */
  get eras(): readonly LocalEra[] {
    return this.record.eras;
  }
  get closed(): boolean {
    return this.record.closed;
  }
  get streamSeq(): string {
    return this.record.streamSeq;
  }
  get createdAtMs(): number {
    return this.record.createdAtMs;
  }
  get mapping(): StreamMapping | undefined {
    return this.record.mapping;
  }

  /** Takes over what the log holds of it. */
  reset(record: EdgeStreamState): void {
    this.record = record;
    this.gone = record.deleted;
    this.open = !record.closed && !record.deleted;
    this.changedInBatch = 0;
    this.nextNumber = 1;
    this.durableNumber = 0;
    this.acceptedOrdinal = record.nextOrdinal;
    this.durableOrdinal = record.nextOrdinal;
    this.durable = true;
    this.durableClosed = record.closed;
  }

  /** Notes that the next `count` events are durable. */
  madeDurable(count: number, incarnation: Id, lane: Lane, streams: number): void {
    const run = { ordinal: this.durableOrdinal, count, incarnation, lane, first: this.durableNumber + 1 };
    if (count > 0) extendEras(this.record.eras, run, streams);
    this.durableOrdinal += count;
    this.durableNumber += count;
  }

  markGone(): void {
    this.gone = true;
    this.open = false;
  }

  wake(): void {
    if (this.waiters.size === 0) return;
    const waiters = [...this.waiters];
    this.waiters.clear();
    for (const waiter of waiters) waiter();
  }
}

/** All streams, and the packet ids of MQTT sessions: the gateway's copy of the fold that the log keeps too. */
export class StreamTable {
  readonly #byName = new Map<string, StreamState>();
  readonly #byId = new Map<Id, StreamState>();
  /** Oldest first. */
  readonly #gone = new Set<Id>();
  readonly #unmapped = new Set<Id>();
  /** Streams by the core's id, for this incarnation. */
  readonly #mappedTo = new Map<Id, Id>();
  readonly #numbered = new Set<string>();
  #state: EdgeState;
  #sorted: StreamState[] | undefined;

  /** Creations that became durable: tells whether there are new streams. */
  created = 0;

  constructor(snapshot: EdgeStateSnapshot) {
    this.#state = restoreEdgeState(snapshot);
    this.#index();
  }

  /** How many streams exist. */
  get size(): number {
    return this.#byName.size;
  }

  /** Streams that exist, in order of scope and name. */
  sorted(): readonly StreamState[] {
    this.#sorted ??= [...this.#byName.values()].sort(
      (a, b) => compareText(a.name.scope, b.name.scope) || compareText(a.name.stream, b.name.stream),
    );
    return this.#sorted;
  }

  /** Streams that exist, are durable, and are not mapped to a stream of the core. */
  unresolved(): StreamState[] {
    const found: StreamState[] = [];
    for (const id of this.#unmapped) {
      const state = this.#byId.get(id);
      if (!state || state.gone || state.mapping) this.#unmapped.delete(id);
      else if (state.durable) found.push(state);
    }
    return found;
  }

  /** The stream that the core knows under this id, perhaps deleted here. */
  byCoreId(coreId: Id): StreamState | undefined {
    return this.#byId.get(this.#mappedTo.get(coreId) ?? "");
  }

  /**
   * True if another stream is or was mapped to it in this incarnation. Two streams on one would number different events alike,
   * also when the first was deleted and everything of it is freed.
   */
  isMappedByAnother(coreId: Id, streamId: Id): boolean {
    const mapped = this.#mappedTo.get(coreId);
    return mapped !== undefined && mapped !== streamId;
  }

  /**
   * True if a stream that had this name may have numbers of this incarnation. At the core the next one would go on under the same name,
   * perhaps in the same stream, where a copy of this log, which knows nothing of the deletion, brings the events of the first: the two
   * must not number alike.
   */
  wasNumbered(name: StreamName): boolean {
    return this.#numbered.has(formatStreamName(name)) || this.#numbered.size >= NUMBERED_MAX;
  }

  /** What is accepted from now on has numbers of a new incarnation. */
  renumber(): void {
    this.#numbered.clear();
    for (const state of this.#byId.values()) state.nextNumber = 1;
  }

  /** What becomes durable from now on has them. */
  renumbered(): void {
    for (const state of this.#byId.values()) state.durableNumber = 0;
  }

  find(name: StreamName): StreamState | undefined {
    return this.#byName.get(formatStreamName(name));
  }

  producers(id: Id): ReadonlyMap<string, ProducerState> | undefined {
    return this.#state.producers.get(id);
  }

  /** Packet ids that are held, with the digests of their publishes. */
  packetIds(clientId: string): ReadonlyMap<number, number> | undefined {
    return this.#state.packetIds.get(clientId);
  }

  /** Takes over what the log holds after a failed commit. Handles of streams that it does not hold are gone. */
  reset(snapshot: EdgeStateSnapshot): void {
    const before = new Map(this.#byId);
    this.#state = restoreEdgeState(snapshot);
    this.#index();
    for (const [id, state] of before) {
      if (!this.#byId.has(id)) state.markGone();
      state.wake();
    }
  }

  /** Applies a change that was accepted into the batch with this serial. */
  accept(change: StateChange, batchSerial: number): void {
    applyChange(this.#state, change);
    if (!("id" in change)) return;
    if (change.type === "create-stream") {
      const record = this.#state.streams.get(change.id);
      if (record) this.#add(new StreamState(record, false));
    }
    // Also of a stream that was deleted while the core was asked: the log has it as mapped there.
    if (change.type === "map-stream") this.#mappedTo.set(change.mapping.id, change.id);
    const state = this.#byId.get(change.id);
    if (!state) return;
    state.changedInBatch = batchSerial;
    if (change.type === "close-stream") state.open = false;
    if (change.type === "delete-stream") {
      state.markGone();
      const key = formatStreamName(state.name);
      if (state.nextNumber > 1) this.#numbered.add(key);
      if (this.#byName.get(key) === state) this.#byName.delete(key);
      this.#sorted = undefined;
    }
  }

  /** Notes that a batch is durable: its events can be read, its changes answered for. */
  durable(streams: readonly StreamState[], counts: readonly number[], changes: readonly StateChange[], incarnation: Id, lane: Lane): void {
    for (let i = 0; i < streams.length; i++) {
      const state = streams[i] as StreamState;
      state.madeDurable(counts[i] as number, incarnation, lane, this.#byId.size);
      state.wake();
    }
    for (const change of changes) {
      if (change.type !== "create-stream" && change.type !== "close-stream" && change.type !== "delete-stream") continue;
      const state = this.#byId.get(change.id);
      if (!state) continue;
      if (change.type === "delete-stream") this.#noteGone(state);
      else {
        if (change.type === "create-stream") this.created++;
        state.durable = true;
        state.durableClosed ||= change.type === "close-stream" || change.closed;
      }
      state.wake();
    }
  }

  /** Wakes everyone who waits for data: the gateway stops. */
  wakeAll(): void {
    for (const state of this.#byId.values()) state.wake();
  }

  #index(): void {
    const before = new Map(this.#byId);
    this.#byName.clear();
    this.#byId.clear();
    this.#gone.clear();
    this.#unmapped.clear();
    this.#mappedTo.clear();
    // The log was opened again, under an incarnation of its own.
    this.#numbered.clear();
    for (const record of this.#state.streams.values()) {
      const known = before.get(record.id);
      known?.reset(record);
      this.#add(known ?? new StreamState(record, true));
    }
  }

  #add(state: StreamState): void {
    this.#byId.set(state.id, state);
    if (state.mapping) this.#mappedTo.set(state.mapping.id, state.id);
    else this.#unmapped.add(state.id);
    if (state.record.deleted) {
      state.markGone();
      this.#noteGone(state);
    } else this.#byName.set(formatStreamName(state.name), state);
    this.#sorted = undefined;
  }

  #noteGone(state: StreamState): void {
    if (state.durableOrdinal === 0) {
      this.#forget(state.id);
      return;
    }
    this.#gone.add(state.id);
    if (this.#gone.size <= GONE_MAX) return;
    const oldest = this.#gone.values().next();
    if (oldest.done) return;
    this.#gone.delete(oldest.value);
    this.#forget(oldest.value);
  }

  #forget(id: Id): void {
    this.#byId.delete(id);
    forgetStream(this.#state, id);
  }
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
