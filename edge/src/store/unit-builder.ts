import { assert } from "@tributary/common/assert";
import { type Block, type EventSlice, type GapReason, openChunk, relinkBlock, type Slice } from "@tributary/common/format/block";
import type { EventColumns } from "@tributary/common/format/event-columns";
import { evenRangeIndex } from "@tributary/common/key-hash";
import type { Id, Lane, SegmentId } from "@tributary/common/names";
import { hashOf } from "./batch-slices.ts";
import { BlockBuilder, type OpenSlice } from "./block-builder.ts";
import type { CommitRecord, CommitStream } from "./commit-record.ts";
import type { StreamMapping, UplinkUnit } from "./edge-store.ts";
import type { GapPart, PendingGap } from "./gap-ledger.ts";
import type { ChainMove, MissingNumbers, UplinkFold } from "./uplink-fold.ts";

type UnitBlock = UplinkUnit["blocks"][number];
type Need = UnitBlock["needs"][number];

/** What becomes of a stream's events on their way to the core. */
export type Destination =
  | { readonly kind: "send"; readonly mapping: StreamMapping }
  /** Deleted here, but the core has it: its numbers become gap records. */
  | { readonly kind: "give-up"; readonly mapping: StreamMapping }
  /** Deleted, and unknown to the core. */
  | { readonly kind: "skip" }
  | { readonly kind: "unresolved" };

interface Group {
  readonly container: number;
  readonly builder: BlockBuilder;
  /** The slice of each (stream, segment) that can take more events. */
  readonly open: Map<string, OpenSlice>;
  readonly needs: Map<string, Need>;
}

interface Numbers {
  readonly first: number;
  readonly last: number;
  readonly count: number;
  readonly timeMinMs: number;
  readonly timeMaxMs: number;
}

const segmentId = (number: number): SegmentId => ({ generation: 0, epoch: 0, number });

/**
 * Turns commits and gaps, in order, into the blocks of one uplink unit: each for one container, one incarnation and one lane,
 * every slice chained to what was sent before it. Moves the fold of the send position along.
 */
export class UnitBuilder {
  readonly #writer: Id;
  readonly #fold: UplinkFold;
  readonly #destination: (localId: Id) => Destination;
  /** Blocks that are finished, and groups that are still open, in the order in which they must arrive. */
  readonly #out: (UnitBlock | Group)[] = [];
  readonly #groups = new Map<string, Group>();
  readonly #chainMoves = new Map<string, ChainMove>();
  payloadBytes = 0;
  /** Events of deleted streams that nobody will get. */
  eventsSkipped = 0;

  constructor(writer: Id, fold: UplinkFold, destination: (localId: Id) => Destination) {
    this.#writer = writer;
    this.#fold = fold;
    this.#destination = destination;
  }

