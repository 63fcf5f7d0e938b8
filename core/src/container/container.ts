import type { TributaryError } from "@tributary/common/errors";
import type { Block } from "@tributary/common/format/block";
import type { Id, SegmentId } from "@tributary/common/names";
import type { AppendRequest, ReadEvent, ReadLevel } from "@tributary/common/stream-service";
import type { AppendAnswer, LevelsAnswer, LevelsRequest } from "@tributary/common/uplink-protocol";
import type { FlushProblem } from "../tier/flusher.ts";
import type { GoneBackReason, KnownLoss } from "../tier/root-object.ts";
import type { StreamEnd } from "./durable.ts";
import type { PageBounds } from "./event-reader.ts";
import type { NonceRange } from "./nonces.ts";
import type { StreamOrigin } from "./stream-origin.ts";

/**
 * A container owns many segments and one write-ahead log. Everything it answers is durable (rule W3); everything it knows is a
 * fold over its frames since the last checkpoint in the tier (rule C5).
 */
export interface Container {
  readonly id: number;
  /**
   * Takes ownership: fences the log with a new attempt, replays, serves (rules C2, C3). `epoch` was won by compare-and-set.
   * @throws CONTAINER_NOT_OWNED when a later epoch was here, FRAME_CORRUPT, STORE_CORRUPT, FORMAT_UNSUPPORTED, LOG_RESULT_UNKNOWN,
   *   and what log and object store throw when they cannot be reached
   */
  open(): Promise<void>;
  /** Registers the stream's segments in the WAL unless it knows them. @throws STREAM_GONE if a stream of this id was deleted here */
  ensureStream(stream: ContainerStream): Promise<void>;
  knowsStream(streamId: Id): boolean;
  /** A gateway's block. Resolves once everything that it answers is durable (rules W1 to W6). @throws OVERLOADED, LOG_RESULT_UNKNOWN, STORAGE_FULL, BATCH_TOO_LARGE, BLOCK_CORRUPT, CONTAINER_NOT_OWNED */
  appendBlock(block: Block): Promise<AppendAnswer>;
  /**
   * An append through the core's own HTTP face: the container is the writer. Appends of one moment share blocks and frames.
   * @throws as StreamService.append; STREAM_CLOSED with details nextChain; LOG_RESULT_UNKNOWN when it may have been appended
   */
  append(streamId: Id, request: AppendRequest): Promise<ContainerAppendResult>;
  levels(request: LevelsRequest): LevelsAnswer;
  /**
   * Events of a stream in its chain: the one order in which this container appended them, from a chain ordinal on. One event for
   * each ordinal, gap records included. Empty where the level ends, and behind that.
   * @throws OFFSET_UNKNOWN with details nextChain, STREAM_UNKNOWN, STORE_CORRUPT with details object
   */
  read(streamId: Id, fromChain: number, bounds: PageBounds, level?: ReadLevel): Promise<ContainerPage>;
  /** Resolves when something of the level lies behind `chain`, the stream is closed there or deleted, or the signal aborts. */
  waitForData(streamId: Id, chain: number, signal: AbortSignal, level?: ReadLevel): Promise<void>;
  /**
   * How far readers at a level see the stream. The tiered end may lie before that of an owner before: one that took over while a
   * checkpoint was recorded flushes again what that covered. undefined as of `describe`.
   */
  endOf(streamId: Id, level: ReadLevel): StreamEnd | undefined;
  /** undefined if the stream is unknown here or deleted. Durable facts only. */
  describe(streamId: Id): ContainerStreamState | undefined;
  /** All streams registered here, and ids of those that were deleted, oldest first, as far as they are remembered. */
  registrations(): { readonly streams: readonly ContainerStream[]; readonly deleted: readonly Id[] };
  /** Nothing of it can be read any more, and its id is not registered again, known or not. What its events take in the tier is reclaimed by compaction and retention, not here. */
  deleteStream(streamId: Id): Promise<void>;
  status(): ContainerStatus;
  /** Called with the container's id after each flush whose checkpoint is in the WAL. */
  onTiered(listener: (container: number) => void): () => void;
  /**
   * Called once if the container stops by itself: another owner fenced its log, or it met a failure that it cannot mend.
   * From then on its operations throw CONTAINER_NOT_OWNED; whoever hosts it opens another instance with a new epoch.
   */
  onFailed(listener: (error: TributaryError) => void): () => void;
  /**
   * Answers what waits and flushes what is in memory, for at most `withinMs` (closeTimeoutMs unless given), then stops. With 0 it
   * stops at once: what waits gets an error.
   */
  close(options?: { readonly withinMs: number }): Promise<void>;
}

export type { StreamEnd } from "./durable.ts";
export type { PageBounds } from "./event-reader.ts";
export type { StreamOrigin } from "./stream-origin.ts";

export interface ContainerStream {
  readonly id: Id;
  /** Segments of the stream that live in this container, in order. */
  readonly segments: readonly SegmentId[];
  readonly contentType: string;
  readonly closed: boolean;
  readonly origin?: StreamOrigin;
}

export interface ContainerAppendResult {
  readonly duplicate: boolean;
  /** Chain ordinal behind the last event. */
  readonly nextChain: number;
  /** Take-overs that lead to `nextChain`, newest first: see positionAt. */
  readonly ancestry: readonly NonceRange[];
  readonly closed: boolean;
  readonly producerSeq?: number;
}

export interface ContainerPage {
  readonly events: readonly ReadEvent[];
  readonly nextChain: number;
}

export interface ContainerStreamState {
  /** Chain ordinal of the first event kept, and of the next one to come. */
  readonly firstChain: number;
  readonly nextChain: number;
  readonly closed: boolean;
  /** Segments that take events. */
  readonly segmentLengths: readonly { readonly segment: SegmentId; readonly length: number }[];
  /** Under which take-over each event was appended, from the beginning of the chain on. */
  readonly nonces: readonly NonceRange[];
}

export interface ContainerStatus {
  readonly container: number;
  readonly epoch: number;
  readonly attempt: number;
  readonly walFirst: number;
  readonly walLast: number;
  readonly eventsDurable: number;
  readonly eventsTiered: number;
  readonly bytesInMemory: number;
  readonly bytesTiered: number;
  readonly lastReplayMs: number;
  /** The code with which the write-ahead log refused or failed last; empty while appends become durable. */
  readonly logProblem: string;
  /** Where flushing is held up, and how that failed last; undefined while events reach the tier. */
  readonly tierProblem: FlushProblem | undefined;
  readonly generation: number;
  /** How its generation came to be; undefined for the first one. */
  readonly wentBack: WentBack | undefined;
}

/** State was lost and a new generation begun from what was left (rule L5). */
export interface WentBack {
  readonly raisedAtMs: number;
  readonly reason: GoneBackReason;
  /** Streams that were there, and those of them that are known to have lost events. Others may have lost some of their newest ones. */
  readonly streams: number;
  readonly streamsWithKnownLoss: number;
  /** Chain ordinals [from, to); at most 100 rows. */
  readonly losses: readonly (KnownLoss & { readonly name: string })[];
}
