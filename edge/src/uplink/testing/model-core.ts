import { TributaryError } from "@tributary/common/errors";
import { type Block, decodeBlock, type EventSlice, openChunk, type Slice } from "@tributary/common/format/block";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { payloadOf } from "@tributary/common/format/event-columns";
import { formatSegmentId, formatStreamName, type Id } from "@tributary/common/names";
import type { Bus, Subscription } from "@tributary/common/ports/bus";
import {
  type AppendAnswer,
  type ControlRequest,
  type LevelsAnswer,
  type LevelsRequest,
  type MovedMessage,
  type ResolveAnswer,
  SLICE_STATUS,
  type SliceStatus,
  UPLINK_SUBJECTS,
} from "@tributary/common/uplink-protocol";

export interface ModelEvent {
  readonly stream: Id;
  readonly segment: string;
  readonly incarnation: Id;
  readonly number: number;
  readonly key: string;
  readonly text: string;
}

export interface ModelGap {
  readonly stream: Id;
  readonly incarnation: Id;
  readonly count: number;
  readonly reason: string;
}

interface ModelStream {
  readonly id: Id;
  readonly contentType: string;
  readonly segments: number;
}

const NOTHING = new Uint8Array(0);

/** A strict core in memory: takes only what continues a writer's chain, says what it has, and tiers when a test says so. */
export class ModelCore {
  readonly events: ModelEvent[] = [];
  readonly gaps: ModelGap[] = [];
  readonly streams: Map<string, ModelStream> = new Map();
  readonly deletedIds: Set<Id> = new Set();
  readonly closedIds: Set<Id> = new Set();
  readonly hellos: Id[] = [];
  /** Answers to the next appends, before anything is carried out. */
  readonly appendErrors: TributaryError[] = [];
  siblings: Id[] = [];
  appends = 0;
  /** Of these, how many came by the direct subject of an owner. */
  directAppends = 0;
  /** Streams of which it says that another gateway wrote different events. */
  readonly forkedIds: Set<Id> = new Set();
  readonly #bus: Bus;
  readonly #cluster: string;
  readonly #containers: number;
  /** Highest number by (stream, segment, incarnation): durable in the WAL, and in the tier. */
  readonly #committed = new Map<string, number>();
  readonly #tiered = new Map<string, number>();
  readonly #subscriptions: Subscription[] = [];
  /** By container: the epoch under which it is served, and the subscription of that owner. */
  readonly #epochs: number[];
  readonly #direct = new Map<number, Subscription>();
  readonly #stopped = Promise.withResolvers<void>();

  constructor(bus: Bus, cluster: string, containers: number) {
    this.#bus = bus;
    this.#cluster = cluster;
    this.#containers = containers;
    this.#epochs = new Array<number>(containers).fill(1);
  }

