import type { Slice } from "@tributary/common/format/block";
import type { Id, SegmentId } from "@tributary/common/names";
import type { WalPosition } from "../container/counting.ts";
import { type AppendBlock, eventsAdded, type ObjectRef } from "../container/operations.ts";
import {
  type ContainerState,
  findSegment,
  type StreamState,
  setProducer,
  setWriter,
  type WriterEntry,
  writerKey,
} from "../container/state.ts";
import type { UnflushedFrame } from "../container/unflushed.ts";
import { Numbering } from "./numbering.ts";
import { GENERATION } from "./object-names.ts";
import { type Columns, EXTENT_COLUMNS, emptyColumns, type Footer, footerRecord, NUMBER_COLUMNS } from "./tier-footer.ts";
import { encodeObject, OBJECT_HEAD_BYTES, OBJECT_KIND } from "./tier-object.ts";

export interface FlushObject {
  readonly ref: ObjectRef;
  readonly bytes: Uint8Array;
  /** The part of each stream's chain that the object holds. */
  readonly spans: ReadonlyMap<StreamState, ChainSpan>;
  /** The numbers of writers that are in the tier with it. */
  readonly numbers: readonly { readonly entry: WriterEntry; readonly last: number }[];
}

/** Chain ordinals [from, to). */
export interface ChainSpan {
  readonly from: number;
  readonly to: number;
}

interface Row {
  readonly block: number;
  readonly slice: number;
  readonly skip: number;
  readonly segment: SegmentId;
  readonly ordinal: number;
  readonly chain: number;
  readonly count: number;
}

/** What the frames of a flush hold and changed; streams that are gone by their end left out. */
interface Changes {
  readonly body: Uint8Array[];
  /** Offset and length of each block. */
  readonly blocks: number[];
  readonly rows: Map<Id, Row[]>;
  readonly writers: Map<WriterEntry, { readonly stream: StreamState; readonly segment: SegmentId; readonly key: string }>;
  readonly registered: Set<Id>;
  readonly closed: Set<Id>;
  readonly deleted: Set<Id>;
  readonly streamSeqs: Set<Id>;
  /** In order of their last use. */
  readonly producers: Map<Id, Set<string>>;
}

/**
 * One combined object of the given frames (rule L1). `state` must be the fold through the last of them: what they changed is read
 * off it, so that the cost follows what is flushed and not what the container holds.
 */
export function buildFlushObject(
  owner: { container: number; epoch: number; attempt: number },
  state: ContainerState,
  position: WalPosition,
  frames: readonly UnflushedFrame[],
  previous: ObjectRef | undefined,
): FlushObject {
  const changes = collectChanges(state, frames);
  const streams = new Numbering();
  const writers = new Numbering();
  const { extents, spans } = layOutExtents(state, changes.rows, streams);
  const columns = emptyColumns(NUMBER_COLUMNS);
  const numbers: { entry: WriterEntry; last: number }[] = [];
  for (const [entry, { stream, segment, key }] of changes.writers) {
    columns.s.push(streams.of(stream.id));
    columns.g.push(segment.generation);
    columns.e.push(segment.epoch);
    columns.n.push(segment.number);
    columns.w.push(writers.of(key));
    columns.l.push(entry.last);
    columns.h.push(entry.hash + 1);
    numbers.push({ entry, last: entry.last });
  }
  const live = (ids: Iterable<Id>) => [...ids].flatMap((id) => state.streams.get(id) ?? []);
  const footer: Omit<Footer, "streams" | "writers"> = {
    ...owner,
    generation: GENERATION,
    from: frames[0]?.seq ?? position.seq,
    position,
    previous,
    events: state.events,
    blocks: changes.blocks,
    extents,
    registered: live(changes.registered).map((stream) => ({
      stream: streams.of(stream.id),
      segments: stream.segments.map((segment) => segment.id),
      contentType: stream.contentType,
      closed: stream.closed,
    })),
    closed: live(changes.closed).map((stream) => streams.of(stream.id)),
    deleted: [...changes.deleted].map((id) => streams.of(id)),
    streamSeqs: live(changes.streamSeqs).map((stream) => ({ stream: streams.of(stream.id), streamSeq: stream.streamSeq })),
    numbers: columns,
    producers: live(changes.producers.keys()).flatMap((stream) =>
      [...(changes.producers.get(stream.id) ?? [])].flatMap((id) => {
        const producer = stream.producers.get(id);
        return producer ? [{ stream: streams.of(stream.id), id, ...producer }] : [];
      }),
    ),
  };
  const record = footerRecord({ ...footer, streams: streams.names(), writers: writers.names() });
  const { bytes, footerBytes } = encodeObject(OBJECT_KIND.blocks, changes.body, record);
  const ref = { epoch: owner.epoch, attempt: owner.attempt, through: position.seq, bytes: bytes.length, footerBytes };
  return { ref, bytes, spans, numbers };
}

