import { TributaryError } from "@tributary/common/errors";
import { type Block, openChunk } from "@tributary/common/format/block";
import { payloadOf } from "@tributary/common/format/event-columns";
import { formatSegmentId, type Id } from "@tributary/common/names";
import type { AppendRequest, ReadEvent } from "@tributary/common/stream-service";
import { type AppendAnswer, type LevelsAnswer, type LevelsRequest, SLICE_STATUS } from "@tributary/common/uplink-protocol";
import type {
  Container,
  ContainerAppendResult,
  ContainerPage,
  ContainerStatus,
  ContainerStream,
  ContainerStreamState,
  StreamEnd,
} from "../../container/container.ts";

interface FakeStream {
  readonly stream: ContainerStream;
  readonly events: ReadEvent[];
  closed: boolean;
  firstChain: number;
}

/** What outlives an instance: stands for the log. */
export class FakeWal {
  readonly streams: Map<Id, FakeStream> = new Map();
  /** Every stream id that was ever registered, once for each registration. */
  readonly registered: Id[] = [];
  readonly numbers: Map<string, number> = new Map();
  epoch = 0;
}

/** Keeps events in lists; knows nothing of frames, tiers and forks. */
export class FakeContainer implements Container {
  readonly id: number;
  readonly #wal: FakeWal;
  readonly #epoch: number;
  readonly #failed: ((error: TributaryError) => void)[] = [];
  #tiered: ((container: number) => void)[] = [];
  #waiters = new Set<() => void>();
  #serving = false;

  constructor(id: number, epoch: number, wal: FakeWal) {
    this.id = id;
    this.#epoch = epoch;
    this.#wal = wal;
  }

