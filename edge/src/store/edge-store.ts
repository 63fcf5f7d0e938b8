import type { GapReason } from "@tributary/common/format/block";
import type { EventColumns } from "@tributary/common/format/event-columns";
import type { Id, Lane, SegmentId, StreamName } from "@tributary/common/names";
import type { LocalEra } from "./local-eras.ts";

/**
 * The durable heart of a gateway: one `Log` of commits, and the state that is a fold over them. In production it lives in one
 * worker thread (zstd and SQLite there, sockets and NATS on the main loop); the simulation calls the same class directly.
 * Every value here survives structured clone.
 */
export interface EdgeStore {
  /**
   * Recovers the log (torn or damaged parts are truncated or quarantined, counted and reported; it never refuses for damage),
   * draws a new incarnation and makes it durable with its parent before it resolves (rule W1).
   * @throws DATA_DIR_LOCKED, STORAGE_FULL, FORMAT_UNSUPPORTED
   */
  open(): Promise<OpenedEdge>;
  /**
   * Makes one batch durable: one log record, one fsync. Calls may overlap (LIMITS.commitsInFlightMax); commits land in the order
   * of the calls. A commit that fails leaves nothing behind, and those called after it fail too with LOG_CLOSED until `reopen`.
   * @throws STORAGE_FULL
   */
  commit(batch: CommitBatch): Promise<CommitResult>;
  /** After a failed commit: recovers what is durable under a new incarnation, like `open`. */
  reopen(): Promise<OpenedEdge>;

  /**
   * The next units to send, in order, from the send position on; empty when it has caught up with the commits. Small commits are
   * merged and regrouped by container. Unresolved streams hold the position: it never moves past an event that it cannot send.
   * A stream is resolved by a committed `map-stream`; no two streams may be mapped to one id. Events of a deleted stream are not
   * sent: if it is mapped, gap records of reason "quarantined" stand for them, else they are freed and counted.
   * Returns at least one unit if there is any, however large.
   */
  uplinkNext(bytesMax: number): Promise<UplinkUnit[]>;
  /**
   * Moves the send position back to the first unit that was not freed (after a refusal, a timeout, a reconnect). `reached`: what the
   * core said that it has, where it refused what comes next. If that is less than was freed, the core has lost something: what the
   * log still holds is handed out once more, and a gap record stands for the rest (rule W6).
   */
  uplinkRewind(reached?: readonly ReachedNumber[]): Promise<void>;
  /**
   * The core confirmed the level asked for, for exactly the events of all units through this one (rule W5). Frees their space.
   * Naming a unit from before the last rewind, drop or reopen frees nothing.
   */
  uplinkFree(throughUnit: number): Promise<FreeReport>;

  /**
   * Own events of a stream in its local order, from a local ordinal on; empty if nothing durable lies there. What was dropped or
   * lost to damage shows as gaps. What was freed may still be there; where it is not, the page begins with the first event that is.
   */
  readLocal(streamId: Id, fromOrdinal: number, bounds: { eventsMax: number; bytesMax: number }): Promise<LocalPage>;
  /**
   * Drops the oldest commits until the log takes at most `bytesTarget` bytes (policy drop-oldest): gap records for what was not
   * freed become durable first, and are sent before later numbers (rule W6). Implies a rewind: units that are out are void.
   * @throws STORAGE_FULL nothing was dropped, and the store needs a `reopen`
   */
  dropOldest(bytesTarget: number): Promise<DropReport>;
  /**
   * Takes back what was freed and is only kept so that one damaged checkpoint does not cost the state, if the log takes more than
   * `bytesTarget` bytes. Never drops an event; units that are out stay valid.
   */
  reclaim(bytesTarget: number): Promise<DropReport>;
  usage(): Promise<EdgeUsage>;
  close(): Promise<void>;
}

export interface OpenedEdge {
  readonly writer: Id;
  readonly incarnation: Id;
  readonly parent: Id | undefined;
  readonly state: EdgeStateSnapshot;
  readonly report: RecoveryReport;
}

export interface RecoveryReport {
  readonly recordsRead: number;
  readonly recordsQuarantined: number;
  /** Where damaged files or records were put; empty if none. */
  readonly quarantinePath: string;
  readonly tookMs: number;
}

/** Everything that the gateway remembers beside its events; the fold of all StateChanges. */
export interface EdgeStateSnapshot {
  readonly streams: readonly EdgeStream[];
  readonly producers: readonly EdgeProducer[];
  /** Packet ids of QoS 2 publishes that were taken and not yet released; the digest of each, −1 where it is not known. */
  readonly packetIds: readonly { readonly clientId: string; readonly packetIds: readonly number[]; readonly digests: readonly number[] }[];
}

export interface EdgeStream {
  /** The id drawn here (rule W8). It stays the key of everything local. */
  readonly id: Id;
  readonly name: StreamName;
  readonly contentType: string;
  /** Segments asked for here; `mapping` says what the core has. */
  readonly segments: number;
  readonly createdAtMs: number;
  readonly closed: boolean;
  readonly deleted: boolean;
  /**
   * Ordinal of the next event in the local order, over all incarnations. Local ordinals are this gateway's alone: where damage took
   * the last records of the log, those of their events are given out again. Numbers are not, for every start has its own.
   */
  readonly nextOrdinal: number;
  /** Ordinal of the oldest event still held. */
  readonly firstOrdinal: number;
  /** Which incarnation wrote what, ascending by ordinal; reaches further back than what is held. */
  readonly eras: readonly LocalEra[];
  /** Durable Streams' last Stream-Seq; "" if none. */
  readonly streamSeq: string;
  readonly mapping: StreamMapping | undefined;
}

