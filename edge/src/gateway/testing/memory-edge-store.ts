import { TributaryError } from "@tributary/common/errors";
import { encodeBlock } from "@tributary/common/format/block";
import { payloadOf } from "@tributary/common/format/event-columns";
import { evenRangeIndex, keyHash } from "@tributary/common/key-hash";
import { type Id, INCARNATION_BYTES, newId, WRITER_ID_BYTES } from "@tributary/common/names";
import type { Random } from "@tributary/common/random";
import { applyChange, type EdgeState, emptyEdgeState, restoreEdgeState, snapshotEdgeState } from "../../store/edge-state.ts";
import type {
  CommitBatch,
  CommitResult,
  DropReport,
  EdgeStore,
  EdgeUsage,
  FreeReport,
  LocalEvent,
  LocalPage,
  OpenedEdge,
  UplinkUnit,
} from "../../store/edge-store.ts";

interface HeldEvent extends LocalEvent {
  readonly streamId: Id;
}

type Unit = { readonly number: number; readonly events: readonly HeldEvent[]; readonly unit: UplinkUnit };

/** An EdgeStore in memory that keeps its contract, and whose commits happen, wait or fail as a test says. */
export class MemoryEdgeStore implements EdgeStore {
  readonly writer: Id;
  /** Commits wait for `release` while true. */
  held = false;
  /** The next commit fails with this, and those behind it until `reopen`. */
  failNext: TributaryError | undefined;
  /** `reopen` fails with this while it is set. */
  reopenError: TributaryError | undefined;
  diskBytes = 0;
  /** Bytes that a commit takes on the disk for each payload byte. */
  bytesPerByte = 1;
  commits: CommitBatch[] = [];
  reopens = 0;
  readonly #random: Random;
  #incarnation: Id = "";
  #parent: Id | undefined;
  #state: EdgeState = emptyEdgeState();
  #events: HeldEvent[] = [];
  #failed = false;
  #tail: Promise<unknown> = Promise.resolve();
  #waiting: (() => void)[] = [];
  #sendAt = 0;
  #units: Unit[] = [];
  #nextUnit = 1;
  /** Highest number sent in (core stream, segment, incarnation). */
  #previous = new Map<string, number>();
  #freedPrevious = new Map<string, number>();

  constructor(random: Random) {
    this.#random = random;
    this.writer = newId(random, WRITER_ID_BYTES);
  }

