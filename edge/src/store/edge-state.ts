import { LIMITS } from "@tributary/common/limits";
import { formatStreamName, type Id, type StreamName } from "@tributary/common/names";
import type { EdgeProducer, EdgeStateSnapshot, EdgeStream, StateChange } from "./edge-store.ts";
import type { LocalEra } from "./local-eras.ts";

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
export type EdgeStreamState = Omit<Mutable<EdgeStream>, "eras"> & { readonly eras: LocalEra[] };
export interface ProducerState {
  readonly epoch: number;
  readonly seq: number;
}

/** Stands for the digest of a publish that an earlier version took. */
export const DIGEST_UNKNOWN = -1;

/**
 * What a gateway remembers beside its events. The store folds it over the log, the gateway keeps a copy by folding the same
 * changes in the same order: both must come to the same state, forgotten producers included, so nothing here may depend on
 * anything but the changes.
 */
export interface EdgeState {
  readonly streams: Map<Id, EdgeStreamState>;
  /** By stream, then by producer id, least recently used first. */
  readonly producers: Map<Id, Map<string, ProducerState>>;
  /** By client, least recently used first; ids in the order in which they were taken, each with the digest of its publish. */
  readonly packetIds: Map<string, Map<number, number>>;
  /** Packet ids of all clients together. */
  packetIdCount: number;
}

export function emptyEdgeState(): EdgeState {
  return { streams: new Map(), producers: new Map(), packetIds: new Map(), packetIdCount: 0 };
}

/** Folds one change. Total: a change for a stream that is unknown (its creation was lost to damage) is left out. */
export function applyChange(state: EdgeState, change: StateChange): void {
  switch (change.type) {
    case "create-stream":
      if (!state.streams.has(change.id)) state.streams.set(change.id, newStream(change));
      break;
    case "map-stream":
      update(state, change.id, { mapping: change.mapping });
      break;
    case "close-stream":
      update(state, change.id, { closed: true });
      break;
    case "delete-stream":
      state.producers.delete(change.id);
      update(state, change.id, { deleted: true });
      break;
    case "stream-seq":
      update(state, change.id, { streamSeq: change.streamSeq });
      break;
    case "producer":
      setProducer(state, change);
      break;
    case "packet-id":
      addPacketId(state, change.clientId, change.packetId, change.digest ?? DIGEST_UNKNOWN);
      break;
    case "release-packet-id":
      releasePacketId(state, change.clientId, change.packetId);
      break;
    case "clear-packet-ids":
      forgetClient(state, change.clientId);
      break;
  }
}

function newStream(change: Extract<StateChange, { type: "create-stream" }>): EdgeStreamState {
  const { id, name, contentType, segments, createdAtMs, closed } = change;
  return {
    id,
    name,
    contentType,
    segments,
    createdAtMs,
    closed,
    deleted: false,
    nextOrdinal: 0,
    firstOrdinal: 0,
    eras: [],
    streamSeq: "",
    mapping: undefined,
  };
}

function update(state: EdgeState, id: Id, change: Partial<Omit<EdgeStream, "eras">>): void {
  const stream = state.streams.get(id);
  if (stream) Object.assign(stream, change);
}

function setProducer(state: EdgeState, { id, producerId, epoch, seq }: Extract<StateChange, { type: "producer" }>): void {
  const stream = state.streams.get(id);
  if (!stream || stream.deleted) return;
  let producers = state.producers.get(id);
  if (!producers) {
    producers = new Map();
    state.producers.set(id, producers);
  }
  // A Map lists its keys in the order of insertion: taking a producer out and in again makes it the most recent one.
  producers.delete(producerId);
  producers.set(producerId, { epoch, seq });
  if (producers.size > LIMITS.producersPerStreamMax) forgetFirst(producers);
}