  async start(): Promise<void> {
    const { append, levels, control } = UPLINK_SUBJECTS;
    for (let container = 0; container < this.#containers; container++) {
      this.#subscriptions.push(
        await this.#bus.serve(append(this.#cluster, container), {}, async (payload) => encodeCbor(this.#append(container, payload))),
        await this.#bus.serve(levels(this.#cluster, container), {}, async (payload) => encodeCbor(this.#levels(container, payload))),
      );
      await this.#serveDirect(container);
    }
    this.#subscriptions.push(await this.#bus.serve(control(this.#cluster), {}, async (payload) => encodeCbor(this.#control(payload))));
  }

  async stop(): Promise<void> {
    this.#stopped.resolve();
    await Promise.all([...this.#subscriptions.splice(0), ...this.#direct.values()].map((subscription) => subscription.close()));
    this.#direct.clear();
  }

  epochOf(container: number): number {
    return this.#epochs[container] ?? 0;
  }

  /** Another owner takes the container; the one before is gone, or paused: then it still takes requests and never answers. */
  async move(container: number, { tell, paused }: { tell: boolean; paused: boolean }): Promise<void> {
    const before = this.#direct.get(container);
    if (before && paused) this.#subscriptions.push(before);
    else await before?.close();
    const epoch = this.epochOf(container) + 1;
    this.#epochs[container] = epoch;
    await this.#serveDirect(container);
    const moved: MovedMessage = { epoch };
    if (tell) this.#bus.publish(UPLINK_SUBJECTS.moved(this.#cluster, container), encodeCbor(moved));
  }

  async #serveDirect(container: number): Promise<void> {
    const epoch = this.epochOf(container);
    const subject = UPLINK_SUBJECTS.direct(this.#cluster, container, epoch, "*");
    const subscription = await this.#bus.serve(subject, {}, async (payload, on) => {
      if (epoch !== this.epochOf(container)) await this.#stopped.promise;
      if (on.endsWith(".levels")) return encodeCbor(this.#levels(container, payload));
      this.directAppends++;
      return encodeCbor(this.#append(container, payload));
    });
    this.#direct.set(container, subscription);
  }

  /** Everything committed is safe in the tier; says so only if `tell`. */
  flush(tell: boolean): void {
    for (const [key, number] of this.#committed) this.#tiered.set(key, number);
    if (tell) for (let i = 0; i < this.#containers; i++) this.#bus.publish(UPLINK_SUBJECTS.tiered(this.#cluster, i), NOTHING);
  }

  /** The WAL goes back to what is in the tier. */
  loseUntiered(): void {
    this.#committed.clear();
    for (const [key, number] of this.#tiered) this.#committed.set(key, number);
    const kept = this.events.filter(
      (event) => event.number <= (this.#tiered.get(keyOf(event.stream, event.segment, event.incarnation)) ?? 0),
    );
    this.events.splice(0, this.events.length, ...kept);
  }

  /** Deletes a stream, with all that is known of its writers. */
  delete(stream: string): void {
    const key = `default/${stream}`;
    const { id } = this.streams.get(key) as ModelStream;
    this.deletedIds.add(id);
    this.streams.delete(key);
    for (const numbers of [this.#committed, this.#tiered]) {
      for (const known of [...numbers.keys()]) if (known.startsWith(`${id}/`)) numbers.delete(known);
    }
  }

  textsOf(streamId: Id): string[] {
    return this.events.filter((event) => event.stream === streamId).map((event) => event.text);
  }

  #containerOf(streamId: Id): number {
    return Number.parseInt(streamId.slice(0, 6), 16) % this.#containers;
  }

  #append(container: number, payload: Uint8Array): AppendAnswer {
    this.appends++;
    const error = this.appendErrors.shift();
    if (error) throw error;
    const block = decodeBlock(payload);
    return { slices: block.slices.map((slice) => this.#decide(container, block, slice)), epoch: this.epochOf(container) };
  }

  #decide(container: number, block: Block, slice: Slice): readonly [SliceStatus, number] {
    if (this.forkedIds.has(slice.streamId)) return [SLICE_STATUS.forked, 0];
    if (this.deletedIds.has(slice.streamId)) return [SLICE_STATUS.streamGone, 0];
    if (this.#containerOf(slice.streamId) !== container) return [SLICE_STATUS.wrongContainer, 0];
    const segment = formatSegmentId(slice.segment);
    const key = keyOf(slice.streamId, segment, block.incarnation);
    const has = this.#committed.get(key) ?? 0;
    if (has === 0 && slice.parent) {
      const parentHas = this.#committed.get(keyOf(slice.streamId, segment, slice.parent.incarnation)) ?? 0;
      if (parentHas < slice.parent.last) return [SLICE_STATUS.parentNotReached, parentHas];
    }
    if (slice.previous > has) return [SLICE_STATUS.previousNotReached, has];
    if (slice.last > has && this.closedIds.has(slice.streamId)) return [SLICE_STATUS.sealed, has];
    if (slice.last > has) {
      if (slice.kind === "events") this.#take(block, slice, has);
      else this.gaps.push({ stream: slice.streamId, incarnation: block.incarnation, count: slice.count, reason: slice.reason });
      this.#committed.set(key, slice.last);
    }
    return [SLICE_STATUS.accepted, slice.last];
  }

  #take(block: Block, slice: EventSlice, has: number): void {
    const columns = openChunk(block, slice.chunk);
    for (let row = slice.start; row < slice.start + slice.count; row++) {
      const number = columns.number[row] as number;
      if (number <= has) continue;
      this.events.push({
        stream: slice.streamId,
        segment: formatSegmentId(slice.segment),
        incarnation: block.incarnation,
        number,
        key: columns.keys[columns.keyIndex[row] as number] as string,
        text: new TextDecoder().decode(payloadOf(columns, row)),
      });
    }
  }

  #levels(container: number, payload: Uint8Array): LevelsAnswer {
    const request = decodeCbor(payload) as LevelsRequest;
    return {
      epoch: this.epochOf(container),
      entries: request.entries.map(({ streamId, segment, incarnation }) => {
        const key = keyOf(streamId, formatSegmentId(segment), incarnation);
        return [this.#committed.get(key) ?? 0, this.#tiered.get(key) ?? 0];
      }),
    };
  }

  #control(payload: Uint8Array): object {
    const request = decodeCbor(payload) as ControlRequest;
    if (request.type === "hello") {
      this.hellos.push(request.incarnation);
      return { cluster: "c", containers: this.#containers, epochs: [...this.#epochs], siblings: this.siblings };
    }
    if (request.type === "resolve") return { streams: request.streams.map((wish) => this.#resolve(wish)) } satisfies ResolveAnswer;
    throw new TributaryError("INVALID_REQUEST", "the model does not fetch");
  }

  #resolve(wish: Extract<ControlRequest, { type: "resolve" }>["streams"][number]): ResolveAnswer["streams"][number] {
    const refuse = (problem: "conflict" | "deleted") => ({
      id: undefined,
      contentType: wish.contentType,
      segments: 0,
      containers: [],
      problem,
    });
    if (this.deletedIds.has(wish.provisionalId)) return refuse("deleted");
    const key = formatStreamName(wish.name);
    const known = this.streams.get(key) ?? { id: wish.provisionalId, contentType: wish.contentType, segments: wish.segments };
    if (known.contentType !== wish.contentType) return refuse("conflict");
    this.streams.set(key, known);
    const containers = new Array<number>(known.segments).fill(this.#containerOf(known.id));
    return { ...known, containers, problem: "" };
  }
}

function keyOf(streamId: Id, segment: string, incarnation: Id): string {
  return `${streamId}/${segment}/${incarnation}`;
}
