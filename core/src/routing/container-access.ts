import type { Id } from "@tributary/common/names";
import type { AppendRequest, ReadEvent, ReadLevel } from "@tributary/common/stream-service";
import type { AppendAnswer, LevelsAnswer, LevelsRequest } from "@tributary/common/uplink-protocol";
import type { ContainerAppendResult, ContainerStream, ContainerStreamState, PageBounds } from "../container/container.ts";
import type { Position } from "../container/nonces.ts";

/** Where to read from: a position, the first event kept, or behind the last one. */
export type ReadFrom = Position | "first" | "end";

export interface ReadBounds extends PageBounds {
  /** undefined: committed. */
  readonly level?: ReadLevel | undefined;
}

export interface AccessPage {
  readonly events: readonly ReadEvent[];
  /** Behind the page. */
  readonly next: Position;
  /** True when nothing of the level lay behind the page as it was made. */
  readonly upToDate: boolean;
  /** The stream takes no more events, as far as the level tells. */
  readonly closed: boolean;
}

/**
 * The containers of the cluster, whoever owns them. Everything is answered by the owner, out of its durable state (rule W3).
 * An operation throws what the container throws, and CONTAINER_NOT_OWNED when no owner could be found.
 */
export interface ContainerAccess {
  /** True if the container is known to have registered the stream; a stream that was deleted meanwhile shows when it is used. */
  knows(container: number, streamId: Id): boolean;
  /** Forgets that it was known. */
  forget(container: number, streamId: Id): void;
  /** @throws STREAM_GONE if it was deleted there */
  ensureStream(container: number, stream: ContainerStream): Promise<void>;
  /** @throws as Container.append; BUS_TIMEOUT, too, when it may have been appended */
  append(container: number, streamId: Id, request: AppendRequest): Promise<ContainerAppendResult>;
  /** A gateway's block, encoded. Streams that it names are registered by the owner. */
  appendBlock(container: number, block: Uint8Array): Promise<AppendAnswer>;
  /** @throws OFFSET_UNKNOWN with details nextOffset, OFFSET_GONE with details firstOffset, STREAM_UNKNOWN */
  read(container: number, streamId: Id, from: ReadFrom, bounds: ReadBounds): Promise<AccessPage>;
  /** Resolves when something of the level lies behind the position, the stream is closed or deleted, or the signal aborts. @throws as `read` */
  waitForData(container: number, streamId: Id, position: Position, signal: AbortSignal, level?: ReadLevel): Promise<void>;
  /** One row a stream; undefined where it is unknown or deleted. */
  describe(container: number, streamIds: readonly Id[]): Promise<(ContainerStreamState | undefined)[]>;
  deleteStream(container: number, streamId: Id): Promise<void>;
  levels(container: number, request: LevelsRequest): Promise<LevelsAnswer>;
}