function addPacketId(state: EdgeState, clientId: string, packetId: number, digest: number): void {
  const ids = state.packetIds.get(clientId) ?? new Map<number, number>();
  state.packetIds.delete(clientId);
  state.packetIds.set(clientId, ids);
  if (!ids.has(packetId)) state.packetIdCount++;
  ids.set(packetId, digest);
  // A client of this very change is the most recent one, so it is forgotten last; the ids of one client are bounded by their 16 bits.
  while (state.packetIdCount > LIMITS.packetIdsMax && state.packetIds.size > 1) {
    forgetClient(state, state.packetIds.keys().next().value as string);
  }
}

function releasePacketId(state: EdgeState, clientId: string, packetId: number): void {
  const ids = state.packetIds.get(clientId);
  if (!ids?.delete(packetId)) return;
  state.packetIdCount--;
  if (ids.size === 0) state.packetIds.delete(clientId);
}

function forgetClient(state: EdgeState, clientId: string): void {
  state.packetIdCount -= state.packetIds.get(clientId)?.size ?? 0;
  state.packetIds.delete(clientId);
}

function forgetFirst(map: Map<string, unknown>): void {
  map.delete(map.keys().next().value as string);
}

/** Deleted streams that are remembered for their mapping while an incarnation goes on. */
const DELETED_KEPT_MAX = 10_000;

/**
 * Deleted streams of which nothing is held any more and whose mapping matters no more. A stream that gets the name after it must not be
 * mapped to the same one of the core, where events of the two would have the same numbers; that is so as long as the newer one may
 * hold events of an incarnation in which the older one had numbers. `over`: the present incarnation ends here.
 */
export function forgettableStreams(state: EdgeState, over: boolean): Id[] {
  const streams = Array.from(state.streams.values());
  const gone = streams.filter((stream) => stream.deleted && stream.firstOrdinal >= stream.nextOrdinal);
  const mapped = gone.filter((stream) => stream.mapping !== undefined);
  const held = new Set(streams.filter((stream) => stream.firstOrdinal < stream.nextOrdinal).map(({ name }) => formatStreamName(name)));
  const kept = new Set(over ? mapped.filter(({ name }) => held.has(formatStreamName(name))) : mapped.slice(-DELETED_KEPT_MAX));
  return gone.filter((stream) => !kept.has(stream)).map(({ id }) => id);
}

/** Takes a stream out altogether. */
export function forgetStream(state: EdgeState, id: Id): void {
  state.streams.delete(id);
  state.producers.delete(id);
}

/** Where events go whose stream's creation was lost to damage: they must neither vanish nor stop the rest. */
export function recoveredStreamName(id: Id): StreamName {
  return { scope: "recovered", stream: id };
}

export function snapshotEdgeState(state: EdgeState): EdgeStateSnapshot {
  const producers: EdgeProducer[] = [];
  for (const [streamId, byId] of state.producers) {
    for (const [producerId, { epoch, seq }] of byId) producers.push({ streamId, producerId, epoch, seq });
  }
  return {
    streams: Array.from(state.streams.values(), (stream) => ({ ...stream, eras: copyEras(stream.eras) })),
    producers,
    packetIds: Array.from(state.packetIds, ([clientId, ids]) => ({ clientId, packetIds: [...ids.keys()], digests: [...ids.values()] })),
  };
}

function copyEras(eras: readonly LocalEra[]): LocalEra[] {
  return eras.map((era) => ({ ...era }));
}

/** The inverse of snapshotEdgeState, order of use included. */
export function restoreEdgeState(snapshot: EdgeStateSnapshot): EdgeState {
  const state = emptyEdgeState();
  for (const stream of snapshot.streams) state.streams.set(stream.id, { ...stream, eras: copyEras(stream.eras) });
  for (const { streamId, producerId, epoch, seq } of snapshot.producers) {
    const producers = state.producers.get(streamId) ?? new Map<string, ProducerState>();
    producers.set(producerId, { epoch, seq });
    state.producers.set(streamId, producers);
  }
  for (const { clientId, packetIds, digests } of snapshot.packetIds) {
    state.packetIds.set(clientId, new Map(packetIds.map((id, i) => [id, digests[i] ?? DIGEST_UNKNOWN])));
    state.packetIdCount += packetIds.length;
  }
  return state;
}