  async open(): Promise<void> {
    if (this.#epoch <= this.#wal.epoch) throw new TributaryError("LOG_SEQUENCE_MISMATCH", "fenced");
    this.#wal.epoch = this.#epoch;
    this.#serving = true;
  }
  async ensureStream(stream: ContainerStream): Promise<void> {
    this.#check();
    await Promise.resolve();
    if (this.#wal.streams.has(stream.id)) return;
    this.#wal.registered.push(stream.id);
    this.#wal.streams.set(stream.id, { stream, events: [], closed: stream.closed, firstChain: 0 });
  }
  knowsStream(streamId: Id): boolean {
    return this.#wal.streams.has(streamId);
  }
  registrations(): { streams: ContainerStream[]; deleted: Id[] } {
    return { streams: Array.from(this.#wal.streams.values(), ({ stream }) => stream), deleted: [] };
  }
  async appendBlock(block: Block): Promise<AppendAnswer> {
    this.#check();
    const slices = block.slices.map((slice): [AppendAnswer["slices"][number][0], number] => {
      const stream = this.#wal.streams.get(slice.streamId);
      if (!stream) return [SLICE_STATUS.streamGone, 0];
      const chain = `${slice.streamId}/${formatSegmentId(slice.segment)}/${block.incarnation}/${block.lane}`;
      const last = this.#wal.numbers.get(chain) ?? 0;
      if (slice.previous > last) return [SLICE_STATUS.previousNotReached, last];
      if (slice.kind !== "events" || slice.last <= last) return [SLICE_STATUS.accepted, 0];
      const columns = openChunk(block, slice.chunk);
      for (let row = slice.start; row < slice.start + slice.count; row++) {
        stream.events.push({
          key: columns.keys[columns.keyIndex[row] as number] as string,
          timeMs: columns.timeMs[row] as number,
          segment: formatSegmentId(slice.segment),
          ordinal: stream.events.length,
          writer: block.writer,
          incarnation: block.incarnation,
          lane: block.lane,
          number: columns.number[row] as number,
          data: payloadOf(columns, row),
        });
      }
      this.#wal.numbers.set(chain, slice.last);
      return [SLICE_STATUS.accepted, 0];
    });
    this.#wake();
    return { slices };
  }
  async append(streamId: Id, request: AppendRequest): Promise<ContainerAppendResult> {
    this.#check();
    const stream = this.#stream(streamId);
    if (stream.closed) throw new TributaryError("STREAM_CLOSED", streamId);
    let start = 0;
    for (let i = 0; i < (request.events?.count ?? 0); i++) {
      const end = request.events?.ends[i] ?? 0;
      stream.events.push({
        key: "",
        timeMs: 0,
        segment: "0.0.0",
        ordinal: stream.events.length,
        writer: "00",
        incarnation: "00",
        lane: "live",
        number: stream.events.length + 1,
        data: request.events?.payload.slice(start, end) ?? new Uint8Array(0),
      });
      start = end;
    }
    if (request.close) stream.closed = true;
    this.#wake();
    return { duplicate: false, nextChain: stream.events.length, ancestry: [], closed: stream.closed };
  }
  levels(request: LevelsRequest): LevelsAnswer {
    return {
      entries: request.entries.map((entry) => {
        const chain = `${entry.streamId}/${formatSegmentId(entry.segment)}/${entry.incarnation}/${entry.lane}`;
        return [this.#wal.numbers.get(chain) ?? 0, 0];
      }),
    };
  }
  async read(streamId: Id, fromChain: number, bounds: { eventsMax: number }): Promise<ContainerPage> {
    const events = this.#stream(streamId).events.slice(fromChain, fromChain + bounds.eventsMax);
    return { events, nextChain: fromChain + events.length };
  }
  async waitForData(streamId: Id, chain: number, signal: AbortSignal): Promise<void> {
    const done = () => {
      const stream = this.#wal.streams.get(streamId);
      return signal.aborted || !stream || stream.closed || stream.events.length > chain;
    };
    while (!done()) {
      await new Promise<void>((resolve) => {
        this.#waiters.add(resolve);
        signal.addEventListener("abort", () => resolve(), { once: true });
      });
    }
  }
  describe(streamId: Id): ContainerStreamState | undefined {
    const stream = this.#wal.streams.get(streamId);
    return (
      stream && {
        firstChain: stream.firstChain,
        nextChain: stream.events.length,
        closed: stream.closed,
        nonces: [],
        segmentLengths: stream.stream.segments.map((segment) => ({
          segment,
          length: stream.events.filter((event) => event.segment === formatSegmentId(segment)).length,
        })),
      }
    );
  }
  endOf(streamId: Id): StreamEnd | undefined {
    const stream = this.#wal.streams.get(streamId);
    return stream && { chain: stream.events.length, closed: stream.closed };
  }
  async deleteStream(streamId: Id): Promise<void> {
    this.#check();
    this.#wal.streams.delete(streamId);
    this.#wake();
  }
  status(): ContainerStatus {
    const eventsDurable = [...this.#wal.streams.values()].reduce((sum, stream) => sum + stream.events.length, 0);
    const nothing = {
      attempt: 1,
      walFirst: 1,
      walLast: 0,
      eventsTiered: 0,
      bytesInMemory: 0,
      bytesTiered: 0,
      lastReplayMs: 0,
      logProblem: "",
      tierProblem: undefined,
      generation: 0,
      wentBack: undefined,
    };
    return { ...nothing, container: this.id, epoch: this.#epoch, eventsDurable };
  }
  onTiered(listener: (container: number) => void): () => void {
    this.#tiered.push(listener);
    return () => {};
  }
  onFailed(listener: (error: TributaryError) => void): () => void {
    this.#failed.push(listener);
    return () => {};
  }
  async close(): Promise<void> {
    this.#serving = false;
    this.#wake();
  }

  flush(): void {
    for (const listener of this.#tiered) listener(this.id);
  }
  fail(code: "LOG_SEQUENCE_MISMATCH" | "LOG_RESULT_UNKNOWN"): void {
    this.#serving = false;
    for (const listener of this.#failed) listener(new TributaryError(code, "failed by the test"));
  }

  #check(): void {
    if (!this.#serving || this.#epoch < this.#wal.epoch) throw new TributaryError("CONTAINER_NOT_OWNED", "not serving");
  }
  #stream(streamId: Id): FakeStream {
    const stream = this.#wal.streams.get(streamId);
    if (!stream) throw new TributaryError("STREAM_UNKNOWN", streamId);
    return stream;
  }
  #wake(): void {
    for (const wake of this.#waiters) wake();
    this.#waiters.clear();
  }
}