  finish(): { blocks: UnitBlock[]; chainMoves: ChainMove[] } {
    const blocks = this.#out.map((item) =>
      "bytes" in item ? item : { container: item.container, bytes: item.builder.finish(), needs: [...item.needs.values()] },
    );
    return { blocks, chainMoves: [...this.#chainMoves.values()] };
  }

  /** `whole`: the commit is not merged with others, so that blocks which fit may pass as they are. */
  addCommit(commit: CommitRecord, whole: boolean): void {
    this.payloadBytes += commit.payloadBytes;
    const streams = new Map(commit.streams.map((stream) => [stream.blockId, stream]));
    const recut = new Map<CommitStream, { columns: EventColumns; rows: Uint32Array }[]>();
    const givenUp = new Map<CommitStream, Slice[]>();
    for (const block of commit.blocks) {
      if (whole && this.#pass(block, streams)) continue;
      const chunks = new Map<number, EventColumns>();
      for (const slice of block.slices) {
        if (slice.kind === "gap") continue;
        const stream = streams.get(slice.streamId) as CommitStream;
        const destination = this.#destination(stream.localId);
        assert(destination.kind !== "unresolved", "an unresolved stream holds the position");
        if (destination.kind === "skip") this.eventsSkipped += slice.count;
        else if (destination.kind === "give-up") pushTo(givenUp, stream, slice);
        else {
          const columns = chunks.get(slice.chunk) ?? openChunk(block, slice.chunk);
          chunks.set(slice.chunk, columns);
          const rows = rowsOf(slice);
          if (stream.segments === destination.mapping.segments) {
            this.#append(stream.localId, destination.mapping, slice.segment.number, block, columns, rows);
          } else pushTo(recut, stream, { columns, rows });
        }
      }
    }
    for (const [stream, parts] of recut) this.#recut(stream, parts, commit);
    for (const [stream, slices] of givenUp) this.#giveUp(stream, slices, commit);
  }

  addMissing(missing: MissingNumbers): void {
    const destination = this.#destination(missing.localId);
    if (destination.kind === "skip") return;
    assert(destination.kind !== "unresolved", "an unresolved stream holds the position");
    const { first, last } = missing;
    const numbers = { first, last, count: last - first + 1, timeMinMs: 0, timeMaxMs: 0 };
    // In which segments they were is not known; the first one tells of them.
    this.#gap(missing, destination.mapping, 0, numbers, "corrupt");
  }

  addPending(gap: PendingGap): void {
    const destination = this.#destination(gap.localId);
    if (destination.kind === "skip") return;
    assert(destination.kind !== "unresolved", "an unresolved stream holds the position");
    this.#gapInParts(gap, destination.mapping, gap.segments, gap.parts, gap, gap.reason);
  }

  /** Sends a block of the log as it is, or with another index only. */
  #pass(block: Block, streams: ReadonlyMap<Id, CommitStream>): boolean {
    let container: number | undefined;
    for (const slice of block.slices) {
      const stream = streams.get(slice.streamId) as CommitStream;
      const destination = this.#destination(stream.localId);
      if (destination.kind !== "send" || destination.mapping.segments !== stream.segments || slice.kind === "gap") return false;
      const owner = destination.mapping.containers[slice.segment.number];
      if (container !== undefined && owner !== container) return false;
      container = owner;
    }
    assert(container !== undefined, "every segment has a container");
    const { incarnation, lane } = block;
    const needs = new Map<string, Need>();
    let changed = false;
    const slices = block.slices.map((slice) => {
      const { localId } = streams.get(slice.streamId) as CommitStream;
      const { mapping } = this.#destination(localId) as Extract<Destination, { kind: "send" }>;
      const link = this.#fold.link(localId, mapping, slice.segment.number, lane, incarnation);
      this.#move(localId, mapping, slice.segment.number, block, slice.last);
      setNeed(needs, mapping.id, slice.segment, block, slice.last);
      if (mapping.id === slice.streamId && link.previous === slice.previous && !link.parent) return slice;
      changed = true;
      const { parent: _, ...rest } = slice as EventSlice;
      return { ...rest, ...link, streamId: mapping.id };
    });
    this.#closeGroups();
    this.#out.push({ container, bytes: changed ? relinkBlock(block, slices) : block.bytes, needs: [...needs.values()] });
    return true;
  }

  /** Events of a stream that the core cut into another number of segments: in order of number, then by key hash. */
  #recut(stream: CommitStream, parts: readonly { columns: EventColumns; rows: Uint32Array }[], commit: CommitRecord): void {
    const { mapping } = this.#destination(stream.localId) as Extract<Destination, { kind: "send" }>;
    const events = parts.flatMap(({ columns, rows }) =>
      Array.from(rows, (row) => ({ columns, row, number: columns.number[row] as number })),
    );
    events.sort((a, b) => a.number - b.number);
    const hashes = new Map<EventColumns, Float64Array>();
    const bySegment = new Map<number, typeof events>();
    for (const event of events) {
      const known = hashes.get(event.columns) ?? new Float64Array(event.columns.keys.length).fill(-1);
      hashes.set(event.columns, known);
      pushTo(bySegment, evenRangeIndex(hashOf(event.columns, event.row, known), mapping.segments), event);
    }
    const writer = commit.blocks[0] as Block;
    for (const [segment, own] of bySegment) {
      for (let from = 0; from < own.length; ) {
        const { columns } = own[from] as (typeof own)[number];
        let to = from;
        while (to < own.length && own[to]?.columns === columns) to++;
        const rows = Uint32Array.from(own.slice(from, to), (event) => event.row);
        this.#append(stream.localId, mapping, segment, writer, columns, rows);
        from = to;
      }
    }
  }

