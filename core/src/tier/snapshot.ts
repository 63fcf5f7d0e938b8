import { MalformedBytes } from "@tributary/common/format/varint";
import { hexToBytes, type Id } from "@tributary/common/names";
import type { WalPosition } from "../container/counting.ts";
import { generationOf } from "../container/generation.ts";
import { NO_NONCE, noteNonce } from "../container/nonces.ts";
import { decodeRefs, flattenRefs } from "../container/operations.ts";
import { ContainerState, type StreamState, setProducer, writerTable } from "../container/state.ts";
import { decodeOrigin, encodeOrigin } from "../container/stream-origin.ts";
import { asArray, asCount, asText } from "../container/wire.ts";
import type { WriterEntry } from "../container/writer-table.ts";
import type { FlushObject } from "./flush-object.ts";
import { Numbering } from "./numbering.ts";
import {
  concatHex,
  concatWriters,
  emptyColumns,
  readColumns,
  readNonce,
  readPosition,
  splitHex,
  splitNonces,
  splitWriters,
} from "./tier-footer.ts";
import { TierIndex } from "./tier-index.ts";

const STREAM_COLUMNS = ["k", "c", "z", "m", "r", "p"] as const;
const SEGMENT_COLUMNS = ["g", "e", "n", "l", "w"] as const;
const WRITER_COLUMNS = ["w", "l", "h"] as const;
const RUN_COLUMNS = ["c", "o"] as const;
const PRODUCER_COLUMNS = ["e", "q"] as const;
const SEALED_COLUMNS = ["s", "g", "e", "n", "l"] as const;
const NONCE_COLUMNS = ["s", "n", "c"] as const;

/**
 * Snapshot (CBOR map): the whole state of a container at a WAL position, so that recovery does not begin with its first object.
 *
 *   c, g, p, h   container, generation, last counting frame: [seq, epoch, attempt, number], its hash
 *   n            events, those of deleted streams included
 *   o            combined objects: [epoch, attempt, through, bytes, footerBytes]*
 *   t            content types
 *   s            stream ids, 16 bytes each
 *   a            streams: k content type, c chain, z closed (1), m segments, r runs, p producers
 *   u            Stream-Seq of each stream
 *   b            segments, stream by stream: g/e/n id, l length, w writer entries
 *   i            writers: writer id, incarnation, lane (25 bytes each)
 *   w            writer entries, segment by segment: w writer, l last number, h hash of that event + 1 (0: a gap)
 *   r            runs, stream by stream: c chain ordinal, o object
 *   d, e         producers, stream by stream, in order of use: ids; e epoch, q sequence
 * and, which may be missing:
 *   y            sealed segments: s stream, g/e/n id, l length
 *   j, k         nonces, 8 bytes each; take-overs under which streams went on, stream by stream: s stream, n nonce, c chain ordinal
 *   v            nonce of the owner at p
 *   x            ids of deleted streams, oldest first, 16 bytes each
 *   m            of each stream: [] or [name, createdAtMs, containers*]
 */
export function snapshotRecord(
  container: number,
  state: ContainerState,
  position: WalPosition,
  index: TierIndex,
  /** The object that brings the index to the position. */
  newest: Pick<FlushObject, "ref" | "spans">,
): Record<string, unknown> {
  const contentTypes = new Numbering();
  const writers = new Numbering();
  const a = emptyColumns(STREAM_COLUMNS);
  const b = emptyColumns(SEGMENT_COLUMNS);
  const w = emptyColumns(WRITER_COLUMNS);
  const r = emptyColumns(RUN_COLUMNS);
  const e = emptyColumns(PRODUCER_COLUMNS);
  const y = emptyColumns(SEALED_COLUMNS);
  const k = emptyColumns(NONCE_COLUMNS);
  const nonces = new Numbering();
  const m: unknown[] = [];
  const u: string[] = [];
  const d: string[] = [];
  for (const stream of state.streams.values()) {
    const number = m.length;
    m.push(encodeOrigin(stream.origin));
    for (const { id, length } of stream.sealed) {
      y.s.push(number);
      y.g.push(id.generation);
      y.e.push(id.epoch);
      y.n.push(id.number);
      y.l.push(length);
    }
    for (const { nonce, from } of stream.nonces) {
      k.s.push(number);
      k.n.push(nonces.of(nonce));
      k.c.push(from);
    }
    const runs = index.runs.get(stream.id) ?? { from: [], object: [] };
    a.k.push(contentTypes.of(stream.contentType));
    a.c.push(stream.chain);
    a.z.push(stream.closed ? 1 : 0);
    a.m.push(stream.segments.length);
    const start = newest.spans.get(stream)?.from;
    a.r.push(runs.from.length + (start === undefined ? 0 : 1));
    a.p.push(stream.producers.size);
    u.push(stream.streamSeq);
    for (const from of runs.from) r.c.push(from);
    for (const object of runs.object) r.o.push(object);
    if (start !== undefined) {
      r.c.push(start);
      r.o.push(index.objects.length);
    }
    for (const [id, producer] of stream.producers) {
      d.push(id);
      e.e.push(producer.epoch);
      e.q.push(producer.seq);
    }
    const entriesAt = writersBySegment(stream, writers);
    stream.segments.forEach((segment, position) => {
      const entries = entriesAt[position] ?? [];
      b.g.push(segment.id.generation);
      b.e.push(segment.id.epoch);
      b.n.push(segment.id.number);
      b.l.push(segment.length);
      b.w.push(entries.length);
      for (const [writer, entry] of entries) {
        w.w.push(writer);
        w.l.push(entry.last);
        w.h.push(entry.hash + 1);
      }
    });
  }
  return {
    c: container,
    g: generationOf(position.epoch),
    p: [position.seq, position.epoch, position.attempt, position.number],
    h: hexToBytes(position.hash),
    n: state.events,
    o: flattenRefs([...index.objects, newest.ref]),
    t: contentTypes.names(),
    s: concatHex([...state.streams.keys()]),
    a,
    u,
    b,
    i: concatWriters(writers.names()),
    w,
    r,
    d,
    e,
    y,
    j: concatHex(nonces.names()),
    k,
    v: hexToBytes(state.nonce),
    x: concatHex([...state.tombstones]),
    m,
  };
}