/** What the core said about a stream at registration. */
export interface StreamMapping {
  readonly id: Id;
  readonly segments: number;
  /** Container of each segment. */
  readonly containers: readonly number[];
}

export interface EdgeProducer {
  readonly streamId: Id;
  readonly producerId: string;
  readonly epoch: number;
  readonly seq: number;
}

/** Changes of state are durable together with the batch that carries them, and folded in order. Persisted: append only. */
export type StateChange =
  | {
      readonly type: "create-stream";
      readonly id: Id;
      readonly name: StreamName;
      readonly contentType: string;
      readonly segments: number;
      readonly createdAtMs: number;
      readonly closed: boolean;
    }
  | { readonly type: "map-stream"; readonly id: Id; readonly mapping: StreamMapping }
  | { readonly type: "close-stream"; readonly id: Id }
  | { readonly type: "delete-stream"; readonly id: Id }
  | { readonly type: "stream-seq"; readonly id: Id; readonly streamSeq: string }
  | { readonly type: "producer"; readonly id: Id; readonly producerId: string; readonly epoch: number; readonly seq: number }
  /** `digest` tells a repetition of the publish from another one under the same id; missing in old records. */
  | { readonly type: "packet-id"; readonly clientId: string; readonly packetId: number; readonly digest?: number }
  | { readonly type: "release-packet-id"; readonly clientId: string; readonly packetId: number }
  /** A clean session: forgets all packet ids of the client. */
  | { readonly type: "clear-packet-ids"; readonly clientId: string };

/**
 * One group commit. `columns.number` holds the event numbers, contiguous for each stream within the incarnation. Its buffers
 * are transferred: the caller must not touch them afterwards.
 */
export interface CommitBatch {
  readonly lane: Lane;
  readonly columns: EventColumns;
  /** Index into `streamIds` of each event. */
  readonly streamIndex: Uint32Array;
  readonly streamIds: readonly Id[];
  readonly changes: readonly StateChange[];
  /** A new incarnation begins with this batch: the numbers of all streams begin at 1 again. */
  readonly renews?: boolean;
}

export interface CommitResult {
  /** Sequence of the record in the log. */
  readonly seq: number;
  /** The incarnation that wrote it. */
  readonly incarnation: Id;
  readonly storedBytes: number;
  readonly usage: EdgeUsage;
}

export interface FreeReport {
  /** Events of the units that were freed by this call; gaps count nothing. */
  readonly events: number;
  /** Streams whose oldest event held is another now. */
  readonly firstOrdinals: readonly { readonly streamId: Id; readonly firstOrdinal: number }[];
}

export interface UplinkUnit {
  /** Ascends by one; names the unit to `uplinkFree` until the next rewind. */
  readonly unit: number;
  /**
   * Each for one container; blocks for one container must arrive in order. All of them must be confirmed before the unit is freed.
   * Empty where nothing of the unit has to be sent: free it in its turn.
   */
  readonly blocks: readonly {
    readonly container: number;
    readonly bytes: Uint8Array;
    /** What to ask the levels of, and the number that must be reached. */
    readonly needs: readonly {
      readonly streamId: Id;
      readonly segment: SegmentId;
      readonly incarnation: Id;
      readonly lane: Lane;
      readonly last: number;
    }[];
  }[];
  readonly events: number;
  readonly payloadBytes: number;
}

/** The last number that the core has of an incarnation in a segment; 0 if none. */
export interface ReachedNumber {
  /** The core's id. */
  readonly streamId: Id;
  readonly segment: SegmentId;
  readonly incarnation: Id;
  readonly lane: Lane;
  readonly last: number;
}

export interface LocalPage {
  readonly events: readonly LocalEvent[];
  /** Ordinal behind the last event of the page. */
  readonly nextOrdinal: number;
}

export interface LocalEvent {
  readonly ordinal: number;
  readonly key: string;
  readonly timeMs: number;
  readonly incarnation: Id;
  readonly lane: Lane;
  readonly number: number;
  readonly data: Uint8Array;
  /**
   * Set for a gap record: `count` events from this ordinal on were dropped or lost. The event's `number` is then the last one. Where
   * damage left nothing that tells, `incarnation` is empty.
   */
  readonly gap?: { readonly first: number; readonly count: number; readonly reason: GapReason };
}

export interface DropReport {
  readonly eventsDropped: number;
  readonly bytesFreed: number;
}

export interface EdgeUsage {
  /** Bytes of all files of the log on its disk, without what lies free inside them and is filled first. */
  readonly diskBytes: number;
  /** Events durable here and not yet freed. */
  readonly eventsHeld: number;
  /** Events durable here and not yet handed out by uplinkNext. */
  readonly eventsUnsent: number;
  /** Since it was opened: events of deleted streams that were freed without being sent. */
  readonly eventsSkipped: number;
  /** Since it was opened, recovery included: records that were unreadable or not there. */
  readonly recordsQuarantined: number;
}
