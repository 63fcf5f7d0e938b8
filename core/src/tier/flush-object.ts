import type { Block } from "@tributary/common/format/block";
import { encodeCborMap } from "@tributary/common/format/cbor";
import type { Id, SegmentId } from "@tributary/common/names";
import { lengthOf } from "@tributary/common/object-data";
import type { WalPosition } from "../container/counting.ts";
import { generationOf } from "../container/generation.ts";
import { NO_NONCE, noteNonce } from "../container/nonces.ts";
import type { ObjectRef } from "../container/operations.ts";
import { type ContainerState, findSegment, type StreamState, segmentPosition, setProducer, writerTable } from "../container/state.ts";
import { EXTENT, type Unflushed, type UnflushedExtents, type UnflushedFrame } from "../container/unflushed.ts";
import type { WriterTable } from "../container/writer-table.ts";
import { Numbering } from "./numbering.ts";
import { type Columns, EXTENT_COLUMNS, emptyColumns, type Footer, footerRecord, NUMBER_COLUMNS } from "./tier-footer.ts";
import { encodeObject, OBJECT_HEAD_BYTES, OBJECT_KIND } from "./tier-object.ts";

export interface FlushObject {
  readonly ref: ObjectRef;
  /** Its bytes: those of the blocks are the blocks' own. */
  readonly parts: readonly Uint8Array[];
  /** The part of each stream's chain that the object holds. */
  readonly spans: ReadonlyMap<StreamState, ChainSpan>;
  /** The numbers of writers that are in the tier with it, each with its table and the row there. */
  readonly numbers: { readonly writers: readonly WriterTable[]; readonly rows: readonly number[]; readonly lasts: readonly number[] };
}

/** Chain ordinals [from, to). */
export interface ChainSpan {
  readonly from: number;
  readonly to: number;
}

/** What the frames of a flush hold and changed, appends to streams apart; streams that are gone by their end left out. */
interface Changes {
  readonly body: Uint8Array[];
  /** Offset and length of each block. */
  readonly offsets: number[];
  readonly blocks: Map<Block, number>;
  readonly registered: Set<Id>;
  readonly closed: Set<Id>;
  readonly deleted: Set<Id>;
  readonly streamSeqs: Set<Id>;
  /** In order of their last use. */
  readonly producers: Map<Id, Set<string>>;
}

/** The part of a stream that is flushed: its first `count` extents. */
interface StreamPart {
  readonly stream: StreamState;
  readonly extents: UnflushedExtents;
  readonly count: number;
}

/** Extents that are laid out in one turn of the event loop. */
const STEP_EXTENTS = 8_192;
/** Of all containers: numbers a flush where it marks the entries of writers that it laid out. */
let flushes = 0;

/**
 * One combined object of all that is not flushed (rule L1). `state` must be the fold through `position`, the last frame of it. What
 * changes is read before the first step ends; the rest may be spread over turns of the event loop while appends go on.
 */
export function* buildFlushObject(
  owner: { container: number; epoch: number; attempt: number },
  state: ContainerState,
  position: WalPosition,
  unflushed: Unflushed,
  previous: ObjectRef | undefined,
  stepExtents: number = STEP_EXTENTS,
): Generator<void, FlushObject> {
  const { frames } = unflushed;
  const changes = collectChanges(frames);
  const parts = [...unflushed.extents].map(([id, extents]): StreamPart => ({ stream: state.stream(id), extents, count: extents.length }));
  const streams = new Numbering();
  for (const { stream } of parts) streams.of(stream.id);
  const live = (ids: Iterable<Id>) => [...ids].flatMap((id) => state.streams.get(id) ?? []);
  const small = {
    ...owner,
    generation: generationOf(owner.epoch),
    nonce: state.nonce,
    from: frames[0]?.seq ?? position.seq,
    position,
    previous,
    events: state.events,
    blocks: changes.offsets,
    registered: live(changes.registered).map((stream) => ({
      stream: streams.of(stream.id),
      segments: stream.segments.map((segment) => segment.id),
      contentType: stream.contentType,
      closed: stream.closed,
      origin: stream.origin,
    })),
    nonces: parts.flatMap((part) => {
      const { from } = spanOf(part);
      return part.stream.nonces
        .filter((range) => range.from >= from)
        .map((range) => ({ stream: streams.of(part.stream.id), nonce: range.nonce, from: range.from }));
    }),
    closed: live(changes.closed).map((stream) => streams.of(stream.id)),
    deleted: [...changes.deleted].map((id) => streams.of(id)),
    streamSeqs: live(changes.streamSeqs).map((stream) => ({ stream: streams.of(stream.id), streamSeq: stream.streamSeq })),
    producers: live(changes.producers.keys()).flatMap((stream) =>
      [...(changes.producers.get(stream.id) ?? [])].flatMap((id) => {
        const producer = stream.producers.get(id);
        return producer ? [{ stream: streams.of(stream.id), id, ...producer }] : [];
      }),
    ),
  };
  const writers = new Numbering();
  const { extents, numbers, tables, rows } = yield* layOut(state, parts, changes.blocks, streams, writers, stepExtents);
  const footer: Footer = { ...small, extents, numbers, streams: streams.names(), writers: writers.names() };
  const encoded = yield* encodeCborMap(footerRecord(footer));
  const { parts: all, footerBytes } = encodeObject(OBJECT_KIND.blocks, changes.body, encoded);
  const ref = { epoch: owner.epoch, attempt: owner.attempt, through: position.seq, bytes: lengthOf(all), footerBytes };
  const spans = new Map(parts.map((part) => [part.stream, spanOf(part)]));
  return { ref, parts: all, spans, numbers: { writers: tables, rows, lasts: numbers.l } };
}