  #giveUp(stream: CommitStream, slices: readonly Slice[], commit: CommitRecord): void {
    const { mapping } = this.#destination(stream.localId) as Extract<Destination, { kind: "give-up" }>;
    const { incarnation, lane } = commit.blocks[0] as Block;
    const numbers = {
      first: stream.first,
      last: stream.last,
      count: stream.last - stream.first + 1,
      timeMinMs: Math.min(...slices.map((slice) => slice.timeMinMs)),
      timeMaxMs: Math.max(...slices.map((slice) => slice.timeMaxMs)),
    };
    const parts = slices.map(({ segment, first, last, count }) => ({ segment: segment.number, first, last, count }));
    this.eventsSkipped += numbers.count;
    this.#gapInParts({ localId: stream.localId, incarnation, lane }, mapping, stream.segments, parts, numbers, "quarantined");
  }

  /** Numbers known by segment go into their segments; if the core's are others, the first one tells of all. */
  #gapInParts(
    of: { localId: Id; incarnation: Id; lane: Lane },
    mapping: StreamMapping,
    segments: number,
    parts: readonly GapPart[],
    whole: Numbers,
    reason: GapReason,
  ): void {
    if (segments !== mapping.segments) {
      this.#gap(of, mapping, 0, whole, reason);
      return;
    }
    const { timeMinMs, timeMaxMs } = whole;
    for (const { segment, ...numbers } of parts) this.#gap(of, mapping, segment, { ...numbers, timeMinMs, timeMaxMs }, reason);
  }

  #gap(
    of: { localId: Id; incarnation: Id; lane: Lane },
    mapping: StreamMapping,
    segment: number,
    numbers: Numbers,
    reason: GapReason,
  ): void {
    const { localId, incarnation, lane } = of;
    let group = this.#group(mapping, segment, { incarnation, lane });
    if (!group.builder.hasRoomForGap()) {
      this.#closeGroup(group);
      group = this.#group(mapping, segment, { incarnation, lane });
    }
    const link = this.#fold.link(localId, mapping, segment, lane, incarnation);
    const { first, last, count, timeMinMs, timeMaxMs } = numbers;
    group.builder.addGap({
      kind: "gap",
      streamId: mapping.id,
      segment: segmentId(segment),
      ...link,
      first,
      last,
      count,
      reason,
      timeMinMs,
      timeMaxMs,
    });
    // Events behind the gap begin a slice of their own.
    group.open.delete(`${mapping.id}.${segment}`);
    this.#move(localId, mapping, segment, { incarnation, lane }, last);
    setNeed(group.needs, mapping.id, segmentId(segment), { incarnation, lane }, last);
  }

  #append(
    localId: Id,
    mapping: StreamMapping,
    segment: number,
    of: { incarnation: Id; lane: Lane },
    columns: EventColumns,
    rows: Uint32Array,
  ): void {
    for (let from = 0; from < rows.length; ) {
      const group = this.#group(mapping, segment, of);
      const count = group.builder.room(columns, rows, from);
      if (count === 0) {
        this.#closeGroup(group);
        continue;
      }
      const openKey = `${mapping.id}.${segment}`;
      let slice = group.open.get(openKey);
      if (!slice) {
        const link = this.#fold.link(localId, mapping, segment, of.lane, of.incarnation);
        slice = group.builder.begin({ streamId: mapping.id, segment: segmentId(segment), ...link });
        group.open.set(openKey, slice);
      }
      const part = rows.subarray(from, from + count);
      group.builder.extend(slice, columns, part);
      from += count;
      const last = columns.number[part[part.length - 1] as number] as number;
      this.#move(localId, mapping, segment, of, last);
      setNeed(group.needs, mapping.id, segmentId(segment), of, last);
    }
  }

  #group(mapping: StreamMapping, segment: number, of: { incarnation: Id; lane: Lane }): Group {
    const container = mapping.containers[segment];
    assert(container !== undefined, "every segment has a container");
    const { incarnation, lane } = of;
    const key = groupKey(container, of);
    let group = this.#groups.get(key);
    if (!group) {
      const builder = new BlockBuilder({ writer: this.#writer, incarnation, lane });
      group = { container, builder, open: new Map(), needs: new Map() };
      this.#groups.set(key, group);
      this.#out.push(group);
    }
    return group;
  }

  #closeGroup(group: Group): void {
    for (const [key, open] of this.#groups) if (open === group) this.#groups.delete(key);
  }

  #closeGroups(): void {
    this.#groups.clear();
  }

  #move(localId: Id, mapping: StreamMapping, segment: number, of: { incarnation: Id; lane: Lane }, last: number): void {
    const { incarnation, lane } = of;
    const move = { localId, target: mapping.id, segments: mapping.segments, segment, lane, incarnation, last };
    this.#fold.moveChain(move);
    this.#chainMoves.set(`${localId}.${segment}.${lane}`, move);
  }
}

function groupKey(container: number, of: { incarnation: Id; lane: Lane }): string {
  return `${container}.${of.incarnation}.${of.lane}`;
}

function setNeed(needs: Map<string, Need>, streamId: Id, segment: SegmentId, of: { incarnation: Id; lane: Lane }, last: number): void {
  needs.set(`${streamId}.${segment.number}`, { streamId, segment, incarnation: of.incarnation, lane: of.lane, last });
}

function rowsOf(slice: EventSlice): Uint32Array {
  const rows = new Uint32Array(slice.count);
  for (let i = 0; i < rows.length; i++) rows[i] = slice.start + i;
  return rows;
}

function pushTo<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  const list = map.get(key);
  if (list) list.push(value);
  else map.set(key, [value]);
}
