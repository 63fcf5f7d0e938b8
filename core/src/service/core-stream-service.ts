import type { Clock } from "@tributary/common/clock";
import { canonicalContentType, sameContentType } from "@tributary/common/content-type";
import { hasCode, TributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import { formatSegmentId, formatStreamName, type Id, newId, STREAM_ID_BYTES, type StreamName, streamName } from "@tributary/common/names";
import type { Random } from "@tributary/common/random";
import type {
  AppendRequest,
  AppendResult,
  CreateOptions,
  ReadPage,
  ReadRequest,
  StreamInfo,
  StreamService,
} from "@tributary/common/stream-service";
import type { Container, ContainerStreamState } from "../container/container.ts";
import { containerOfStream } from "./cluster-record.ts";
import type { ContainerHost } from "./container-host.ts";
import { formatOffset, OFFSET_BEGIN, OFFSET_NOW, parseOffset } from "./offset.ts";
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

/** The StreamService of the core: the directory says which streams there are, their containers what is in them. */
export class CoreStreamService implements StreamService {
  readonly #directory: StreamDirectory;
  readonly #registrar: StreamRegistrar;
  readonly #host: ContainerHost;
  readonly #clock: Clock;
  readonly #random: Random;

  constructor(directory: StreamDirectory, registrar: StreamRegistrar, host: ContainerHost, clock: Clock, random: Random) {
    this.#directory = directory;
    this.#registrar = registrar;
    this.#host = host;
    this.#clock = clock;
    this.#random = random;
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
        this.#directory.forget(name);
      }
    }
  }

  /** `segmentsAsked`: undefined leaves an existing stream whatever it has. */
  async #createOnce(
    name: StreamName,
    config: StreamConfig,
    segmentsAsked: number | undefined,
  ): Promise<{ created: boolean; info: StreamInfo }> {
    const id = newId(this.#random, STREAM_ID_BYTES);
    const outcome = await this.createWithId(name, id, config, this.#clock.nowMs());
    // A fresh id that was used before: then the random source went back (a restored machine), and the next id is another.
    if (outcome.type === "retired" || outcome.type === "id-taken") throw unknown(name);
    const container = await this.#registrar.ensure(outcome.entry);
    const info = describeEntry(outcome.entry, stateIn(container, outcome.entry));
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
    const container = containerOfStream(id, this.#host.count);
    const containers = new Array<number>(config.segments).fill(container);
    for (let round = 1; ; round++) {
      const outcome = await this.#directory.create(name, { id, ...config, containers, createdAtMs });
      if (outcome.type !== "deleting") return outcome;
      if (round === CREATE_ROUNDS_MAX) {
        throw new TributaryError("OVERLOADED", `'${formatStreamName(name)}' is created and deleted again and again`);
      }
      await this.#registrar.finishDelete(outcome.entry);
    }
  }

  async describe(name: StreamName): Promise<StreamInfo> {
    return this.#with(name, async (entry, container) => describeEntry(entry, stateIn(container, entry)));
  }

  async list(options: { scope?: string; after?: StreamName; limit: number }): Promise<StreamInfo[]> {
    const { scope, after, limit } = options;
    if (!Number.isSafeInteger(limit) || limit < 1) throw new TributaryError("INVALID_REQUEST", "limit must be a positive integer");
    const entries = await this.#directory.list(scope);
    const page = entries.filter((entry) => !after || compareNames(entry.name, after) > 0).slice(0, limit);
    // A stream that its container does not know yet is empty: registering it can wait for its first use.
    return page.map((entry) => describeEntry(entry, this.#host.get(containerOf(entry)).describe(entry.record.id) ?? emptyState(entry)));
  }

  async listScopes(): Promise<string[]> {
    return [...new Set((await this.#directory.list(undefined)).map((entry) => entry.name.scope))];
  }

  async delete(name: StreamName): Promise<void> {
    const deleting = await this.#directory.beginDelete(name);
    if (!deleting) throw unknown(name);
    await this.#registrar.finishDelete(deleting);
  }

  async append(name: StreamName, request: AppendRequest): Promise<AppendResult> {
    return this.#with(name, async (entry, container) => {
      const { id, contentType } = entry.record;
      if (request.contentType !== undefined && !sameContentType(request.contentType, contentType)) {
        const state = stateIn(container, entry);
        if (state.closed) throw closed(entry, state);
        throw new TributaryError("CONTENT_TYPE_MISMATCH", `'${formatStreamName(name)}' holds ${contentType}`, { contentType });
      }
      const result = await container.append(id, request).catch((error: unknown) => {
        throw hasCode(error, "STREAM_CLOSED") ? closed(entry, stateIn(container, entry)) : error;
      });
      return {
        duplicate: result.duplicate,
        nextOffset: formatOffset(id, result.nextChain),
        closed: result.closed,
        ...(result.producerSeq === undefined ? {} : { producerSeq: result.producerSeq }),
      };
    });
  }

  async read(name: StreamName, request: ReadRequest): Promise<ReadPage> {
    return this.#with(name, async (entry, container) => {
      const { id, contentType } = entry.record;
      const from = chainOf(id, request.offset, stateIn(container, entry));
      const page =
        request.offset === OFFSET_NOW
          ? { events: [], nextChain: from }
          : await container.read(id, from, {
              eventsMax: clamp(request.eventsMax, LIMITS.readPageEventsMax),
              bytesMax: clamp(request.bytesMax, LIMITS.readPageBytesMax),
            });
      const after = stateIn(container, entry);
      const upToDate = page.nextChain >= after.nextChain;
      return {
        events: page.events,
        nextOffset: formatOffset(id, page.nextChain),
        upToDate,
        closed: upToDate && after.closed,
        contentType,
      };
    });
  }

  async waitForData(name: StreamName, offset: string, options: { timeoutMs: number; signal: AbortSignal }): Promise<void> {
    await this.#with(name, async (entry, container) => {
      const { id } = entry.record;
      const chain = chainOf(id, offset, stateIn(container, entry));
      const stop = new AbortController();
      const abort = () => stop.abort();
      const sources = [options.signal, this.#host.ended(container.id)];
      for (const source of sources) {
        if (source.aborted) abort();
        source.addEventListener("abort", abort);
      }
      const cancelTimer = this.#clock.setTimer(options.timeoutMs, abort);
      try {
        await container.waitForData(id, chain, stop.signal);
      } finally {
        cancelTimer();
        for (const source of sources) source.removeEventListener("abort", abort);
      }
    });
  }

  /**
   * Runs an operation on an open stream and its container. If it turns out that the stream is gone, what was cached of the name
   * may be old: then once more with what the directory says now.
   */
  async #with<T>(name: StreamName, operation: (entry: StreamEntry, container: Container) => Promise<T>): Promise<T> {
    const entry = await this.#open(name);
    try {
      return await operation(entry, await this.#registrar.ensure(entry));
    } catch (error) {
      if (!hasCode(error, "STREAM_UNKNOWN", "STREAM_GONE")) throw error;
      this.#directory.forget(name);
      const again = await this.#open(name);
      if (again.record.id === entry.record.id) throw unknown(name);
      return await operation(again, await this.#registrar.ensure(again));
    }
  }

  async #open(name: StreamName): Promise<StreamEntry> {
    const entry = await this.#directory.find(name);
    if (entry?.record.state !== "open") throw unknown(name);
    return entry;
  }
}

function unknown(name: StreamName): TributaryError {
  return new TributaryError("STREAM_UNKNOWN", `there is no stream '${formatStreamName(name)}'`);
}

function closed(entry: StreamEntry, state: ContainerStreamState): TributaryError {
  const nextOffset = formatOffset(entry.record.id, state.nextChain);
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

/** @throws STREAM_UNKNOWN when the container has forgotten the stream meanwhile */
function stateIn(container: Container, entry: StreamEntry): ContainerStreamState {
  const state = container.describe(entry.record.id);
  if (!state) throw unknown(entry.name);
  return state;
}

function emptyState(entry: StreamEntry): ContainerStreamState {
  const segmentLengths = initialSegments(entry.record.segments).map(({ id }) => ({ segment: id, length: 0 }));
  return { firstChain: 0, nextChain: 0, closed: entry.record.closed, segmentLengths };
}

function describeEntry(entry: StreamEntry, state: ContainerStreamState): StreamInfo {
  const { id, contentType, segments, createdAtMs } = entry.record;
  const lengths = new Map(state.segmentLengths.map(({ segment, length }) => [formatSegmentId(segment), length]));
  return {
    name: entry.name,
    id,
    contentType,
    segments: initialSegments(segments).map(({ id: segment, range }) => {
      const text = formatSegmentId(segment);
      return { id: text, range, length: lengths.get(text) ?? 0 };
    }),
    createdAtMs,
    closed: state.closed,
    firstOffset: formatOffset(id, state.firstChain),
    nextOffset: formatOffset(id, state.nextChain),
    events: state.nextChain - state.firstChain,
  };
}

/** @throws OFFSET_INVALID, OFFSET_FOREIGN, OFFSET_GONE, OFFSET_UNKNOWN */
function chainOf(id: Id, offset: string, state: ContainerStreamState): number {
  if (offset === OFFSET_BEGIN) return state.firstChain;
  if (offset === OFFSET_NOW) return state.nextChain;
  const chain = parseOffset(id, offset);
  if (chain > state.nextChain) {
    const nextOffset = formatOffset(id, state.nextChain);
    throw new TributaryError("OFFSET_UNKNOWN", `the stream ends at ${nextOffset}`, { nextOffset });
  }
  if (chain < state.firstChain) {
    const firstOffset = formatOffset(id, state.firstChain);
    throw new TributaryError("OFFSET_GONE", `the stream begins at ${firstOffset} now`, { firstOffset });
  }
  return chain;
}

function clamp(asked: number, max: number): number {
  if (!(asked >= 1)) throw new TributaryError("INVALID_REQUEST", "the bounds of a page must be positive");
  return Math.min(Math.floor(asked), max);
}