function spanOf({ extents, count }: StreamPart): ChainSpan {
  const last = extents.at(count - 1);
  return { from: extents.chainAt(0), to: last.chain + last.count };
}

function collectChanges(frames: readonly UnflushedFrame[]): Changes {
  const changes: Changes = {
    body: [],
    offsets: [],
    blocks: new Map(),
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
          changes.blocks.set(operation.block, changes.body.length);
          changes.offsets.push(at, operation.block.bytes.length);
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
          for (const part of [changes.registered, changes.closed, changes.streamSeqs, changes.producers]) {
            part.delete(operation.streamId);
          }
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
        case "take-over":
          break;
      }
    }
  }
  return changes;
}

interface Layout {
  readonly extents: Columns<(typeof EXTENT_COLUMNS)[number]>;
  readonly numbers: Columns<(typeof NUMBER_COLUMNS)[number]>;
  /** Of each row of `numbers`: the writer's table, and the row there. */
  readonly tables: readonly WriterTable[];
  readonly rows: readonly number[];
}

/**
 * Extents in columns, and the highest number of each writer in them. Numbers are read off the extents: the entries may have
 * moved on since the flush began.
 */
function* layOut(
  state: ContainerState,
  parts: readonly StreamPart[],
  blocks: ReadonlyMap<Block, number>,
  streams: Numbering,
  writers: Numbering,
  stepExtents: number,
): Generator<void, Layout> {
  const extents = emptyColumns(EXTENT_COLUMNS);
  const numbers = emptyColumns(NUMBER_COLUMNS);
  const tables: WriterTable[] = [];
  const rows: number[] = [];
  const flush = ++flushes;
  for (const { stream, extents: list, count } of parts) {
    const { rows: cells } = list;
    const position = streams.of(stream.id);
    // Extents of one block follow each other, but for those of its slices that are of other streams.
    let current: Block | undefined;
    let [blockAt, writer] = [0, 0];
    for (let i = 0; i < count; i++) {
      const block = list.blocks[i] as Block;
      const table = list.writers[i];
      if (block !== current) {
        current = block;
        blockAt = blocks.get(block) as number;
        if (table) writer = writers.of(state.keyOf(block));
      }
      extents.s.push(position);
      extents.b.push(blockAt);
      extents.i.push(cells.get(i, EXTENT.slice));
      extents.k.push(cells.get(i, EXTENT.skip));
      extents.g.push(list.generation);
      extents.e.push(cells.get(i, EXTENT.epoch));
      extents.n.push(cells.get(i, EXTENT.number));
      extents.o.push(cells.get(i, EXTENT.ordinal));
      extents.c.push(cells.get(i, EXTENT.chain));
      extents.m.push(cells.get(i, EXTENT.count));
      if (table) {
        const row = cells.get(i, EXTENT.writerRow);
        const last = cells.get(i, EXTENT.last);
        const hash = cells.get(i, EXTENT.hash) + 1;
        const place = table.placeIn(row, flush);
        if (place < 0) {
          table.setPlace(row, flush, tables.length);
          tables.push(table);
          rows.push(row);
          numbers.s.push(position);
          numbers.g.push(list.generation);
          numbers.e.push(cells.get(i, EXTENT.epoch));
          numbers.n.push(cells.get(i, EXTENT.number));
          numbers.w.push(writer);
          numbers.l.push(last);
          numbers.h.push(hash);
        } else if (last > (numbers.l[place] as number)) {
          numbers.l[place] = last;
          numbers.h[place] = hash;
        }
      }
      if (extents.s.length % stepExtents === 0) yield;
    }
  }
  return { extents, numbers, tables, rows };
}

/** What the footer of a later object adds to a state read from the tier: where each of its streams begins in it. All of it is tiered. */
export function applyFooter(state: ContainerState, footer: Footer): Map<Id, number> {
  const id = (stream: number) => footer.streams[stream] as Id;
  for (const stream of footer.deleted) state.delete(id(stream));
  for (const { stream, ...registration } of footer.registered) state.register({ streamId: id(stream), ...registration });
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
  for (const { stream, nonce, from } of footer.nonces) noteNonce(state.stream(id(stream)).nonces, nonce, from);
  for (const streamId of starts.keys()) {
    const { nonces } = state.stream(streamId);
    if (nonces.length === 0) noteNonce(nonces, NO_NONCE, 0);
  }
  state.nonce = footer.nonce;
  numbers.s.forEach((position, i) => {
    const stream = state.stream(id(position));
    const segment = segmentPosition(stream, segmentAt(numbers, i));
    if (segment < 0) return;
    const table = writerTable(stream, state.tableKey(footer.writers[numbers.w[i] as number] as string));
    table.setFromTier(segment, numbers.l[i] as number, (numbers.h[i] as number) - 1);
  });
  for (const { stream, id: producerId, epoch, seq } of footer.producers) setProducer(state.stream(id(stream)), producerId, { epoch, seq });
  for (const { stream, streamSeq } of footer.streamSeqs) state.stream(id(stream)).streamSeq = streamSeq;
  for (const stream of footer.closed) state.stream(id(stream)).closed = true;
  state.events = footer.events;
  return starts;
}
