import type { Clock } from "@tributary/common/clock";
import { canonicalContentType, sameContentType } from "@tributary/common/content-type";
import { hasCode, TributaryError, toTributaryError } from "@tributary/common/errors";
import { linkSignals } from "@tributary/common/http/link-signals";
import { LIMITS } from "@tributary/common/limits";
import { formatSegmentId, formatStreamName, type Id, newId, STREAM_ID_BYTES, type StreamName, streamName } from "@tributary/common/names";
import type { Random } from "@tributary/common/random";
import type {
  AppendRequest,
  AppendResult,
  CreateOptions,
  ListedStream,
  ReadPage,
  ReadRequest,
  StreamInfo,
  StreamService,
  WaitOptions,
} from "@tributary/common/stream-service";
import type { ContainerStreamState } from "../container/container.ts";
import type { ContainerAccess, ReadFrom } from "../routing/container-access.ts";
import { containerOfStream } from "./cluster-record.ts";
import { formatOffset, formatPosition, OFFSET_BEGIN, OFFSET_NOW, parseOffset } from "./offset.ts";
import { type CreateOutcome, compareNames, type StreamDirectory, type StreamEntry } from "./stream-directory.ts";
import { initialSegments } from "./stream-record.ts";
import { containerOf, type StreamRegistrar } from "./stream-registrar.ts";

interface StreamConfig {
  readonly contentType: string;
  readonly segments: number;
  readonly closed: boolean;
}

const DEFAULT_CONTENT_TYPE = "application/octet-stream";
const CREATE_ROUNDS_MAX = 4;

export interface CoreStreamParts {
  readonly directory: StreamDirectory;
  readonly registrar: StreamRegistrar;
  readonly access: ContainerAccess;
  /** Containers of the cluster now: new streams are spread over them. */
  readonly containers: () => number;
  /** Where clients reach the owner of a container, unless it is this node. */
  readonly urlOf: (container: number) => string | undefined;
  readonly clock: Clock;
  readonly random: Random;
}

/** The StreamService of the core: the directory says which streams there are, their containers, wherever they are, what is in them. */
export class CoreStreamService implements StreamService {
  readonly #parts: CoreStreamParts;

  constructor(parts: CoreStreamParts) {
    this.#parts = parts;
  }

  async create(name: StreamName, options: CreateOptions): Promise<{ created: boolean; info: StreamInfo }> {
    const config = checkConfig(name, options);
    const segmentsAsked = options.segments;
    for (let round = 1; ; round++) {
      try {
        return await this.#createOnce(name, config, segmentsAsked);
      } catch (error) {
        // Deleted between its creation and its registration, or its id was taken: begin again with another id.
        if (!hasCode(error, "STREAM_UNKNOWN") || round === CREATE_ROUNDS_MAX) throw error;
        this.#parts.directory.forget(name);
      }
    }
  }

