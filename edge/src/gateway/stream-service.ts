import type { Clock } from "@tributary/common/clock";
import { canonicalContentType, sameContentType } from "@tributary/common/content-type";
import { TributaryError } from "@tributary/common/errors";
import { KEY_SPACE } from "@tributary/common/key-hash";
import { LIMITS } from "@tributary/common/limits";
import { formatStreamName, type Id, type StreamName } from "@tributary/common/names";
import type {
  AppendRequest,
  AppendResult,
  CreateOptions,
  EventPack,
  ReadLevel,
  ReadPage,
  ReadRequest,
  StreamInfo,
  StreamService,
  WaitOptions,
} from "@tributary/common/stream-service";
import type { EdgeStore, LocalPage } from "../store/edge-store.ts";
import { eraBefore } from "../store/local-eras.ts";
import { type AppendDecision, decideAppend } from "./append-decision.ts";
import type { CoreHistory } from "./core-history.ts";
import type { GroupCommit } from "./group-commit.ts";
import { admissionError } from "./ingest.ts";
import { branchOf, formatOffset, parseOffset } from "./offsets.ts";
import { PromisedAnswers } from "./promised-answers.ts";
import type { StreamState } from "./stream-table.ts";

const DEFAULT_CONTENT_TYPE = "application/octet-stream";
/** A gateway keeps a stream in one order of its own, whatever its segments at the core. */
const LOCAL_SEGMENT = "0.0.0";
/** How long an append waits for room in the open batch before it is refused, and how many may wait. */
const ROOM_WAIT_MS_MAX = 5_000;
const ROOM_WAITERS_MAX = 10_000;
const NO_EVENTS: EventPack = { count: 0, payload: new Uint8Array(0), ends: [], keys: undefined, timesMs: undefined };

export interface GatewayStreamServiceOptions {
  readonly ingest: GroupCommit;
  readonly store: Pick<EdgeStore, "readLocal">;
  readonly clock: Clock;
  /** Id of the log's writer. */
  readonly writer: () => Id;
  /** The store failed to read. */
  readonly storeFailed: (error: unknown) => void;
  /** undefined without a core. */
  readonly history: CoreHistory | undefined;
}

interface Waiter {
  readonly name: StreamName;
  readonly request: AppendRequest;
  readonly resolve: (result: Promise<AppendResult>) => void;
  readonly reject: (error: unknown) => void;
  readonly cancelTimer: () => void;
}

/**
 * The streams of one gateway: its own events, in the order in which it made them durable, under offsets of its own. Appends
 * are judged in the order of arrival against everything accepted before them; an answer that hangs on something not yet durable
 * waits for it (rule W3).
 */
export class GatewayStreamService implements StreamService {
  readonly #options: GatewayStreamServiceOptions;
  readonly #ingest: GroupCommit;
  readonly #answers = new PromisedAnswers();
  readonly #waiting: Waiter[] = [];
  #askedForRoom = false;

  constructor(options: GatewayStreamServiceOptions) {
    this.#options = options;
    this.#ingest = options.ingest;
  }

