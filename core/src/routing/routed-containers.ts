import type { Clock } from "@tributary/common/clock";
import { TributaryError } from "@tributary/common/errors";
import { decodeBlock } from "@tributary/common/format/block";
import { linkSignals } from "@tributary/common/http/link-signals";
import { LIMITS } from "@tributary/common/limits";
import type { Id } from "@tributary/common/names";
import type { AppendRequest, ReadLevel } from "@tributary/common/stream-service";
import type { AppendAnswer, LevelsAnswer, LevelsRequest } from "@tributary/common/uplink-protocol";
import type { ContainerAppendResult, ContainerStream, ContainerStreamState } from "../container/container.ts";
import type { Position } from "../container/nonces.ts";
import { BoundedCache } from "../service/bounded-cache.ts";
import { KeyedQueue } from "../service/keyed-queue.ts";
import type { AccessPage, ContainerAccess, ReadBounds, ReadFrom } from "./container-access.ts";
import type { LocalContainers } from "./local-containers.ts";
import type { RemoteContainers } from "./remote-containers.ts";
import type { RemoteWaits } from "./remote-waits.ts";
import { mayRepeat } from "./repeat.ts";
import type { Routes, Target } from "./routes.ts";

export interface RoutedParts {
  readonly routes: Routes;
  readonly local: LocalContainers;
  readonly remote: RemoteContainers;
  readonly waits: RemoteWaits;
  readonly clock: Clock;
}

interface Attempt<T> {
  /** True where carrying it out twice comes to the same as once: then nobody waits for an owner that is none any more. */
  readonly repeatable: boolean;
  /** True where an unknown result is tried again here; gateways do so themselves. */
  readonly untilKnown: boolean;
  readonly here: () => Promise<T>;
  readonly there: (node: Id) => Promise<T>;
}

const PAUSE_MS_MIN = 25;
const PAUSE_MS_MAX = 500;

/**
 * Takes each operation to the container's owner, here or at another node, and tries again for a while when there is none: a take-over
 * shows as a slow answer, not as an error. What may have been carried out is tried again only where that does no harm.
 */
export class RoutedContainers implements ContainerAccess {
  readonly #parts: RoutedParts;
  /** Streams that other nodes' containers have registered, by container and id. */
  readonly #known = new BoundedCache<true>(LIMITS.directoryCacheEntriesMax);
  /** Blocks of one writer go to another node one after the other, so that one that is tried again is not overtaken. */
  readonly #turns = new KeyedQueue();
  readonly #closing = new AbortController();

  constructor(parts: RoutedParts) {
    this.#parts = parts;
  }

  /** Nothing is tried again from now on. */
  close(): void {
    this.#closing.abort();
  }

