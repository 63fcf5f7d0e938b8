import { sleep } from "@tributary/common/clock";
import { hasCode, toTributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import { formatStreamName, type Id, type StreamName } from "@tributary/common/names";
import type { Container, ContainerStream, StreamOrigin } from "../container/container.ts";
import type { OpenedContainer } from "./container-host.ts";
import type { MetaAccess } from "./meta-change.ts";
import type { StreamDirectory, StreamEntry } from "./stream-directory.ts";
import { recoveredName, streamKey } from "./stream-record.ts";
import type { StreamRegistrar } from "./stream-registrar.ts";

const PAUSE_MS_MIN = 500;
const PAUSE_MS_MAX = 10_000;
/** How often it is looked whether a name that another stream has becomes free: the other one may turn out to be deleted. */
const CONFLICT_TRIES = 4;
/**
 * Where all is in step it is compared again: a MetaStore that went back by less than a node's beat may have forgotten a stream and
 * nothing by which nodes would notice.
 */
const AGAIN_MS = 30_000;
/** Comparisons that take long are rarer: each reads all records, and this many times as long lies between two of any containers of the node. */
const AGAIN_TIMES_TAKEN = 50;

interface RestorerParts {
  readonly access: MetaAccess;
  readonly directory: StreamDirectory;
  readonly registrar: StreamRegistrar;
  readonly host: { get(container: number): Container };
  readonly log: Logger;
}

type KnownStream = ContainerStream & { readonly origin: StreamOrigin };

/**
 * Brings the directory back into step with a container, where MetaStore or log went back (rule L5): as it is opened, and ever after.
 * Containers know the names of their streams, and which were deleted:
 *
 * - a stream that the container has and the MetaStore does not know gets its record back;
 * - one that the MetaStore knows to be deleted is deleted in the container once more;
 * - a deletion that was begun goes on: the node that began it may have died with the container (rule C8);
 * - a record of a stream that the container knows to be deleted is deleted;
 * - where another stream has the name, the stream is called {stream}.recovered-{first digits of its id}.
 */
export class DirectoryRestorer {
  readonly #parts: RestorerParts;
  readonly #stopped = new AbortController();
  readonly #running = new Set<Promise<void>>();
  readonly #firstLooks = new Set<Promise<void>>();

  constructor(parts: RestorerParts) {
    this.#parts = parts;
  }

  opened({ container, ended }: OpenedContainer): void {
    const looked = Promise.withResolvers<void>();
    this.#firstLooks.add(looked.promise);
    const signal = AbortSignal.any([ended, this.#stopped.signal]);
    const run = this.#restore(container, signal, looked.resolve)
      .catch((error: unknown) => {
        if (!signal.aborted)
          this.#parts.log.error("a container's streams could not be compared with the directory", {
            container,
            code: toTributaryError(error).code,
            error: toTributaryError(error).message,
          });
      })
      .finally(() => {
        looked.resolve();
        this.#firstLooks.delete(looked.promise);
        this.#running.delete(run);
      });
    this.#running.add(run);
  }

  /** Resolves when all containers opened so far were looked at once, or after `withinMs`. */
  async settled(withinMs: number): Promise<void> {
    const late = new AbortController();
    await Promise.race([Promise.all(this.#firstLooks), sleep(this.#parts.access.clock, withinMs, late.signal)]);
    late.abort();
  }

  async close(): Promise<void> {
    this.#stopped.abort();
    await Promise.all(this.#running);
  }

  async #restore(container: number, signal: AbortSignal, onLooked: () => void): Promise<void> {
    const { access, log } = this.#parts;
    let conflicts = 0;
    let nameless = 0;
    // Not before `get` returns it.
    await sleep(access.clock, 0, signal);
    for (let pauseMs = PAUSE_MS_MIN; !signal.aborted; pauseMs = Math.min(pauseMs * 2, PAUSE_MS_MAX)) {
      const startedMs = access.clock.monotonicMs();
      try {
        const open = await this.#compare(container, ++conflicts > CONFLICT_TRIES, signal);
        onLooked();
        if (open === 0 || conflicts > CONFLICT_TRIES) {
          if (open > nameless)
            log.error("streams of a container have no name in the directory: others have their names or ids", { container, streams: open });
          nameless = open;
          conflicts = 0;
          const tookMs = access.clock.monotonicMs() - startedMs;
          const againMs = Math.max(AGAIN_MS, tookMs * AGAIN_TIMES_TAKEN * this.#running.size);
          await sleep(access.clock, againMs * (0.5 + access.random.float() / 2), signal);
          pauseMs = PAUSE_MS_MIN;
          continue;
        }
      } catch (error) {
        if (signal.aborted || hasCode(error, "INTERNAL")) throw error;
        conflicts = 0;
        // Without a lease it is not looked at.
        if (!hasCode(error, "CONTAINER_NOT_OWNED"))
          log.warn("the directory cannot be compared with a container now", { container, code: toTributaryError(error).code });
      }
      await sleep(access.clock, pauseMs * (0.5 + access.random.float() / 2), signal);
    }
  }

  /** Returns how many names are taken by other streams. With `rename` those get other names. */
  async #compare(containerId: number, rename: boolean, signal: AbortSignal): Promise<number> {
    const { host, directory, registrar } = this.#parts;
    const container = host.get(containerId);
    // Before the records: a stream has its record before it is registered, and keeps it until it is deleted here.
    const { streams, deleted } = container.registrations();
    if (streams.length === 0 && deleted.length === 0) return 0;
    const records = new Map((await directory.records()).map((entry) => [streamKey(entry.name), entry]));
    const byId = new Map<Id, StreamEntry>();
    for (const entry of records.values()) if (entry.record.id !== "") byId.set(entry.record.id, entry);
    let conflicts = 0;
    for (const stream of streams) {
      if (signal.aborted) return 0;
      const known = byId.get(stream.id);
      if (known?.record.state === "deleting") registrar.resume(known);
      if (!isNamed(stream) || known) continue;
      const entry = records.get(streamKey(stream.origin.name));
      if (entry?.record.past.includes(stream.id)) await container.deleteStream(stream.id);
      else {
        const isFree = !entry || entry.record.state === "deleted";
        const name = isFree ? stream.origin.name : rename ? recoveredName(stream.origin.name, stream.id) : undefined;
        if (!name || !(await this.#bringBack(stream, name))) conflicts++;
      }
    }
    for (const id of deleted) {
      const entry = byId.get(id);
      if (!entry || signal.aborted) continue;
      const deleting = await directory.beginDelete(entry.name, id);
      if (deleting) registrar.resume(deleting);
    }
    return conflicts;
  }

  async #bringBack(stream: KnownStream, name: StreamName): Promise<boolean> {
    const { directory, log } = this.#parts;
    const { id, contentType, closed, origin } = stream;
    const { containers, createdAtMs } = origin;
    const outcome = await directory.restore(name, { id, contentType, segments: containers.length, containers, createdAtMs, closed });
    if (outcome === "restored")
      log.warn("the MetaStore had lost a stream; its container gave it back", { stream: formatStreamName(name), id });
    return outcome !== "taken";
  }
}

function isNamed(stream: ContainerStream): stream is KnownStream {
  return stream.origin !== undefined;
}
