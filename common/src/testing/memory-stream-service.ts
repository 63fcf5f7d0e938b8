import type { Clock } from "../clock.ts";
import { sleep } from "../clock.ts";
import { sameContentType } from "../content-type.ts";
import { TributaryError } from "../errors.ts";
import type { GapReason } from "../format/block.ts";
import { evenKeyRanges, evenRangeIndex, keyHash } from "../key-hash.ts";
import { formatStreamName, type Id, newId, type StreamName } from "../names.ts";
import type { Random } from "../random.ts";
import type {
  AppendRequest,
  AppendResult,
  CreateOptions,
  EventPack,
  ProducerToken,
  ReadEvent,
  ReadLevel,
  ReadPage,
  ReadRequest,
  StreamInfo,
  StreamService,
  WaitOptions,
} from "../stream-service.ts";

/**
 * A StreamService in memory, for tests of what stands on one. It keeps the whole contract (segments, producers, closing, sequences,
 * offsets that sort), and lets a test take away the oldest events and put in gap records, as retention and quotas do.
 *
 *   Offset => streamId(8 hex) "_" index(16 digits)    the number of events before it
 */
export class MemoryStreamService implements StreamService {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #writer: Id;
  readonly #incarnation: Id;
  readonly #streams = new Map<string, MemoryStream>();

  constructor(clock: Clock, random: Random) {
    this.#clock = clock;
    this.#random = random;
    this.#writer = newId(random, 16);
    this.#incarnation = newId(random, 8);
  }