  async create(name: StreamName, options: CreateOptions): Promise<{ created: boolean; info: StreamInfo }> {
    const contentType = canonicalContentType(options.contentType ?? DEFAULT_CONTENT_TYPE);
    const segments = options.segments ?? 1;
    if (!Number.isInteger(segments) || segments < 1 || segments > LIMITS.segmentsPerStreamMax) {
      throw new TributaryError("INVALID_REQUEST", `a stream has 1 to ${LIMITS.segmentsPerStreamMax} segments`);
    }
    const closed = options.closed ?? false;
    const existing = this.#ingest.stream(name);
    if (existing) {
      const same =
        sameContentType(existing.contentType, contentType) &&
        (options.segments === undefined || existing.segments === segments) &&
        existing.closed === closed;
      await this.#untilDurable(existing);
      if (!same) {
        throw new TributaryError("STREAM_EXISTS", `${formatStreamName(name)} exists with another configuration`, {
          contentType: existing.contentType,
          segments: existing.segments,
          closed: existing.closed,
        });
      }
      return { created: false, info: this.#describe(existing) };
    }
    const stream = this.#ingest.createStream(name, { contentType, segments, closed });
    await this.#untilDurable(stream);
    return { created: true, info: this.#describe(stream) };
  }

  async describe(name: StreamName): Promise<StreamInfo> {
    const stream = this.#find(name);
    if (!stream.durable) await this.#untilDurable(stream);
    return this.#describe(stream);
  }

  async list(options: { scope?: string; after?: StreamName; limit: number }): Promise<StreamInfo[]> {
    const { scope, after, limit } = options;
    const found: StreamInfo[] = [];
    for (const stream of this.#ingest.table.sorted()) {
      if (found.length >= limit) break;
      if (!stream.durable || (scope !== undefined && stream.name.scope !== scope)) continue;
      if (after && (stream.name.scope < after.scope || (stream.name.scope === after.scope && stream.name.stream <= after.stream))) continue;
      found.push(this.#describe(stream));
    }
    return found;
  }

  async listScopes(): Promise<string[]> {
    const scopes = new Set<string>();
    for (const stream of this.#ingest.table.sorted()) if (stream.durable) scopes.add(stream.name.scope);
    return [...scopes];
  }

  async delete(name: StreamName): Promise<void> {
    const stream = this.#find(name);
    const { token, answered } = this.#answers.expect();
    const admission = this.#ingest.change({ type: "delete-stream", id: stream.id }, this.#answers, token);
    if (admission !== "accepted") {
      this.#answers.forget(token);
      throw this.#ingest.trouble ?? admissionError(admission);
    }
    await answered;
  }

  async append(name: StreamName, request: AppendRequest): Promise<AppendResult> {
    // Who comes while others wait for room stands behind them: requests of one producer keep their order.
    if (this.#waiting.length === 0) {
      const result = this.#attempt(name, request);
      if (result !== "full") return result;
    }
    if (this.#waiting.length >= ROOM_WAITERS_MAX) throw admissionError("full");
    return new Promise<AppendResult>((resolve, reject) => {
      const waiter: Waiter = {
        name,
        request,
        resolve,
        reject,
        cancelTimer: this.#options.clock.setTimer(ROOM_WAIT_MS_MAX, () => {
          this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
          reject(this.#ingest.trouble ?? admissionError("full"));
        }),
      };
      this.#waiting.push(waiter);
      this.#askForRoom();
    });
  }

  async read(name: StreamName, request: ReadRequest): Promise<ReadPage> {
    refuseLevel(request.level);
    const stream = this.#find(name);
    if (!stream.durable) await this.#untilDurable(stream);
    const from = this.#ordinalOf(stream, request.offset);
    if (from === stream.durableOrdinal) return this.#page(stream, { events: [], nextOrdinal: from });
    const bounds = {
      eventsMax: Math.min(request.eventsMax, LIMITS.readPageEventsMax),
      bytesMax: Math.min(request.bytesMax, LIMITS.readPageBytesMax),
    };
    const held = await this.#readLocal(stream.id, from, bounds);
    const firstHeld = held.events[0]?.ordinal ?? stream.durableOrdinal;
    if (firstHeld <= from) return this.#page(stream, held);
    const fetched = await this.#fetch(stream, from, firstHeld, bounds);
    const found = fetched?.events[0]?.ordinal;
    if (fetched && found === from) return this.#page(stream, fetched);
    // The beginning is where what can still be read begins; any other place was promised.
    if (request.offset === "-1" && fetched) return this.#page(stream, fetched);
    if (request.offset === "-1" && held.events.length > 0) return this.#page(stream, held);
    throw new TributaryError("OFFSET_GONE", "these events were handed to the core, which does not give them now", {
      firstHeldOffset: this.#offset(stream, found ?? firstHeld),
    });
  }

  async waitForData(name: StreamName, offset: string, options: WaitOptions): Promise<void> {
    refuseLevel(options.level);
    const stream = this.#find(name);
    const from = this.#ordinalOf(stream, offset);
    if (stream.durableOrdinal > from || stream.durableClosed || stream.gone || options.signal.aborted) return;
    await new Promise<void>((resolve) => {
      const finish = () => {
        cancelTimer();
        stream.waiters.delete(finish);
        options.signal.removeEventListener("abort", finish);
        resolve();
      };
      const cancelTimer = this.#options.clock.setTimer(options.timeoutMs, finish);
      stream.waiters.add(finish);
      options.signal.addEventListener("abort", finish, { once: true });
    });
  }

  /** Judges one append and hands it to the open batch; "full" if it has to wait for room. */
  #attempt(name: StreamName, request: AppendRequest): Promise<AppendResult> | "full" {
    const { events } = request;
    if ((events === undefined || events.count === 0) && !request.close)
      throw new TributaryError("PAYLOAD_EMPTY", "there is nothing to append");
    const stream = this.#find(name);
    const decision = decideAppend(stream, this.#ingest.table.producers(stream.id), request);
    if (decision.kind !== "append") return this.#answerWithout(stream, decision);
    const { token, answered } = this.#answers.expect();
    const admission = this.#ingest.appendPack(
      stream,
      events ?? NO_EVENTS,
      this.#options.clock.nowMs(),
      this.#answers,
      token,
      decision.changes,
    );
    if (admission !== "accepted") {
      this.#answers.forget(token);
      if (admission !== "full") throw admissionError(admission);
      if (this.#ingest.trouble) throw this.#ingest.trouble;
      return "full";
    }
    const nextOrdinal = stream.acceptedOrdinal;
    return answered.then(() => ({
      duplicate: false,
      nextOffset: this.#offset(stream, nextOrdinal),
      closed: request.close ?? false,
      ...(request.producer ? { producerSeq: request.producer.seq } : {}),
    }));
  }

  async #answerWithout(stream: StreamState, decision: Exclude<AppendDecision, { kind: "append" }>): Promise<AppendResult> {
    await this.#untilDurable(stream);
    const nextOffset = this.#offset(stream, stream.durableOrdinal);
    switch (decision.kind) {
      case "duplicate":
        return { duplicate: true, nextOffset, closed: stream.durableClosed, producerSeq: decision.producerSeq };
      case "closed-before":
        return { duplicate: false, nextOffset, closed: true };
      case "closed":
        throw new TributaryError("STREAM_CLOSED", "the stream is closed", { nextOffset });
      case "refused":
        throw decision.error;
    }
  }

  #askForRoom(): void {
    if (this.#askedForRoom) return;
    this.#askedForRoom = true;
    this.#ingest.onRoom(() => {
      this.#askedForRoom = false;
      this.#goOn();
    });
  }

  #goOn(): void {
    for (let waiter = this.#waiting[0]; waiter; waiter = this.#waiting[0]) {
      try {
        const result = this.#attempt(waiter.name, waiter.request);
        if (result === "full") {
          this.#askForRoom();
          return;
        }
        waiter.resolve(result);
      } catch (error) {
        waiter.reject(error);
      }
      this.#waiting.shift();
      waiter.cancelTimer();
    }
  }

