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
import { GENERATION } from "./object-names.ts";
import { EXTENT_COLUMNS, emptyColumns, type Footer, footerRecord, NUMBER_COLUMNS } from "./tier-footer.ts";
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
  const blocks: number[] = [];
  const body: Uint8Array[] = [];
  const rows = new Map<Id, Row[]>();
  const touched = new Map<string, { streamId: Id; segment: SegmentId; key: string }>();
  const registered = new Set<Id>();
  const closed = new Set<Id>();
  const deleted = new Set<Id>();
  const streamSeqs = new Set<Id>();
  const producers = new Map<Id, Set<string>>();
  let at = OBJECT_HEAD_BYTES;
  const addBlock = (operation: AppendBlock) => {
    const key = writerKey(operation.block);
    for (const decision of operation.decisions) {
      const slice = operation.block.slices[decision.slice] as Slice;
      const { streamId, segment } = slice;
      if (!state.streams.has(streamId)) continue;
      const row = {
        block: body.length,
        slice: decision.slice,
        skip: decision.skip,
        segment,
        ordinal: decision.ordinal,
        chain: decision.chain,
        count: eventsAdded(operation, decision),
      };
      const list = rows.get(streamId);
      if (list) list.push(row);
      else rows.set(streamId, [row]);
      if (!operation.own)
        touched.set(`${streamId}${segment.generation}.${segment.epoch}.${segment.number}${key}`, { streamId, segment, key });
    }
    blocks.push(at, operation.block.bytes.length);
    body.push(operation.block.bytes);
    at += operation.block.bytes.length;
  };
  for (const frame of frames) {
    for (const operation of frame.operations) {
      if (operation.type === "append-block") addBlock(operation);
      else if (operation.type === "register-stream") registered.add(operation.streamId);
      else if (operation.type === "close-stream") closed.add(operation.streamId);
      else if (operation.type === "delete-stream") {
        deleted.add(operation.streamId);
        // If the id is registered again, it is another stream.
        for (const changes of [rows, registered, closed, streamSeqs, producers]) changes.delete(operation.streamId);
        for (const [key, { streamId }] of touched) if (streamId === operation.streamId) touched.delete(key);
      } else if (operation.type === "set-stream-seq") streamSeqs.add(operation.streamId);
      else if (operation.type === "set-producer") {
        const ids = producers.get(operation.streamId) ?? new Set();
        producers.set(operation.streamId, ids);
        // Kept in order of their last use.
        ids.delete(operation.producerId);
        ids.add(operation.producerId);
      }
    }
  }

  const streams = new Map<Id, number>();
  const streamNumber = (id: Id): number => {
    const known = streams.get(id);
    if (known !== undefined) return known;
    streams.set(id, streams.size);
    return streams.size - 1;
  };
  const spans = new Map<StreamState, ChainSpan>();
  const extents = emptyColumns(EXTENT_COLUMNS);
  for (const [streamId, list] of rows) {
    const stream = streamNumber(streamId);
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
  const writers = new Map<string, number>();
  const columns = emptyColumns(NUMBER_COLUMNS);
  const numbers: { entry: WriterEntry; last: number }[] = [];
  for (const { streamId, segment, key } of touched.values()) {
    const entry = findSegment(state.stream(streamId), segment)?.writers.get(key);
    if (!entry) continue;
    let writer = writers.get(key);
    if (writer === undefined) {
      writer = writers.size;
      writers.set(key, writer);
    }
    columns.s.push(streamNumber(streamId));
    columns.g.push(segment.generation);
    columns.e.push(segment.epoch);
    columns.n.push(segment.number);
    columns.w.push(writer);
    columns.l.push(entry.last);
    columns.h.push(entry.hash + 1);
    numbers.push({ entry, last: entry.last });
  }
  const live = (ids: Iterable<Id>) => [...ids].flatMap((id) => state.streams.get(id) ?? []);
  const footer: Footer = {
    ...owner,
    generation: GENERATION,
    from: frames[0]?.seq ?? position.seq,
    position,
    previous,
    events: state.events,
    blocks,
    streams: [],
    extents,
    registered: live(registered).map((stream) => ({
      stream: streamNumber(stream.id),
      segments: stream.segments.map((segment) => segment.id),
      contentType: stream.contentType,
      closed: stream.closed,
    })),
    closed: live(closed).map((stream) => streamNumber(stream.id)),
    deleted: [...deleted].map(streamNumber),
    streamSeqs: live(streamSeqs).map((stream) => ({ stream: streamNumber(stream.id), streamSeq: stream.streamSeq })),
    writers: [...writers.keys()],
    numbers: columns,
    producers: live(producers.keys()).flatMap((stream) => {
      return [...(producers.get(stream.id) ?? [])].flatMap((id) => {
        const producer = stream.producers.get(id);
        return producer ? [{ stream: streamNumber(stream.id), id, ...producer }] : [];
      });
    }),
  };
  const { bytes, footerBytes } = encodeObject(OBJECT_KIND.blocks, body, footerRecord({ ...footer, streams: [...streams.keys()] }));
  const ref = { epoch: owner.epoch, attempt: owner.attempt, through: position.seq, bytes: bytes.length, footerBytes };
  return { ref, bytes, spans, numbers };
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
