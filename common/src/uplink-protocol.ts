import type { GapReason } from "./format/block.ts";
import type { Id, Lane, SegmentId, StreamName } from "./names.ts";

/** A container of a subject, or all of them where one subscribes. */
type Which = number | "*";

/**
 * What gateways and core say to each other over the Bus. `append` carries a block as it is; every other payload and every
 * answer is CBOR of the types below. Ids are hex.
 */
export const UPLINK_SUBJECTS = {
  /**
   * A block for one container; answered once its events are durable in the container's WAL. Any core node takes it and hands it on to
   * the owner. Blocks sent one behind the other may reach different nodes: whoever wants their order waits for each answer.
   */
  append: (cluster: string, container: Which): string => `tributary.${cluster}.append.${container}`,
  levels: (cluster: string, container: Which): string => `tributary.${cluster}.levels.${container}`,
  /** The same, served by the container's owner of this epoch alone: in order, and out of the reach of an owner of another epoch. */
  direct: (cluster: string, container: number, epoch: number, operation: "append" | "levels" | "*"): string =>
    `tributary.${cluster}.at.${container}.${epoch}.${operation}`,
  control: (cluster: string): string => `tributary.${cluster}.control`,
  /** Published by a container after each flush: gateways ask for levels then. */
  tiered: (cluster: string, container: Which): string => `tributary.${cluster}.tiered.${container}`,
  /** Published by an owner as it begins to serve a container. */
  moved: (cluster: string, container: Which): string => `tributary.${cluster}.moved.${container}`,
} as const;

/** The container that a subject ends with; undefined if it ends otherwise. */
export function containerOfSubject(subject: string): number | undefined {
  const token = subject.slice(subject.lastIndexOf(".") + 1);
  return /^(0|[1-9]\d{0,8})$/.test(token) ? Number(token) : undefined;
}

/** Payload of `moved`. */
export interface MovedMessage {
  readonly epoch: number;
}

/** Persisted nowhere, but spoken between versions: append only. */
export const SLICE_STATUS = {
  /** All its numbers are durable in the WAL, now or from before. */
  accepted: 0,
  /** `number` is what the core has of this incarnation: resume behind it. */
  previousNotReached: 1,
  /** `number` is what the core has of the parent incarnation. */
  parentNotReached: 2,
  /** `number` is the writer's number in the durable seal. */
  sealed: 3,
  /** The stream was deleted or is unknown to the core. */
  streamGone: 4,
  /** Another event stands under a known number (rule W2). Nothing may be freed. */
  forked: 5,
  /** This container does not own the segment. */
  wrongContainer: 6,
} as const;
export type SliceStatus = (typeof SLICE_STATUS)[keyof typeof SLICE_STATUS];

/** Under which epoch the owner answered: its direct subject takes the next request without a detour. */
interface RouteHint {
  readonly epoch?: number;
}

/** Answer to an append: one row a slice of the block, in its order. */
export interface AppendAnswer extends RouteHint {
  readonly slices: readonly (readonly [status: SliceStatus, number: number])[];
}

/** Names what a level is asked of: (stream, segment, incarnation, lane) of the asking writer. */
export interface LevelsRequest {
  readonly writer: Id;
  readonly entries: readonly { readonly streamId: Id; readonly segment: SegmentId; readonly incarnation: Id; readonly lane: Lane }[];
}

/** One row an entry: highest number durable in the WAL, highest number durable and verified in the tier (0: none). */
export interface LevelsAnswer extends RouteHint {
  readonly entries: readonly (readonly [committed: number, tiered: number])[];
}

export type ControlRequest = HelloRequest | ResolveRequest | FetchRequest;

/** Said at each start and reconnect of a gateway (rule W1). */
export interface HelloRequest {
  readonly type: "hello";
  readonly writer: Id;
  readonly incarnation: Id;
  /** undefined on the first start of a log. */
  readonly parent: Id | undefined;
  /** What its operator calls the gateway. */
  readonly name: string;
  readonly version: string;
}

export interface HelloAnswer {
  readonly cluster: Id;
  readonly containers: number;
  /** Of each container the epoch of its owner as far as the answering node knows; 0: unknown. */
  readonly epochs?: readonly number[];
  /** Other incarnations with the same parent: a clone or a restored backup is or was alive. */
  readonly siblings: readonly Id[];
}

/** Maps streams to their ids, creating those that do not exist (rule W8). */
export interface ResolveRequest {
  readonly type: "resolve";
  readonly streams: readonly {
    readonly name: StreamName;
    /** The id under which the gateway numbers its events; the core takes it over if it creates the stream. */
    readonly provisionalId: Id;
    readonly contentType: string;
    readonly segments: number;
    readonly createdAtMs: number;
    /** False: only look it up. */
    readonly create: boolean;
  }[];
}

export interface ResolveAnswer {
  /** One row a stream, in order. `undefined` id: it does not exist, or cannot be mapped: see `problem`. */
  readonly streams: readonly {
    readonly id: Id | undefined;
    readonly contentType: string;
    readonly segments: number;
    /** The container of each segment, by segment number. */
    readonly containers: readonly number[];
    readonly problem: "" | "unknown" | "conflict" | "deleted";
  }[];
}

/** Reads back events of the asking writer that it has freed. Answered with a page of them in the order of the core. */
export interface FetchRequest {
  readonly type: "fetch";
  readonly name: StreamName;
  readonly writer: Id;
  /** Core offset to go on from; "-1" at first. */
  readonly offset: string;
  readonly bytesMax: number;
}

export interface FetchAnswer {
  /** The stream that has the name now. */
  readonly streamId: Id;
  readonly events: readonly {
    readonly key: string;
    readonly timeMs: number;
    readonly incarnation: Id;
    readonly lane: Lane;
    readonly number: number;
    readonly data: Uint8Array;
  }[];
  /** The writer's gap records in that page: `count` numbers of one segment, from `first` to `last`. */
  readonly gaps: readonly {
    readonly incarnation: Id;
    readonly lane: Lane;
    readonly first: number;
    readonly last: number;
    readonly count: number;
    readonly reason: GapReason;
  }[];
  readonly nextOffset: string;
  readonly upToDate: boolean;
}
