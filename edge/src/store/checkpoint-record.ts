import { bytesToHex, hexToBytes, type Id, LANES, type Lane, STREAM_ID_BYTES } from "@tributary/common/names";
import type { EdgeStateSnapshot, EdgeStream } from "./edge-store.ts";
import type { GapSnapshot } from "./gap-ledger.ts";
import type { LastNumber } from "./incarnation-record.ts";
import { corrupt, type EncodedRecord, encodeRecord, type RawRecord, RECORD_KIND } from "./record.ts";
import type { FoldSnapshot } from "./uplink-fold.ts";

/**
 * Checkpoint record: everything that recovery would otherwise have to fold from the first record on. Its meta is a CBOR map:
 *
 *   w writer id         i incarnation (missing in a log that has none yet)
 *   e events of all commits before it
 *   n [stream id, lane, last number] of this incarnation
 *   s streams: [id, scope, stream, content type, segments, created at ms, flags (1 closed, 2 deleted), next ordinal, first ordinal,
 *     Stream-Seq, null or [core's id, segments, containers]]
 *   d producers: [stream id, [producer id, epoch, seq]*], least recently used first
 *   q packet ids: [client id, packet ids], least recently used first
 *   u the fold at the freed position, see uplink-fold.ts
 *   g gaps between the freed position and the first record, see gap-ledger.ts
 *   t every record up to this sequence may be removed. Also the intent of a drop (rule W6): recovery carries it out
 *   k sequences of checkpoints before it
 *
 * The body lists what local reads look up without decoding the meta: for each stream id:16 bytes, then for each stream, in the
 * same order, next ordinal:f64.
 */
export interface Checkpoint {
  readonly writer: Id;
  readonly incarnation: Id | undefined;
  readonly events: number;
  readonly numbers: readonly LastNumber[];
  readonly state: EdgeStateSnapshot;
  readonly fold: FoldSnapshot;
  readonly gaps: GapSnapshot;
  readonly truncateThrough: number;
  readonly checkpoints: readonly number[];
}

type StreamRow = [
  Uint8Array,
  string,
  string,
  string,
  number,
  number,
  number,
  number,
  number,
  string,
  null | [Uint8Array, number, readonly number[]],
];

interface CheckpointMeta {
  w: Uint8Array;
  i?: Uint8Array;
  e: number;
  n: [Uint8Array, number, number][];
  s: StreamRow[];
  d: [Uint8Array, [string, number, number][]][];
  q: [string, readonly number[]][];
  u: FoldSnapshot;
  g: GapSnapshot;
  t: number;
  k: readonly number[];
}

const FLAG = { closed: 1, deleted: 2 } as const;

export function encodeCheckpoint(seq: number, previous: number, checkpoint: Checkpoint): EncodedRecord {
  const { streams, producers, packetIds } = checkpoint.state;
  const byStream = new Map<Id, [string, number, number][]>();
  for (const { streamId, producerId, epoch, seq } of producers) {
    const rows = byStream.get(streamId) ?? [];
    rows.push([producerId, epoch, seq]);
    byStream.set(streamId, rows);
  }
  const meta: CheckpointMeta = {
    w: hexToBytes(checkpoint.writer),
    ...(checkpoint.incarnation === undefined ? {} : { i: hexToBytes(checkpoint.incarnation) }),
    e: checkpoint.events,
    n: checkpoint.numbers.map(({ id, lane, last }) => [hexToBytes(id), LANES.indexOf(lane), last]),
    s: streams.map(streamRow),
    d: Array.from(byStream, ([id, rows]) => [hexToBytes(id), rows]),
    q: packetIds.map(({ clientId, packetIds: ids }) => [clientId, ids]),
    u: checkpoint.fold,
    g: checkpoint.gaps,
    t: checkpoint.truncateThrough,
    k: checkpoint.checkpoints,
  };
  const ordinals = new Uint8Array(streams.length * (STREAM_ID_BYTES + 8));
  const view = new DataView(ordinals.buffer);
  streams.forEach((stream, i) => {
    ordinals.set(hexToBytes(stream.id), i * STREAM_ID_BYTES);
    view.setFloat64(streams.length * STREAM_ID_BYTES + i * 8, stream.nextOrdinal, true);
  });
  return encodeRecord(RECORD_KIND.checkpoint, seq, previous, meta, [ordinals]);
}

/** @throws STORE_CORRUPT */
export function decodeCheckpoint(raw: RawRecord): Checkpoint {
  const meta = raw.meta() as CheckpointMeta;
  try {
    return {
      writer: bytesToHex(meta.w),
      incarnation: meta.i ? bytesToHex(meta.i) : undefined,
      events: meta.e,
      numbers: meta.n.map(([id, lane, last]) => ({ id: bytesToHex(id), lane: LANES[lane] as Lane, last })),
      state: {
        streams: meta.s.map(streamOf),
        producers: meta.d.flatMap(([id, rows]) => {
          const streamId = bytesToHex(id);
          return rows.map(([producerId, epoch, seq]) => ({ streamId, producerId, epoch, seq }));
        }),
        packetIds: meta.q.map(([clientId, packetIds]) => ({ clientId, packetIds })),
      },
      fold: meta.u,
      gaps: meta.g,
      truncateThrough: meta.t,
      checkpoints: meta.k,
    };
  } catch (error) {
    throw corrupt(raw.seq, error instanceof Error ? error.message : "malformed checkpoint");
  }
}

/** Next ordinal of a stream as of the checkpoint with this body; 0 if it did not exist. */
export function ordinalAt(body: Uint8Array, id: Id): number {
  const count = body.length / (STREAM_ID_BYTES + 8);
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  const ids = bytes.subarray(0, count * STREAM_ID_BYTES);
  const wanted = hexToBytes(id);
  for (let at = ids.indexOf(wanted); at >= 0; at = ids.indexOf(wanted, at + 1)) {
    if (at % STREAM_ID_BYTES === 0) return bytes.readDoubleLE(count * STREAM_ID_BYTES + (at / STREAM_ID_BYTES) * 8);
  }
  return 0;
}

function streamRow(stream: EdgeStream): StreamRow {
  const { mapping } = stream;
  return [
    hexToBytes(stream.id),
    stream.name.scope,
    stream.name.stream,
    stream.contentType,
    stream.segments,
    stream.createdAtMs,
    (stream.closed ? FLAG.closed : 0) | (stream.deleted ? FLAG.deleted : 0),
    stream.nextOrdinal,
    stream.firstOrdinal,
    stream.streamSeq,
    mapping ? [hexToBytes(mapping.id), mapping.segments, mapping.containers] : null,
  ];
}

function streamOf(row: StreamRow): EdgeStream {
  const [id, scope, stream, contentType, segments, createdAtMs, flags, nextOrdinal, firstOrdinal, streamSeq, mapping] = row;
  return {
    id: bytesToHex(id),
    name: { scope, stream },
    contentType,
    segments,
    createdAtMs,
    closed: (flags & FLAG.closed) !== 0,
    deleted: (flags & FLAG.deleted) !== 0,
    nextOrdinal,
    firstOrdinal,
    streamSeq,
    mapping: mapping ? { id: bytesToHex(mapping[0]), segments: mapping[1], containers: mapping[2] } : undefined,
  };
}
