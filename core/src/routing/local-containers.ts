import { TributaryError } from "@tributary/common/errors";
import { linkSignals } from "@tributary/common/http/link-signals";
import { LIMITS } from "@tributary/common/limits";
import type { Id } from "@tributary/common/names";
import type { AppendRequest, ReadLevel } from "@tributary/common/stream-service";
import { type AppendAnswer, type LevelsAnswer, type LevelsRequest, SLICE_STATUS } from "@tributary/common/uplink-protocol";
import type { Container, ContainerAppendResult, ContainerStream, ContainerStreamState, StreamEnd } from "../container/container.ts";
import { type Position, positionAt } from "../container/nonces.ts";
import type { OpenedContainer } from "../service/container-host.ts";
import { checkPosition } from "../service/offset.ts";
import type { AccessPage, ContainerAccess, ReadBounds, ReadFrom } from "./container-access.ts";

/** What routing needs of whoever hosts a node's containers. */
export interface LocalHost {
  /** @throws CONTAINER_NOT_OWNED, also while the lease has run out; SHUTTING_DOWN */
  get(container: number): Container;
  /** Aborts when the instance that `get` returns now ends. */
  ended(container: number): AbortSignal;
  onOpened(listener: (opened: OpenedContainer) => void): void;
  onTiered(listener: (container: number) => void): () => void;
}

/** Takes a gateway's block in where its container lives. */
export type TakeBlock = (container: number, block: Uint8Array) => Promise<AppendAnswer>;

/** Containers that this node owns; of all others it says CONTAINER_NOT_OWNED. */
export class LocalContainers implements ContainerAccess {
  readonly #host: LocalHost;
  readonly #takeBlock: TakeBlock;

  constructor(host: LocalHost, takeBlock: TakeBlock) {
    this.#host = host;
    this.#takeBlock = takeBlock;
  }

  /** Of what is served here now; undefined if it is not. */
  epochOf(container: number): number | undefined {
    try {
      return this.#host.get(container).status().epoch;
    } catch {
      return undefined;
    }
  }

  knows(container: number, streamId: Id): boolean {
    try {
      return this.#host.get(container).knowsStream(streamId);
    } catch {
      return false;
    }
  }

  /** What a container knows itself is never old. */
  forget(): void {}

  async ensureStream(container: number, stream: ContainerStream): Promise<void> {
    const served = this.#host.get(container);
    await this.#inForce(container, served, served.ensureStream(stream));
  }

  async append(container: number, streamId: Id, request: AppendRequest): Promise<ContainerAppendResult> {
    const served = this.#host.get(container);
    return this.#inForce(container, served, served.append(streamId, request));
  }

  async appendBlock(container: number, block: Uint8Array): Promise<AppendAnswer> {
    const epoch = this.epochOf(container);
    const served = this.#host.get(container);
    const answer = await this.#inForce(container, served, this.#takeBlock(container, block));
    if (answer.slices.some(([status]) => status !== SLICE_STATUS.accepted)) this.#mustStillServe(container, served);
    return epoch === undefined ? answer : { ...answer, epoch };
  }

  async read(container: number, streamId: Id, from: ReadFrom, bounds: ReadBounds): Promise<AccessPage> {
    const { eventsMax, bytesMax, level = "committed" } = bounds;
    const served = this.#host.get(container);
    const page =
      from === "end"
        ? { events: [], nextChain: endOf(served, streamId, level).chain }
        : await served.read(
            streamId,
            chainOf(streamId, stateOf(served, streamId), from),
            { eventsMax: Math.min(eventsMax, LIMITS.readPageEventsMax), bytesMax: Math.min(bytesMax, LIMITS.readPageBytesMax) },
            level,
          );
    this.#mustStillServe(container, served);
    const end = endOf(served, streamId, level);
    return {
      events: page.events,
      next: positionAt(stateOf(served, streamId).nonces, page.nextChain),
      upToDate: page.nextChain >= end.chain,
      closed: end.closed,
    };
  }

  async waitForData(
    container: number,
    streamId: Id,
    position: Position,
    signal: AbortSignal,
    level: ReadLevel = "committed",
  ): Promise<void> {
    const served = this.#host.get(container);
    checkPosition(streamId, position, stateOf(served, streamId));
    const link = linkSignals([signal, this.#host.ended(container)]);
    try {
      await served.waitForData(streamId, position.chain, link.signal, level);
    } finally {
      link.unlink();
    }
    if (!signal.aborted) this.#mustStillServe(container, served);
  }

  async describe(container: number, streamIds: readonly Id[]): Promise<(ContainerStreamState | undefined)[]> {
    const served = this.#host.get(container);
    return streamIds.map((id) => served.describe(id));
  }

  async deleteStream(container: number, streamId: Id): Promise<void> {
    const served = this.#host.get(container);
    await this.#inForce(container, served, served.deleteStream(streamId));
  }

  async levels(container: number, request: LevelsRequest): Promise<LevelsAnswer> {
    const served = this.#host.get(container);
    return { ...served.levels(request), epoch: served.status().epoch };
  }

  /**
   * What is refused for good is refused out of what this node knows: that is so as long as nobody else can have the container.
   * An owner that was deposed while a request waited here would call a producer's next number a gap.
   */
  async #inForce<T>(container: number, served: Container, answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (error) {
      const isFinal = error instanceof TributaryError && !error.retryable && !error.sideEffects;
      if (isFinal) this.#mustStillServe(container, served);
      throw error;
    }
  }

  /** Time may have stood still in between, and the lease may be over: what was read then may be old. */
  #mustStillServe(container: number, served: Container): void {
    if (this.#host.get(container) !== served) {
      throw new TributaryError("CONTAINER_NOT_OWNED", `container ${container} changed hands meanwhile`, { container });
    }
  }
}

function stateOf(container: Container, streamId: Id): ContainerStreamState {
  const state = container.describe(streamId);
  if (!state) throw unknown();
  return state;
}

function endOf(container: Container, streamId: Id, level: ReadLevel): StreamEnd {
  const end = container.endOf(streamId, level);
  if (!end) throw unknown();
  return end;
}

function unknown(): TributaryError {
  return new TributaryError("STREAM_UNKNOWN", "the stream is not known here");
}

function chainOf(streamId: Id, state: ContainerStreamState, from: Exclude<ReadFrom, "end">): number {
  if (from === "first") return state.firstChain;
  checkPosition(streamId, from, state);
  return from.chain;
}
