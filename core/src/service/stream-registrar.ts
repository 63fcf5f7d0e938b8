import { sleep } from "@tributary/common/clock";
import { hasCode, TributaryError, toTributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import { formatStreamName } from "@tributary/common/names";
import type { ContainerAccess } from "../routing/container-access.ts";
import { KeyedQueue } from "./keyed-queue.ts";
import type { MetaAccess } from "./meta-change.ts";
import type { StreamDirectory, StreamEntry } from "./stream-directory.ts";
import { initialSegments } from "./stream-record.ts";

const RETRY_MS_MIN = 200;
const RETRY_MS_MAX = 30_000;

/**
 * Keeps directory and containers in step: registers a stream in its container before the first use, and takes a deleted one
 * out. Both run one after the other for each stream, and registering rests on a record won by compare-and-set: so a stream
 * whose deletion was begun is never registered again.
 */
export class StreamRegistrar {
  readonly #access: MetaAccess;
  readonly #directory: StreamDirectory;
  readonly #containers: ContainerAccess;
  readonly #log: Logger;
  readonly #queue = new KeyedQueue();
  readonly #resuming = new Map<string, Promise<void>>();
  readonly #stopped = new AbortController();

  constructor(access: MetaAccess, directory: StreamDirectory, containers: ContainerAccess, log: Logger) {
    this.#access = access;
    this.#directory = directory;
    this.#containers = containers;
    this.#log = log;
  }

  /**
   * The container of the stream, which knows the stream. `access`: where it is asked for.
   * @throws STREAM_UNKNOWN, CONTAINER_NOT_OWNED, SHUTTING_DOWN
   */
  async ensure(entry: StreamEntry, access: ContainerAccess = this.#containers): Promise<number> {
    const { id } = entry.record;
    const container = containerOf(entry);
    // While one registers the stream, others wait for it to be durable.
    if (access.knows(container, id) && !this.#queue.busy(id)) return container;
    return this.#queue.run(id, async () => {
      if (access.knows(container, id)) return container;
      const current = await this.#directory.confirm(entry.name);
      if (current?.record.id !== id || current.record.state !== "open") throw gone(entry);
      const { contentType, closed, createdAtMs, containers } = current.record;
      const segments = initialSegments(current.record.segments)
        .filter((_, i) => containers[i] === container)
        .map((segment) => segment.id);
      try {
        await access.ensureStream(container, { id, segments, contentType, closed, origin: { name: entry.name, createdAtMs, containers } });
      } catch (error) {
        if (!hasCode(error, "STREAM_GONE")) throw error;
        // Another node deleted it, and what is cached here is older than that.
        this.#directory.forget(entry.name);
        throw gone(entry);
      }
      return container;
    });
  }

  /** The container does not know the stream after all. */
  forget(entry: StreamEntry): void {
    this.#containers.forget(containerOf(entry), entry.record.id);
  }

  /** Finishes a deletion whose intent is recorded. If it fails, it goes on in the background until it is done. */
  async finishDelete(deleting: StreamEntry): Promise<void> {
    try {
      await this.#remove(deleting);
    } catch (error) {
      if (!hasCode(error, "SHUTTING_DOWN")) this.resume(deleting);
      throw error;
    }
  }

  /** Goes on with a deletion in the background, and again until it is done. */
  resume(deleting: StreamEntry): void {
    const { id } = deleting.record;
    if (this.#resuming.has(id) || this.#stopped.signal.aborted) return;
    this.#resuming.set(
      id,
      this.#removeUntilDone(deleting).finally(() => this.#resuming.delete(id)),
    );
  }

  async close(): Promise<void> {
    this.#stopped.abort();
    await Promise.all(this.#resuming.values());
  }

  async #remove(deleting: StreamEntry): Promise<void> {
    const { id, containers } = deleting.record;
    await this.#queue.run(id, async () => {
      for (const container of new Set(containers)) await this.#containers.deleteStream(container, id);
    });
    await this.#directory.finishDelete(deleting);
  }

  async #removeUntilDone(deleting: StreamEntry): Promise<void> {
    let pauseMs = RETRY_MS_MIN;
    while (!this.#stopped.signal.aborted) {
      try {
        return await this.#remove(deleting);
      } catch (error) {
        this.#log.warn("a deletion could not be finished and is tried again", {
          stream: formatStreamName(deleting.name),
          error: toTributaryError(error).code,
        });
      }
      await sleep(this.#access.clock, pauseMs, this.#stopped.signal);
      pauseMs = Math.min(RETRY_MS_MAX, pauseMs * 2);
    }
  }
}

/** A stream's segments all live in one container for now. */
export function containerOf(entry: StreamEntry): number {
  return entry.record.containers[0] ?? -1;
}

function gone(entry: StreamEntry): TributaryError {
  return new TributaryError("STREAM_UNKNOWN", `there is no stream '${formatStreamName(entry.name)}' any more`);
}
