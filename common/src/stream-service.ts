import type { GapReason } from "./format/block.ts";
import type { KeyRange } from "./key-hash.ts";
import type { Id, Lane, StreamName } from "./names.ts";

/** What the HTTP faces of gateway and core offer, whichever side carries it out. */
export interface StreamService {
  /** Idempotent for the same options. @throws STREAM_EXISTS, INVALID_REQUEST, TOO_MANY_STREAMS */
  create(name: StreamName, options: CreateOptions): Promise<{ created: boolean; info: StreamInfo }>;
  /** @throws STREAM_UNKNOWN */
  describe(name: StreamName): Promise<StreamInfo>;
  /** Streams in order of name; those after `after`, at most `limit`. One that nobody serves for a while is not missing. */
  list(options: { scope?: string; after?: StreamName; limit: number }): Promise<ListedStream[]>;
  listScopes(): Promise<string[]>;
  /** @throws STREAM_UNKNOWN */
  delete(name: StreamName): Promise<void>;
  /**
   * Appends all events or none; resolves once they are durable. Content types are compared with `sameContentType`. A stream that is
   * closed is reported before a wrong content type, that before a wrong sequence. To close a closed stream without events succeeds.
   * Facts that the protocol returns as headers travel in the details of the error: STREAM_CLOSED and OFFSET_UNKNOWN `nextOffset`,
   * PRODUCER_EPOCH_STALE `producerEpoch` (the current one), PRODUCER_SEQUENCE_GAP `expectedSeq` and `receivedSeq`.
   * @throws STREAM_UNKNOWN, STREAM_CLOSED, CONTENT_TYPE_MISMATCH, PRODUCER_*, SEQUENCE_CONFLICT, QUOTA_EXCEEDED, STORAGE_FULL, OVERLOADED
   */
  append(name: StreamName, request: AppendRequest): Promise<AppendResult>;
  /**
   * One page from an offset on, in the stream's one order. Empty with `upToDate` at the end.
   * @throws STREAM_UNKNOWN, OFFSET_INVALID, OFFSET_FOREIGN, OFFSET_GONE, OFFSET_UNKNOWN; INVALID_REQUEST for a level that is not known here
   */
  read(name: StreamName, request: ReadRequest): Promise<ReadPage>;
  /** Resolves when something lies behind the offset, the stream is closed or deleted, the time is over or the signal aborts. Never polls. */
  waitForData(name: StreamName, offset: string, options: WaitOptions): Promise<void>;
}

/**
 * How far a read of the core sees a stream. `committed`: all that is durable in the write-ahead log. `tiered`: what is verified in the
 * lake and covered by a checkpoint in the log; whatever lies behind it, the stream's close included, does not exist for such a reader,
 * and what it has read outlives the loss of the whole store of the logs (rules L3, L6).
 */
export const READ_LEVELS = ["committed", "tiered"] as const;
export type ReadLevel = (typeof READ_LEVELS)[number];

export interface WaitOptions {
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** As of ReadRequest. */
  readonly level?: ReadLevel | undefined;
}

export interface CreateOptions {
  /** Default application/octet-stream. Part of the configuration. */
  readonly contentType?: string;
  /** undefined: 1 for a new stream, whatever it has for one that exists. */
  readonly segments?: number;
  /** Create it closed. */
  readonly closed?: boolean;
}

export interface StreamInfo {
  readonly name: StreamName;
  readonly id: Id;
  readonly contentType: string;
  readonly segments: readonly { readonly id: string; readonly range: KeyRange; readonly length: number }[];
  readonly createdAtMs: number;
  readonly closed: boolean;
  /** Offset of the first event kept, and the one behind the last durable event. */
  readonly firstOffset: string;
  readonly nextOffset: string;
  /** Events behind `firstOffset`. */
  readonly events: number;
}

/** `unserved`: nobody serves the stream now, so what is in it is not known: lengths, offsets, events and `closed` are as of a new one. */
export interface ListedStream extends StreamInfo {
  readonly unserved?: true;
}

/** Events of one request: payload `i` is `payload[ends[i-1] … ends[i])`, the first from 0. One key or time stands for all. */
export interface EventPack {
  readonly count: number;
  readonly payload: Uint8Array;
  readonly ends: ArrayLike<number>;
  /** undefined: the empty key. */
  readonly keys: string | readonly string[] | undefined;
  /** ms since 1970; undefined: the time of arrival. */
  readonly timesMs: number | readonly number[] | undefined;
}

export interface ProducerToken {
  readonly id: string;
  readonly epoch: number;
  readonly seq: number;
}

export interface AppendRequest {
  /** undefined only together with `close`. */
  readonly events: EventPack | undefined;
  /** undefined: not checked against the stream's. */
  readonly contentType: string | undefined;
  readonly producer?: ProducerToken;
  /** Durable Streams' Stream-Seq. */
  readonly streamSeq?: string;
  readonly close?: boolean;
}

export interface AppendResult {
  /** True when the producer's sequence was known already: nothing was appended again. */
  readonly duplicate: boolean;
  /** The offset behind the last event appended. */
  readonly nextOffset: string;
  readonly closed: boolean;
  /** The producer's highest sequence now. */
  readonly producerSeq?: number;
}

/** "-1" the beginning, "now" the end, or an offset that this server gave. */
export interface ReadRequest {
  readonly offset: string;
  readonly eventsMax: number;
  readonly bytesMax: number;
  /** undefined: all that the server gives, at the core what is committed. A gateway knows no levels. */
  readonly level?: ReadLevel | undefined;
}

export interface ReadPage {
  readonly events: readonly ReadEvent[];
  readonly nextOffset: string;
  /** True when nothing of the level asked for lay behind `nextOffset` as the page was made. */
  readonly upToDate: boolean;
  /** True when the stream is closed and nothing lies behind `nextOffset`. */
  readonly closed: boolean;
  readonly contentType: string;
}

export interface ReadEvent {
  readonly key: string;
  readonly timeMs: number;
  /** "generation.epoch.number". */
  readonly segment: string;
  readonly ordinal: number;
  /** Of the take-over under which the core appended it: (segment, nonce, ordinal) names an event for good. A gateway has none. */
  readonly nonce?: Id;
  readonly writer: Id;
  readonly incarnation: Id;
  readonly lane: Lane;
  readonly number: number;
  readonly data: Uint8Array;
  /** A gap record: events `first`…`number` of this writer in this segment are lost. `data` is empty. */
  readonly gap?: { readonly first: number; readonly count: number; readonly reason: GapReason };
}