  knows(container: number, streamId: Id): boolean {
    if (this.#parts.routes.target(container).type === "here") return this.#parts.local.knows(container, streamId);
    return this.#known.get(knownKey(container, streamId)) === true;
  }

  forget(container: number, streamId: Id): void {
    this.#known.delete(knownKey(container, streamId));
  }

  async ensureStream(container: number, stream: ContainerStream): Promise<void> {
    const { local, remote } = this.#parts;
    await this.#run(container, {
      repeatable: true,
      untilKnown: true,
      here: () => local.ensureStream(container, stream),
      there: (node) => remote.ensureStream(node, container, stream),
    });
    this.#known.set(knownKey(container, stream.id), true);
  }

  append(container: number, streamId: Id, request: AppendRequest): Promise<ContainerAppendResult> {
    const { local, remote } = this.#parts;
    // A producer's numbers tell a repetition; to close again changes nothing.
    const repeatable = request.producer !== undefined || request.events === undefined;
    return this.#run(container, {
      repeatable,
      untilKnown: repeatable,
      here: () => local.append(container, streamId, request),
      there: (node) => remote.append(node, container, streamId, request),
    });
  }

  async appendBlock(container: number, block: Uint8Array): Promise<AppendAnswer> {
    const { routes, local, remote } = this.#parts;
    const { writer, slices } = decodeBlock(block);
    const turn = `${container}/${writer}`;
    if (routes.target(container).type === "here" && !this.#turns.busy(turn)) {
      try {
        return await local.appendBlock(container, block);
      } catch (error) {
        if (!mayRepeat(error, false)) throw error;
      }
    }
    return this.#turns.run(turn, () =>
      this.#run(container, {
        repeatable: true,
        untilKnown: false,
        here: () => local.appendBlock(container, block),
        there: (node) => remote.appendBlock(node, container, block, slices.length),
      }),
    );
  }

  levels(container: number, request: LevelsRequest): Promise<LevelsAnswer> {
    const { local, remote } = this.#parts;
    return this.#run(container, {
      repeatable: true,
      untilKnown: false,
      here: () => local.levels(container, request),
      there: (node) => remote.levels(node, container, request),
    });
  }

  read(container: number, streamId: Id, from: ReadFrom, bounds: ReadBounds): Promise<AccessPage> {
    const { local, remote } = this.#parts;
    return this.#run(container, {
      repeatable: true,
      untilKnown: true,
      here: () => local.read(container, streamId, from, bounds),
      there: (node) => remote.read(node, container, streamId, from, bounds),
    });
  }

  describe(container: number, streamIds: readonly Id[]): Promise<(ContainerStreamState | undefined)[]> {
    const { local, remote } = this.#parts;
    return this.#run(container, {
      repeatable: true,
      untilKnown: true,
      here: () => local.describe(container, streamIds),
      there: (node) => remote.describe(node, container, streamIds),
    });
  }

  async deleteStream(container: number, streamId: Id): Promise<void> {
    const { local, remote } = this.#parts;
    this.forget(container, streamId);
    await this.#run(container, {
      repeatable: true,
      untilKnown: true,
      here: () => local.deleteStream(container, streamId),
      there: (node) => remote.deleteStream(node, container, streamId),
    });
  }

  /** Waits on, wherever the container goes, until the signal aborts: who waits has time. */
  async waitForData(
    container: number,
    streamId: Id,
    position: Position,
    signal: AbortSignal,
    level: ReadLevel = "committed",
  ): Promise<void> {
    const { routes, local, waits } = this.#parts;
    const link = linkSignals([signal, this.#closing.signal]);
    try {
      for (let tries = 0; !link.signal.aborted; tries++) {
        const target = routes.target(container);
        try {
          const woken =
            target.type === "here"
              ? await local.waitForData(container, streamId, position, link.signal, level).then(() => true)
              : await this.#whileOwner(
                  container,
                  target,
                  (moved) => waits.wait(target.owner.node, container, streamId, position, moved, level),
                  link.signal,
                );
          if (woken) return;
          tries = 0;
        } catch (error) {
          if (!mayRepeat(error, true)) throw error;
          await routes.pause(container, target, pauseMs(tries), link.signal);
        }
      }
    } finally {
      link.unlink();
    }
  }

  async #whileOwner(
    container: number,
    target: Target,
    wait: (signal: AbortSignal) => Promise<boolean>,
    signal: AbortSignal,
  ): Promise<boolean> {
    const link = linkSignals([signal]);
    const stop = this.#parts.routes.onMoved(container, target, link.abort);
    try {
      return await wait(link.signal);
    } finally {
      stop();
      link.unlink();
    }
  }

  async #run<T>(container: number, attempt: Attempt<T>): Promise<T> {
    const { routes, clock } = this.#parts;
    const deadlineMs = clock.monotonicMs() + LIMITS.rerouteMsMax;
    for (let tries = 0; ; tries++) {
      const target = routes.target(container);
      try {
        if (target.type === "here") return await attempt.here();
        const answer = attempt.there(target.owner.node);
        return await (attempt.repeatable ? this.#unlessMoved(container, target, answer) : answer);
      } catch (error) {
        const leftMs = deadlineMs - clock.monotonicMs();
        if (!mayRepeat(error, attempt.untilKnown) || leftMs <= 0 || this.#closing.signal.aborted) throw error;
        await routes.pause(container, target, Math.min(leftMs, pauseMs(tries)), this.#closing.signal);
      }
    }
  }

  /** An owner that is paused or dead does not answer: as soon as there is another one, that one is asked. */
  #unlessMoved<T>(container: number, target: Target, answer: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const stop = this.#parts.routes.onMoved(container, target, () =>
        reject(new TributaryError("CONTAINER_NOT_OWNED", `container ${container} moved`, { container })),
      );
      answer.then(resolve, reject).finally(stop);
    });
  }
}

function pauseMs(tries: number): number {
  return Math.min(PAUSE_MS_MAX, PAUSE_MS_MIN * 2 ** Math.min(tries, 10));
}

function knownKey(container: number, streamId: Id): string {
  return `${container}/${streamId}`;
}