  async create(name: StreamName, options: CreateOptions): Promise<{ created: boolean; info: StreamInfo }> {
    const wanted = {
      contentType: options.contentType ?? "application/octet-stream",
      segments: options.segments ?? 1,
      closed: options.closed ?? false,
    };
    const found = this.#streams.get(formatStreamName(name));
    if (found) {
      const same =
        sameContentType(found.contentType, wanted.contentType) &&
        (options.segments === undefined || found.lengths.length === wanted.segments) &&
        found.closed === wanted.closed;
      if (!same) throw new TributaryError("STREAM_EXISTS", `${formatStreamName(name)} exists with another configuration`);
      return { created: false, info: describe(found) };
    }
    const stream: MemoryStream = {
      name,
      id: newId(this.#random, 16),
      contentType: wanted.contentType,
      createdAtMs: this.#clock.nowMs(),
      lengths: new Array<number>(wanted.segments).fill(0),
      producers: new Map(),
      waiters: new Set(),
      tierWaiters: new Set(),
      tiered: { end: 0, closed: false },
      events: [],
      dropped: 0,
      closed: wanted.closed,
      closedBy: undefined,
      streamSeq: undefined,
    };
    this.#streams.set(formatStreamName(name), stream);
    return { created: true, info: describe(stream) };
  }

  async describe(name: StreamName): Promise<StreamInfo> {
    return describe(this.#stream(name));
  }

  async list({ scope, after, limit }: { scope?: string; after?: StreamName; limit: number }): Promise<StreamInfo[]> {
    const order = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
    return [...this.#streams.values()]
      .filter(({ name }) => scope === undefined || name.scope === scope)
      .filter(({ name }) => after === undefined || order(formatStreamName(name), formatStreamName(after)) > 0)
      .sort((a, b) => order(formatStreamName(a.name), formatStreamName(b.name)))
      .slice(0, limit)
      .map(describe);
  }

  async listScopes(): Promise<string[]> {
    return [...new Set([...this.#streams.values()].map(({ name }) => name.scope))].sort();
  }

  async delete(name: StreamName): Promise<void> {
    const stream = this.#stream(name);
    this.#streams.delete(formatStreamName(name));
    wake(stream);
  }

  async append(name: StreamName, request: AppendRequest): Promise<AppendResult> {
    const stream = this.#stream(name);
    const { producer } = request;
    const verdict = producer ? checkProducer(stream, producer) : "new";
    const result = (duplicate: boolean): AppendResult => ({
      duplicate,
      nextOffset: offsetAt(stream, end(stream)),
      closed: stream.closed,
      ...(producer && { producerSeq: stream.producers.get(producer.id)?.seq ?? producer.seq }),
    });
    if (stream.closed) {
      const closing = producer !== undefined && stream.closedBy === tokenText(producer);
      const emptyClose = request.events === undefined && producer === undefined;
      if (closing || emptyClose) return result(true);
      throw new TributaryError("STREAM_CLOSED", "the stream is closed", { nextOffset: offsetAt(stream, end(stream)) });
    }
    if (request.contentType !== undefined && !sameContentType(request.contentType, stream.contentType)) {
      throw new TributaryError("CONTENT_TYPE_MISMATCH", `the stream holds ${stream.contentType}`);
    }
    if (verdict === "duplicate") return result(true);
    if (request.streamSeq !== undefined) {
      if (stream.streamSeq !== undefined && request.streamSeq <= stream.streamSeq) {
        throw new TributaryError("SEQUENCE_CONFLICT", `Stream-Seq is not behind '${stream.streamSeq}'`);
      }
      stream.streamSeq = request.streamSeq;
    }
    if (producer) stream.producers.set(producer.id, { epoch: producer.epoch, seq: producer.seq });
    if (request.events) this.#store(stream, request.events);
    if (request.close) {
      stream.closed = true;
      stream.closedBy = producer && tokenText(producer);
    }
    wake(stream);
    return result(false);
  }

  async read(name: StreamName, request: ReadRequest): Promise<ReadPage> {
    const stream = this.#stream(name);
    const { level } = request;
    let at = request.offset === "now" ? end(stream, level) : parseOffset(stream, request.offset);
    const events: ReadEvent[] = [];
    let bytes = 0;
    while (at < end(stream, level) && events.length < request.eventsMax) {
      const event = stream.events[at - stream.dropped] as ReadEvent;
      if (events.length > 0 && bytes + event.data.length > request.bytesMax) break;
      bytes += event.data.length;
      events.push(event);
      at++;
    }
    const upToDate = at >= end(stream, level);
    const closed = upToDate && isClosed(stream, level);
    return { events, nextOffset: offsetAt(stream, at), upToDate, closed, contentType: stream.contentType };
  }

  async waitForData(name: StreamName, offset: string, options: WaitOptions): Promise<void> {
    const stream = this.#stream(name);
    if (parseOffset(stream, offset) < end(stream, options.level) || isClosed(stream, options.level)) return;
    const woken = new AbortController();
    const stop = () => woken.abort();
    const waiters = options.level === "tiered" ? stream.tierWaiters : stream.waiters;
    waiters.add(stop);
    options.signal.addEventListener("abort", stop, { once: true });
    if (options.signal.aborted) stop();
    await sleep(this.#clock, options.timeoutMs, woken.signal);
    waiters.delete(stop);
    options.signal.removeEventListener("abort", stop);
  }

  /** Readers at level tiered see what is there now. */
  tier(name: StreamName): void {
    const stream = this.#stream(name);
    stream.tiered = { end: end(stream), closed: stream.closed };
    for (const waiter of [...stream.tierWaiters]) waiter();
  }

  /** Readers that wait at the end of a stream. */
  waiting(name: StreamName): number {
    const { waiters, tierWaiters } = this.#stream(name);
    return waiters.size + tierWaiters.size;
  }

  /** Takes away the oldest events, as retention does: offsets before them are gone. */
  dropOldest(name: StreamName, count: number): void {
    const stream = this.#stream(name);
    stream.dropped += stream.events.splice(0, count).length;
  }

  /** Puts in a gap record for `count` lost events. */
  insertGap(name: StreamName, count: number, reason: GapReason): void {
    const stream = this.#stream(name);
    const number = end(stream) + count;
    stream.events.push({
      ...this.#envelope(stream, "", 0, undefined),
      number,
      data: EMPTY,
      gap: { first: end(stream) + 1, count, reason },
    });
    wake(stream);
  }

  #stream(name: StreamName): MemoryStream {
    const stream = this.#streams.get(formatStreamName(name));
    if (!stream) throw new TributaryError("STREAM_UNKNOWN", `there is no stream ${formatStreamName(name)}`);
    return stream;
  }

  #envelope(stream: MemoryStream, key: string, segment: number, timeMs: number | undefined): Omit<ReadEvent, "data"> {
    const ordinal = stream.lengths[segment] as number;
    stream.lengths[segment] = ordinal + 1;
    return {
      key,
      timeMs: timeMs ?? this.#clock.nowMs(),
      segment: `0.0.${segment}`,
      ordinal,
      writer: this.#writer,
      incarnation: this.#incarnation,
      lane: "live",
      number: end(stream) + 1,
    };
  }

  #store(stream: MemoryStream, pack: EventPack): void {
    // The caller may use its buffer again.
    const payload = Uint8Array.from(pack.payload);
    let start = 0;
    for (let i = 0; i < pack.count; i++) {
      const key = typeof pack.keys === "object" ? (pack.keys[i] as string) : (pack.keys ?? "");
      const timeMs = typeof pack.timesMs === "object" ? pack.timesMs[i] : pack.timesMs;
      const segment = evenRangeIndex(keyHash(key), stream.lengths.length);
      const stop = pack.ends[i] as number;
      stream.events.push({ ...this.#envelope(stream, key, segment, timeMs), data: payload.subarray(start, stop) });
      start = stop;
    }
  }
}

interface MemoryStream {
  readonly name: StreamName;
  readonly id: Id;
  readonly contentType: string;
  readonly createdAtMs: number;
  /** Next ordinal of each segment. */
  readonly lengths: number[];
  readonly producers: Map<string, { readonly epoch: number; readonly seq: number }>;
  readonly waiters: Set<() => void>;
  /** Those at level tiered. */
  readonly tierWaiters: Set<() => void>;
  tiered: { readonly end: number; readonly closed: boolean };
  readonly events: ReadEvent[];
  dropped: number;
  closed: boolean;
  closedBy: string | undefined;
  streamSeq: string | undefined;
}

const EMPTY = new Uint8Array(0);

const end = (stream: MemoryStream, level?: ReadLevel | undefined): number =>
  level === "tiered" ? stream.tiered.end : stream.dropped + stream.events.length;
const isClosed = (stream: MemoryStream, level?: ReadLevel | undefined): boolean =>
  level === "tiered" ? stream.tiered.closed : stream.closed;
const offsetAt = (stream: MemoryStream, index: number): string => `${stream.id.slice(0, 8)}_${String(index).padStart(16, "0")}`;
const tokenText = ({ id, epoch, seq }: ProducerToken): string => `${epoch}:${seq}:${id}`;

function wake(stream: MemoryStream): void {
  for (const waiter of [...stream.waiters]) waiter();
}

function parseOffset(stream: MemoryStream, offset: string): number {
  if (offset === "-1") return stream.dropped;
  if (offset === "now") return end(stream);
  const match = /^([0-9a-f]{8})_(\d{16})$/.exec(offset);
  if (!match) throw new TributaryError("OFFSET_INVALID", `'${offset}' is not an offset`);
  if (match[1] !== stream.id.slice(0, 8)) throw new TributaryError("OFFSET_FOREIGN", "the offset belongs to another stream");
  const index = Number(match[2]);
  if (index < stream.dropped) throw new TributaryError("OFFSET_GONE", "the events at this offset are gone");
  if (index > end(stream)) {
    throw new TributaryError("OFFSET_UNKNOWN", "the offset lies behind the end", { nextOffset: offsetAt(stream, end(stream)) });
  }
  return index;
}

function checkProducer(stream: MemoryStream, { id, epoch, seq }: ProducerToken): "new" | "duplicate" {
  const known = stream.producers.get(id);
  if (known && epoch < known.epoch) {
    throw new TributaryError("PRODUCER_EPOCH_STALE", `the epoch is ${known.epoch}`, { producerEpoch: known.epoch });
  }
  if (known && epoch === known.epoch && seq <= known.seq) return "duplicate";
  const expected = known && epoch === known.epoch ? known.seq + 1 : 0;
  if (seq === expected) return "new";
  if (known && epoch > known.epoch) throw new TributaryError("PRODUCER_HEADERS_INVALID", "a new epoch begins with sequence 0");
  throw new TributaryError("PRODUCER_SEQUENCE_GAP", `expected sequence ${expected}`, { expectedSeq: expected, receivedSeq: seq });
}

function describe(stream: MemoryStream): StreamInfo {
  const ranges = evenKeyRanges(stream.lengths.length);
  return {
    name: stream.name,
    id: stream.id,
    contentType: stream.contentType,
    segments: ranges.map((range, i) => ({ id: `0.0.${i}`, range, length: stream.lengths[i] as number })),
    createdAtMs: stream.createdAtMs,
    closed: stream.closed,
    firstOffset: offsetAt(stream, stream.dropped),
    nextOffset: offsetAt(stream, end(stream)),
    events: stream.events.length,
  };
}