/** By position of the segment: number of the writer, and its entry there. */
function writersBySegment(stream: StreamState, writers: Numbering): [number, WriterEntry][][] {
  const found: [number, WriterEntry][][] = [];
  for (const [key, entries] of stream.writers) {
    const writer = writers.of(key);
    for (const [position, entry] of entries) {
      found[position] ??= [];
      found[position].push([writer, entry]);
    }
  }
  return found;
}

/** @throws MalformedBytes */
export function readSnapshot(value: unknown): { container: number; position: WalPosition; state: ContainerState; index: TierIndex } {
  const record = value as Record<string, unknown>;
  const contentTypes = asArray(record["t"]).map(asText);
  const ids = splitHex(record["s"]);
  const writers = splitWriters(record["i"]);
  const a = readColumns(record["a"], STREAM_COLUMNS);
  const b = readColumns(record["b"], SEGMENT_COLUMNS);
  const w = readColumns(record["w"], WRITER_COLUMNS);
  const r = readColumns(record["r"], RUN_COLUMNS);
  const e = readColumns(record["e"], PRODUCER_COLUMNS);
  const streamSeqs = asArray(record["u"]).map(asText);
  const producerIds = asArray(record["d"]).map(asText);
  const sealed = readColumns(record["y"] ?? emptyColumns(SEALED_COLUMNS), SEALED_COLUMNS);
  const nonces = splitNonces(record["j"] ?? new Uint8Array(0));
  const k = readColumns(record["k"] ?? emptyColumns(NONCE_COLUMNS), NONCE_COLUMNS);
  const origins = asArray(record["m"] ?? []);
  const state = new ContainerState();
  state.generation = asCount(record["g"]);
  state.nonce = readNonce(record["v"]);
  const index = new TierIndex();
  for (const ref of decodeRefs(record["o"])) index.add(ref, new Map());
  let segmentAt = 0;
  let writerAt = 0;
  let runAt = 0;
  let producerAt = 0;
  ids.forEach((id: Id, i) => {
    const segments = Array.from({ length: pick(a.m, i) }, (_, s) => ({
      generation: pick(b.g, segmentAt + s),
      epoch: pick(b.e, segmentAt + s),
      number: pick(b.n, segmentAt + s),
    }));
    const contentType = pick(contentTypes, pick(a.k, i));
    const origin = decodeOrigin(asArray(origins[i] ?? []));
    const stream = state.register({ streamId: id, segments, contentType, origin, closed: pick(a.z, i) === 1 });
    stream.chain = pick(a.c, i);
    stream.streamSeq = pick(streamSeqs, i);
    stream.segments.forEach((segment, position) => {
      segment.length = pick(b.l, segmentAt);
      for (let end = writerAt + pick(b.w, segmentAt); writerAt < end; writerAt++) {
        const key = state.tableKey(pick(writers, pick(w.w, writerAt)));
        writerTable(stream, key).setFromTier(position, pick(w.l, writerAt), pick(w.h, writerAt) - 1);
      }
      segmentAt++;
    });
    const runs = { from: [] as number[], object: [] as number[] };
    for (let end = runAt + pick(a.r, i); runAt < end; runAt++) {
      runs.from.push(pick(r.c, runAt));
      runs.object.push(pick(r.o, runAt));
    }
    if (runs.from.length > 0) index.runs.set(id, runs);
    for (let end = producerAt + pick(a.p, i); producerAt < end; producerAt++) {
      setProducer(stream, pick(producerIds, producerAt), { epoch: pick(e.e, producerAt), seq: pick(e.q, producerAt) });
    }
  });
  sealed.s.forEach((stream, i) => {
    const id = { generation: pick(sealed.g, i), epoch: pick(sealed.e, i), number: pick(sealed.n, i) };
    state.stream(pick(ids, stream)).sealed.push({ id, length: pick(sealed.l, i) });
  });
  k.s.forEach((stream, i) => {
    noteNonce(state.stream(pick(ids, stream)).nonces, pick(nonces, pick(k.n, i)), pick(k.c, i));
  });
  for (const stream of state.streams.values()) if (stream.nonces.length === 0 && stream.chain > 0) noteNonce(stream.nonces, NO_NONCE, 0);
  for (const id of splitHex(record["x"] ?? new Uint8Array(0))) state.delete(id);
  state.events = asCount(record["n"]);
  return { container: asCount(record["c"]), position: readPosition(record["p"], record["h"]), state, index };
}

function pick<T>(list: readonly T[], position: number): T {
  const value = list[position];
  if (value === undefined) throw new MalformedBytes("a snapshot is cut off");
  return value;
}