  /** Commits that wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  get eventsHeld(): number {
    return this.#events.length;
  }

  release(count: number = this.#waiting.length): void {
    for (const go of this.#waiting.splice(0, count)) go();
  }

  async open(): Promise<OpenedEdge> {
    this.#parent = this.#incarnation || undefined;
    this.#incarnation = newId(this.#random, INCARNATION_BYTES);
    return this.#opened();
  }

  commit(batch: CommitBatch): Promise<CommitResult> {
    const released = this.held ? new Promise<void>((resolve) => this.#waiting.push(resolve)) : undefined;
    // Carried out in the order of the calls.
    const result = this.#tail.then(async () => {
      await released;
      return this.#commit(batch);
    });
    this.#tail = result.catch(() => {});
    return result;
  }

  async #commit(batch: CommitBatch): Promise<CommitResult> {
    if (this.#failed) throw new TributaryError("LOG_CLOSED", "a commit failed before");
    if (this.failNext) {
      const error = this.failNext;
      this.failNext = undefined;
      this.#failed = true;
      throw error;
    }
    this.commits.push(batch);
    for (const change of batch.changes) applyChange(this.#state, change);
    const { columns } = batch;
    for (let row = 0; row < columns.count; row++) {
      const streamId = batch.streamIds[batch.streamIndex[row] as number] as Id;
      const stream = this.#state.streams.get(streamId);
      if (!stream) throw new Error("an event of an unknown stream");
      this.#events.push({
        streamId,
        ordinal: stream.nextOrdinal++,
        key: columns.keys[columns.keyIndex[row] as number] as string,
        timeMs: columns.timeMs[row] as number,
        incarnation: this.#incarnation,
        lane: batch.lane,
        number: columns.number[row] as number,
        data: payloadOf(columns, row).slice(),
      });
    }
    const storedBytes = columns.payload.length * this.bytesPerByte;
    this.diskBytes += storedBytes;
    return { seq: this.commits.length, storedBytes, usage: await this.usage() };
  }

  async reopen(): Promise<OpenedEdge> {
    if (this.reopenError) throw this.reopenError;
    this.reopens++;
    this.#failed = false;
    return this.open();
  }

  async uplinkNext(bytesMax: number): Promise<UplinkUnit[]> {
    const events: HeldEvent[] = [];
    let bytes = 0;
    for (let at = this.#sendAt; at < this.#events.length && bytes < bytesMax; at++) {
      const event = this.#events[at] as HeldEvent;
      if (!this.#state.streams.get(event.streamId)?.mapping) break;
      if (events[0] && events[0].incarnation !== event.incarnation) break;
      events.push(event);
      bytes += event.data.length;
    }
    if (events.length === 0) return [];
    this.#sendAt += events.length;
    const unit = this.#toUnit(events);
    this.#units.push({ number: unit.unit, events, unit });
    return [unit];
  }

  async uplinkRewind(): Promise<void> {
    this.#sendAt = 0;
    this.#units = [];
    this.#previous = new Map(this.#freedPrevious);
  }

  async uplinkFree(throughUnit: number): Promise<FreeReport> {
    let freed = 0;
    while (this.#units[0] && this.#units[0].number <= throughUnit) {
      const { events, unit } = this.#units.shift() as Unit;
      this.#events.splice(0, events.length);
      freed += events.length;
      this.#sendAt -= events.length;
      for (const { needs } of unit.blocks) for (const need of needs) this.#freedPrevious.set(previousKey(need), need.last);
      for (const event of events) this.diskBytes -= event.data.length * this.bytesPerByte;
    }
    return { events: freed, firstOrdinals: [] };
  }

  async readLocal(streamId: Id, fromOrdinal: number, bounds: { eventsMax: number; bytesMax: number }): Promise<LocalPage> {
    const events = this.#events
      .filter((event) => event.streamId === streamId && event.ordinal >= fromOrdinal)
      .slice(0, bounds.eventsMax)
      .map(({ streamId: _, ...event }) => event);
    return { events, nextOrdinal: (events.at(-1)?.ordinal ?? fromOrdinal - 1) + 1 };
  }

  async dropOldest(bytesTarget: number): Promise<DropReport> {
    let eventsDropped = 0;
    let bytesFreed = 0;
    while (this.diskBytes > bytesTarget && this.#events.length > 0) {
      const event = this.#events.shift() as HeldEvent;
      eventsDropped++;
      const bytes = event.data.length * this.bytesPerByte;
      bytesFreed += bytes;
      this.diskBytes -= bytes;
    }
    return { eventsDropped, bytesFreed };
  }

  async usage(): Promise<EdgeUsage> {
    return {
      diskBytes: this.diskBytes,
      eventsHeld: this.#events.length,
      eventsUnsent: this.#events.length - this.#sendAt,
      eventsSkipped: 0,
      recordsQuarantined: 0,
    };
  }

  async close(): Promise<void> {}

  /** As when a stream is mapped to another one: the first slice there follows nothing. */
  forgetSent(streamId: Id): void {
    for (const key of [...this.#previous.keys()]) if (key.startsWith(streamId)) this.#previous.delete(key);
  }

  /** What is durable, folded afresh from the commits: what a restart would find. */
  durableEvents(): readonly HeldEvent[] {
    return this.#events;
  }

  #opened(): OpenedEdge {
    this.#state = restoreEdgeState(snapshotEdgeState(this.#state));
    return {
      writer: this.writer,
      incarnation: this.#incarnation,
      parent: this.#parent,
      state: snapshotEdgeState(this.#state),
      report: { recordsRead: this.commits.length, recordsQuarantined: 0, quarantinePath: "", tookMs: 0 },
    };
  }

  #toUnit(events: readonly HeldEvent[]): UplinkUnit {
    const columns = toColumns(events);
    const { incarnation, lane } = events[0] as HeldEvent;
    const containers = new Map<number, Map<string, { streamId: Id; segment: number; rows: number[] }>>();
    events.forEach((event, row) => {
      const mapping = this.#state.streams.get(event.streamId)?.mapping;
      if (!mapping) throw new Error("only mapped streams are sent");
      const segment = evenRangeIndex(keyHash(event.key), mapping.segments);
      const container = mapping.containers[segment] ?? 0;
      const slices = containers.get(container) ?? new Map();
      containers.set(container, slices);
      const slice = slices.get(`${mapping.id}/${segment}`) ?? { streamId: mapping.id, segment, rows: [] };
      slices.set(`${mapping.id}/${segment}`, slice);
      slice.rows.push(row);
    });
    const blocks = Array.from(containers, ([container, slices]) => {
      const needs: UplinkUnit["blocks"][number]["needs"][number][] = [];
      const inputs = Array.from(slices.values(), ({ streamId, segment: number, rows }) => {
        const segment = { generation: 0, epoch: 0, number };
        const last = columns.number[rows.at(-1) as number] as number;
        const need = { streamId, segment, incarnation, lane, last };
        const previous = this.#previous.get(previousKey(need)) ?? 0;
        this.#previous.set(previousKey(need), last);
        needs.push(need);
        return { kind: "events" as const, streamId, segment, previous, rows: Uint32Array.from(rows) };
      });
      return { container, bytes: encodeBlock({ writer: this.writer, incarnation, lane }, columns, inputs), needs };
    });
    return { unit: this.#nextUnit++, blocks, events: events.length, payloadBytes: columns.payload.length };
  }
}

function previousKey(need: { streamId: Id; segment: { number: number }; incarnation: Id }): string {
  return `${need.streamId}/${need.segment.number}/${need.incarnation}`;
}

function toColumns(events: readonly HeldEvent[]) {
  const keys = [...new Set(events.map((event) => event.key))];
  const payload = new Uint8Array(events.reduce((sum, event) => sum + event.data.length, 0));
  const starts = new Uint32Array(events.length);
  const ends = new Uint32Array(events.length);
  let at = 0;
  events.forEach((event, row) => {
    starts[row] = at;
    payload.set(event.data, at);
    at += event.data.length;
    ends[row] = at;
  });
  return {
    count: events.length,
    keys,
    keyIndex: Uint32Array.from(events, (event) => keys.indexOf(event.key)),
    timeMs: Float64Array.from(events, (event) => event.timeMs),
    number: Float64Array.from(events, (event) => event.number),
    starts,
    ends,
    payload,
  };
}