function collectChanges(state: ContainerState, frames: readonly UnflushedFrame[]): Changes {
  const changes: Changes = {
    body: [],
    blocks: [],
    rows: new Map(),
    writers: new Map(),
    registered: new Set(),
    closed: new Set(),
    deleted: new Set(),
    streamSeqs: new Set(),
    producers: new Map(),
  };
  let at = OBJECT_HEAD_BYTES;
  for (const frame of frames) {
    for (const operation of frame.operations) {
      switch (operation.type) {
        case "append-block":
          collectAppend(state, changes, operation);
          changes.blocks.push(at, operation.block.bytes.length);
          changes.body.push(operation.block.bytes);
          at += operation.block.bytes.length;
          break;
        case "register-stream":
          changes.registered.add(operation.streamId);
          break;
        case "close-stream":
          changes.closed.add(operation.streamId);
          break;
        case "delete-stream":
          // If the id is registered again, it is another stream.
          for (const part of [changes.rows, changes.registered, changes.closed, changes.streamSeqs, changes.producers]) {
            part.delete(operation.streamId);
          }
          for (const [entry, { stream }] of changes.writers) if (stream.id === operation.streamId) changes.writers.delete(entry);
          changes.deleted.add(operation.streamId);
          break;
        case "set-stream-seq":
          changes.streamSeqs.add(operation.streamId);
          break;
        case "set-producer": {
          const ids = changes.producers.get(operation.streamId) ?? new Set();
          changes.producers.set(operation.streamId, ids);
          ids.delete(operation.producerId);
          ids.add(operation.producerId);
          break;
        }
        case "tiered":
          break;
      }
    }
  }
  return changes;
}

function collectAppend(state: ContainerState, changes: Changes, operation: AppendBlock): void {
  const key = writerKey(operation.block);
  for (const decision of operation.decisions) {
    const slice = operation.block.slices[decision.slice] as Slice;
    const { streamId, segment } = slice;
    const stream = state.streams.get(streamId);
    if (!stream) continue;
    const { skip, ordinal, chain } = decision;
    const row = {
      block: changes.body.length,
      slice: decision.slice,
      skip,
      segment,
      ordinal,
      chain,
      count: eventsAdded(operation, decision),
    };
    const rows = changes.rows.get(streamId);
    if (rows) rows.push(row);
    else changes.rows.set(streamId, [row]);
    const entry = operation.own ? undefined : findSegment(stream, segment)?.writers.get(key);
    if (entry) changes.writers.set(entry, { stream, segment, key });
  }
}

function layOutExtents(
  state: ContainerState,
  rows: ReadonlyMap<Id, readonly Row[]>,
  streams: Numbering,
): { extents: Columns<(typeof EXTENT_COLUMNS)[number]>; spans: Map<StreamState, ChainSpan> } {
  const spans = new Map<StreamState, ChainSpan>();
  const extents = emptyColumns(EXTENT_COLUMNS);
  for (const [streamId, list] of rows) {
    const stream = streams.of(streamId);
    const last = list.at(-1) as Row;
    spans.set(state.stream(streamId), { from: (list[0] as Row).chain, to: last.chain + last.count });
    for (const row of list) {
      extents.s.push(stream);
      extents.b.push(row.block);
      extents.i.push(row.slice);
      extents.k.push(row.skip);
      extents.g.push(row.segment.generation);
      extents.e.push(row.segment.epoch);
      extents.n.push(row.segment.number);
      extents.o.push(row.ordinal);
      extents.c.push(row.chain);
      extents.m.push(row.count);
    }
  }
  return { extents, spans };
}

/** What the footer of a later object adds to a state read from the tier: where each of its streams begins in it. All of it is tiered. */
export function applyFooter(state: ContainerState, footer: Footer): Map<Id, number> {
  const id = (stream: number) => footer.streams[stream] as Id;
  for (const stream of footer.deleted) state.streams.delete(id(stream));
  for (const { stream, segments, contentType, closed } of footer.registered) state.register(id(stream), segments, contentType, closed);
  const starts = new Map<Id, number>();
  const { extents, numbers } = footer;
  const segmentAt = (columns: Readonly<Record<"g" | "e" | "n", number[]>>, i: number): SegmentId => ({
    generation: columns.g[i] as number,
    epoch: columns.e[i] as number,
    number: columns.n[i] as number,
  });
  extents.s.forEach((position, i) => {
    const stream = state.stream(id(position));
    const chain = extents.c[i] as number;
    const count = extents.m[i] as number;
    if (!starts.has(stream.id)) starts.set(stream.id, chain);
    stream.chain = chain + count;
    const segment = findSegment(stream, segmentAt(extents, i));
    if (segment) segment.length = (extents.o[i] as number) + count;
  });
  numbers.s.forEach((position, i) => {
    const segment = findSegment(state.stream(id(position)), segmentAt(numbers, i));
    if (!segment) return;
    const entry = setWriter(
      segment,
      footer.writers[numbers.w[i] as number] as string,
      numbers.l[i] as number,
      (numbers.h[i] as number) - 1,
    );
    entry.tiered = entry.last;
  });
  for (const { stream, id: producerId, epoch, seq } of footer.producers) setProducer(state.stream(id(stream)), producerId, { epoch, seq });
  for (const { stream, streamSeq } of footer.streamSeqs) state.stream(id(stream)).streamSeq = streamSeq;
  for (const stream of footer.closed) state.stream(id(stream)).closed = true;
  state.events = footer.events;
  return starts;
}