  /** `segmentsAsked`: undefined leaves an existing stream whatever it has. */
  async #createOnce(
    name: StreamName,
    config: StreamConfig,
    segmentsAsked: number | undefined,
  ): Promise<{ created: boolean; info: StreamInfo }> {
    const { random, clock, registrar } = this.#parts;
    const id = newId(random, STREAM_ID_BYTES);
    const outcome = await this.createWithId(name, id, config, clock.nowMs());
    // A fresh id that was used before: then the random source went back (a restored machine), and the next id is another.
    if (outcome.type === "retired" || outcome.type === "id-taken") throw unknown(name);
    const container = await registrar.ensure(outcome.entry);
    const info = describeEntry(outcome.entry, await this.#stateIn(container, outcome.entry));
    if (outcome.type === "exists") {
      const { contentType, segments } = outcome.entry.record;
      const sameSegments = segmentsAsked === undefined || segmentsAsked === segments;
      if (!sameContentType(contentType, config.contentType) || !sameSegments || info.closed !== config.closed) {
        throw new TributaryError("STREAM_EXISTS", `'${formatStreamName(name)}' exists with another configuration`, {
          contentType,
          segments,
          closed: info.closed,
        });
      }
    }
    return { created: outcome.type === "created", info };
  }

  /** Creates a stream under an id drawn elsewhere (rule W8). `createdAtMs` is kept as its time of creation. */
  async createWithId(
    name: StreamName,
    id: Id,
    config: StreamConfig,
    createdAtMs: number,
  ): Promise<Exclude<CreateOutcome, { type: "deleting" }>> {
    const { directory, registrar } = this.#parts;
    const container = containerOfStream(id, this.#parts.containers());
    const containers = new Array<number>(config.segments).fill(container);
    for (let round = 1; ; round++) {
      const outcome = await directory.create(name, { id, ...config, containers, createdAtMs });
      if (outcome.type !== "deleting") return outcome;
      if (round === CREATE_ROUNDS_MAX) {
        throw new TributaryError("OVERLOADED", `'${formatStreamName(name)}' is created and deleted again and again`);
      }
      await registrar.finishDelete(outcome.entry);
    }
  }

  async describe(name: StreamName): Promise<StreamInfo> {
    return this.#with(name, async (entry, container) => describeEntry(entry, await this.#stateIn(container, entry)));
  }

  async list(options: { scope?: string; after?: StreamName; limit: number }): Promise<ListedStream[]> {
    const { scope, after, limit } = options;
    if (!Number.isSafeInteger(limit) || limit < 1) throw new TributaryError("INVALID_REQUEST", "limit must be a positive integer");
    const entries = await this.#parts.directory.list(scope);
    const page = entries.filter((entry) => !after || compareNames(entry.name, after) > 0).slice(0, limit);
    const { states, unserved } = await this.#statesOf(page);
    return page.map((entry) => {
      // A stream that its container does not know yet is empty: registering it can wait for its first use.
      const info = describeEntry(entry, states.get(entry.record.id) ?? emptyState(entry));
      return unserved.has(containerOf(entry)) ? { ...info, unserved: true } : info;
    });
  }

  async listScopes(): Promise<string[]> {
    return [...new Set((await this.#parts.directory.list(undefined)).map((entry) => entry.name.scope))];
  }

  async delete(name: StreamName): Promise<void> {
    const { directory, registrar } = this.#parts;
    const deleting = await directory.beginDelete(name);
    if (!deleting) throw unknown(name);
    await registrar.finishDelete(deleting);
  }

  async append(name: StreamName, request: AppendRequest): Promise<AppendResult> {
    return this.#with(name, async (entry, container) => {
      const { id, contentType } = entry.record;
      if (request.contentType !== undefined && !sameContentType(request.contentType, contentType)) {
        const state = await this.#stateIn(container, entry);
        if (state.closed) throw closed(entry, state);
        throw new TributaryError("CONTENT_TYPE_MISMATCH", `'${formatStreamName(name)}' holds ${contentType}`, { contentType });
      }
      const result = await this.#parts.access.append(container, id, request).catch(async (error: unknown) => {
        throw hasCode(error, "STREAM_CLOSED") ? closed(entry, await this.#stateIn(container, entry)) : error;
      });
      return {
        duplicate: result.duplicate,
        nextOffset: formatPosition(id, { chain: result.nextChain, ancestry: result.ancestry }),
        closed: result.closed,
        ...(result.producerSeq === undefined ? {} : { producerSeq: result.producerSeq }),
      };
    });
  }

  async read(name: StreamName, request: ReadRequest): Promise<ReadPage> {
    return this.#with(name, async (entry, container) => {
      const { id, contentType } = entry.record;
      const page = await this.#parts.access.read(container, id, readFrom(id, request.offset), {
        eventsMax: clamp(request.eventsMax, LIMITS.readPageEventsMax),
        bytesMax: clamp(request.bytesMax, LIMITS.readPageBytesMax),
        level: request.level,
      });
      return {
        events: page.events,
        nextOffset: formatPosition(id, page.next),
        upToDate: page.upToDate,
        closed: page.upToDate && page.closed,
        contentType,
      };
    });
  }

  async waitForData(name: StreamName, offset: string, options: WaitOptions): Promise<void> {
    const link = linkSignals([options.signal]);
    if (link.signal.aborted) return;
    const over = new Promise<void>((resolve) => link.signal.addEventListener("abort", () => resolve(), { once: true }));
    const cancelTimer = this.#parts.clock.setTimer(options.timeoutMs, link.abort);
    try {
      const waiting = this.#with(name, async (entry, container) => {
        const { access } = this.#parts;
        const { id } = entry.record;
        const from = readFrom(id, offset);
        const { level } = options;
        const at = typeof from === "string" ? await access.read(container, id, from, { eventsMax: 1, bytesMax: 1, level }) : undefined;
        if (at?.events.length) return;
        const position = typeof from === "string" ? at?.next : from;
        if (position) await access.waitForData(container, id, position, link.signal, level);
      });
      // To find the stream may take longer than there is to wait.
      await Promise.race([waiting, over]);
    } finally {
      cancelTimer();
      link.unlink();
    }
  }

  /** Where clients reach the node that has the stream, unless it is this one or not known. */
  async ownerUrl(name: StreamName): Promise<string | undefined> {
    const entry = await this.#parts.directory.find(name);
    return entry && this.#parts.urlOf(containerOf(entry));
  }

  /**
   * Runs an operation on an open stream and its container. If it turns out that the stream is not known there, what is cached of it
   * may be old: then once more with what directory and container say now.
   */
  async #with<T>(name: StreamName, operation: (entry: StreamEntry, container: number) => Promise<T>): Promise<T> {
    const { directory, registrar } = this.#parts;
    const entry = await this.#open(name);
    try {
      return await operation(entry, await registrar.ensure(entry));
    } catch (error) {
      if (!hasCode(error, "STREAM_UNKNOWN", "STREAM_GONE")) throw error;
    }
    directory.forget(name);
    registrar.forget(entry);
    const again = await this.#open(name);
    try {
      return await operation(again, await registrar.ensure(again));
    } catch (error) {
      throw hasCode(error, "STREAM_UNKNOWN", "STREAM_GONE") ? unknown(name) : error;
    }
  }

  /** @throws STREAM_UNKNOWN when the container has forgotten the stream meanwhile */
  async #stateIn(container: number, entry: StreamEntry): Promise<ContainerStreamState> {
    const [state] = await this.#parts.access.describe(container, [entry.record.id]);
    if (!state) throw unknown(entry.name);
    return state;
  }

  /** One container that nobody serves must not keep all streams from being listed. */
  async #statesOf(
    entries: readonly StreamEntry[],
  ): Promise<{ states: ReadonlyMap<Id, ContainerStreamState>; unserved: ReadonlySet<number> }> {
    const byContainer = new Map<number, Id[]>();
    for (const entry of entries) {
      const ids = byContainer.get(containerOf(entry)) ?? [];
      ids.push(entry.record.id);
      byContainer.set(containerOf(entry), ids);
    }
    const states = new Map<Id, ContainerStreamState>();
    const unserved = new Set<number>();
    const describe = async ([container, ids]: [number, Id[]]) => {
      try {
        const found = await this.#parts.access.describe(container, ids);
        for (const [i, id] of ids.entries()) {
          const state = found[i];
          if (state) states.set(id, state);
        }
      } catch (error) {
        if (!toTributaryError(error).retryable || hasCode(error, "SHUTTING_DOWN")) throw error;
        unserved.add(container);
      }
    };
    await Promise.all(Array.from(byContainer, describe));
    return { states, unserved };
  }

  async #open(name: StreamName): Promise<StreamEntry> {
    const entry = await this.#parts.directory.find(name);
    if (entry?.record.state !== "open") throw unknown(name);
    return entry;
  }
}