  async #readLocal(streamId: Id, from: number, bounds: { eventsMax: number; bytesMax: number }): Promise<LocalPage> {
    try {
      return await this.#options.store.readLocal(streamId, from, bounds);
    } catch (error) {
      this.#options.storeFailed(error);
      throw error;
    }
  }

  async #fetch(
    stream: StreamState,
    from: number,
    end: number,
    bounds: { bytesMax: number; eventsMax: number },
  ): Promise<LocalPage | undefined> {
    try {
      const page = await this.#options.history?.read(stream, this.#options.writer(), from, end, bounds.bytesMax);
      const next = page?.events[bounds.eventsMax];
      return next ? { events: page.events.slice(0, bounds.eventsMax), nextOrdinal: next.ordinal } : page;
    } catch (error) {
      // An unreachable core is no news for a gateway; the reader learns that these events cannot be had now.
      if (error instanceof TributaryError) return undefined;
      throw error;
    }
  }

  #find(name: StreamName): StreamState {
    const stream = this.#ingest.stream(name);
    if (!stream) throw new TributaryError("STREAM_UNKNOWN", `there is no stream ${formatStreamName(name)}`);
    return stream;
  }

  /** Waits until everything known of the stream is durable. @throws what the commit failed with */
  async #untilDurable(stream: StreamState): Promise<void> {
    if (!this.#ingest.isPending(stream.changedInBatch)) return;
    const { token, answered } = this.#answers.expect();
    this.#ingest.barrier(this.#answers, token);
    await answered;
  }

  #offset(stream: StreamState, ordinal: number): string {
    return formatOffset({ ordinal, branch: this.#branch(stream, ordinal) }, stream.id, this.#options.writer());
  }

  #branch({ eras }: StreamState, ordinal: number): string {
    return branchOf(eraBefore(eras, ordinal)?.incarnation);
  }

  /**
   * The ordinal that an offset stands for. The log may be a copy of the one that gave it, or may have been set back since: then it is
   * good up to where the two part.
   * @throws OFFSET_INVALID, OFFSET_FOREIGN, OFFSET_UNKNOWN, OFFSET_GONE
   */
  #ordinalOf(stream: StreamState, text: string): number {
    const offset = parseOffset(text, stream.id, this.#options.writer());
    if (offset === "now") return stream.durableOrdinal;
    const { ordinal, branch } = offset;
    if (ordinal <= stream.durableOrdinal && branch === this.#branch(stream, ordinal)) return ordinal;
    const era = stream.eras.findLast(({ incarnation }) => branchOf(incarnation) === branch);
    if (!era && ordinal <= stream.durableOrdinal) {
      throw new TributaryError("OFFSET_GONE", "the offset comes from a past of this gateway that is lost, or from another copy of it");
    }
    const common = era ? Math.min(ordinal, era.ordinal + era.count) : stream.durableOrdinal;
    throw new TributaryError("OFFSET_UNKNOWN", "the offset lies beyond what this gateway still has of that past", {
      nextOffset: this.#offset(stream, common),
    });
  }

  #describe(stream: StreamState): StreamInfo {
    return {
      name: stream.name,
      id: stream.id,
      contentType: stream.contentType,
      segments: [{ id: LOCAL_SEGMENT, range: { from: 0, to: KEY_SPACE }, length: stream.durableOrdinal }],
      createdAtMs: stream.createdAtMs,
      closed: stream.durableClosed,
      firstOffset: this.#offset(stream, 0),
      nextOffset: this.#offset(stream, stream.durableOrdinal),
      events: stream.durableOrdinal,
    };
  }

  #page(stream: StreamState, local: LocalPage): ReadPage {
    const page = upTo(local, stream.durableOrdinal);
    const writer = this.#options.writer();
    const upToDate = page.nextOrdinal >= stream.durableOrdinal;
    return {
      events: page.events.map((event) => ({
        key: event.key,
        timeMs: event.timeMs,
        segment: LOCAL_SEGMENT,
        ordinal: event.ordinal,
        writer,
        incarnation: event.incarnation,
        lane: event.lane,
        number: event.number,
        data: event.data,
        ...(event.gap ? { gap: { first: event.gap.first, count: event.gap.count, reason: event.gap.reason } } : {}),
      })),
      nextOffset: this.#offset(stream, page.nextOrdinal),
      upToDate,
      closed: upToDate && stream.durableClosed,
      contentType: stream.contentType,
    };
  }
}

/** What is committed and what is tiered the core knows; here everything is read that is on this disk. @throws INVALID_REQUEST */
function refuseLevel(level: ReadLevel | undefined): void {
  if (level !== undefined) throw new TributaryError("INVALID_REQUEST", `a gateway cannot read at level ${level}; ask the core`);
}

/** The log may know a moment earlier than we do that something is durable. */
function upTo(page: LocalPage, end: number): LocalPage {
  if (page.nextOrdinal <= end) return page;
  const events = page.events.flatMap((event) => {
    if (event.ordinal >= end) return [];
    const { gap, ordinal } = event;
    if (!gap || ordinal + gap.count <= end) return [event];
    const count = end - ordinal;
    return [{ ...event, number: event.number - (gap.count - count), gap: { ...gap, count } }];
  });
  return { events, nextOrdinal: end };
}