function unknown(name: StreamName): TributaryError {
  return new TributaryError("STREAM_UNKNOWN", `there is no stream '${formatStreamName(name)}'`);
}

function closed(entry: StreamEntry, state: ContainerStreamState): TributaryError {
  const nextOffset = formatOffset(entry.record.id, state.nextChain, state.nonces);
  return new TributaryError("STREAM_CLOSED", `'${formatStreamName(entry.name)}' is closed`, { nextOffset });
}

/** @throws INVALID_NAME, INVALID_REQUEST */
function checkConfig(name: StreamName, options: CreateOptions): StreamConfig {
  streamName(name.scope, name.stream);
  const segments = options.segments ?? 1;
  if (!Number.isSafeInteger(segments) || segments < 1 || segments > LIMITS.segmentsPerStreamMax) {
    throw new TributaryError("INVALID_REQUEST", `a stream has 1 to ${LIMITS.segmentsPerStreamMax} segments`);
  }
  return { contentType: canonicalContentType(options.contentType ?? DEFAULT_CONTENT_TYPE), segments, closed: options.closed ?? false };
}

function emptyState(entry: StreamEntry): ContainerStreamState {
  const segmentLengths = initialSegments(entry.record.segments).map(({ id }) => ({ segment: id, length: 0 }));
  return { firstChain: 0, nextChain: 0, closed: entry.record.closed, segmentLengths, nonces: [] };
}

function describeEntry(entry: StreamEntry, state: ContainerStreamState): StreamInfo {
  const { id, contentType, segments, createdAtMs } = entry.record;
  const open = new Map(state.segmentLengths.map((entry) => [entry.segment.number, entry]));
  return {
    name: entry.name,
    id,
    contentType,
    segments: initialSegments(segments).map(({ id: first, range }) => {
      // In a later generation another segment stands in the place of the first one.
      const { segment, length } = open.get(first.number) ?? { segment: first, length: 0 };
      return { id: formatSegmentId(segment), range, length };
    }),
    createdAtMs,
    closed: state.closed,
    firstOffset: formatOffset(id, state.firstChain, state.nonces),
    nextOffset: formatOffset(id, state.nextChain, state.nonces),
    events: state.nextChain - state.firstChain,
  };
}

/** @throws OFFSET_INVALID, OFFSET_FOREIGN */
function readFrom(id: Id, offset: string): ReadFrom {
  if (offset === OFFSET_BEGIN) return "first";
  return offset === OFFSET_NOW ? "end" : parseOffset(id, offset);
}

function clamp(asked: number, max: number): number {
  if (!(asked >= 1)) throw new TributaryError("INVALID_REQUEST", "the bounds of a page must be positive");
  return Math.min(Math.floor(asked), max);
}
