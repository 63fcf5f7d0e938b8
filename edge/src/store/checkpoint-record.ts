import { hexToBytes, type Id, INCARNATION_BYTES, LANES, STREAM_ID_BYTES, WRITER_ID_BYTES } from "@tributary/common/names";
import { mappingOf, readName, readSegments } from "./change-checks.ts";
import { DIGEST_UNKNOWN } from "./edge-state.ts";
import type { EdgeProducer, EdgeStateSnapshot, EdgeStream } from "./edge-store.ts";
import type { GapSnapshot } from "./gap-ledger.ts";
import { type LastNumber, readLastNumber } from "./incarnation-record.ts";
import type { LocalEra } from "./local-eras.ts";
import { fields, idOfBytes, integer, laneAt, list, malformed, natural, row, text } from "./meta-checks.ts";
import { corrupt, type EncodedRecord, encodeRecord, type RawRecord, RECORD_KIND } from "./record.ts";
import { readFold, readGaps } from "./state-checks.ts";
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
 *   h digests of the publishes under them: a list for each row of q, −1 where it is not known (missing: nowhere)
 *   u the fold at the freed position, see uplink-fold.ts
 *   g gaps between the freed position and the first record, see gap-ledger.ts
 *   t every record up to this sequence may be removed. Also the intent of a drop (rule W6): recovery carries it out
 *   k sequences of checkpoints before it
 *   v incarnations that a names (missing: none)
 *   a eras: [stream id, [position in v, lane, ordinal, count, first number]*] of each stream that has any (missing: none has)
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
  h: (readonly number[])[];
  u: FoldSnapshot;
  g: GapSnapshot;
  t: number;
  k: readonly number[];
  v: Uint8Array[];
  a: [Uint8Array, EraRow[]][];
}

type EraRow = [incarnation: number, lane: number, ordinal: number, count: number, first: number];

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
    h: packetIds.map(({ digests }) => digests),
    u: checkpoint.fold,
    g: checkpoint.gaps,
    t: checkpoint.truncateThrough,
    k: checkpoint.checkpoints,
    ...eraRows(streams),
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
  try {
    const meta = fields(raw.meta(), "checkpoint");
    const digests = list(meta["h"] ?? [], "digests", (row) => list(row, "digests", (digest) => integer(digest, "digest")));
    const eras = erasOf(meta["v"] ?? [], meta["a"] ?? []);
    const checkpoint: Checkpoint = {
      writer: idOfBytes(meta["w"], WRITER_ID_BYTES, "writer"),
      incarnation: meta["i"] === undefined ? undefined : idOfBytes(meta["i"], INCARNATION_BYTES, "incarnation"),
      events: natural(meta["e"], "events"),
      numbers: list(meta["n"], "numbers", readLastNumber),
      state: {
        streams: list(meta["s"], "streams", (entry) => streamOf(entry, eras)),
        producers: list(meta["d"], "producers", producersOf).flat(),
        packetIds: list(meta["q"], "packet ids", (entry) => {
          const [clientId, ids] = row(entry, 2, "packet ids");
          const packetIds = list(ids, "packet ids", (id) => natural(id, "packet id"));
          return { clientId: text(clientId, "client id"), packetIds, digests: packetIds.map(() => DIGEST_UNKNOWN) };
        }).map((held, i) => ({ ...held, digests: digests[i] ?? held.digests })),
      },
      fold: readFold(meta["u"]),
      gaps: readGaps(meta["g"]),
      truncateThrough: natural(meta["t"], "truncation"),
      checkpoints: list(meta["k"], "checkpoints", (seq) => natural(seq, "checkpoint")),
    };
    if (checkpoint.state.packetIds.some((held) => held.digests.length !== held.packetIds.length)) throw malformed("digests");
    // It speaks of what lies before it.
    const { fold, truncateThrough, checkpoints, events } = checkpoint;
    if (Math.max(fold.position, truncateThrough, ...checkpoints.slice(-1)) >= raw.seq || fold.events > events)
      throw malformed("checkpoint");
    if (checkpoints.some((seq, i) => i > 0 && seq <= (checkpoints[i - 1] as number))) throw malformed("checkpoints");
    return checkpoint;
  } catch (error) {
    throw corrupt(raw.seq, error instanceof Error ? error.message : "malformed checkpoint");
  }
}

function producersOf(value: unknown): EdgeProducer[] {
  const [id, rows] = row(value, 2, "producers");
  const streamId = idOfBytes(id, STREAM_ID_BYTES, "stream id");
  return list(rows, "producers", (entry) => {
    const [producerId, epoch, seq] = row(entry, 3, "producer");
    return { streamId, producerId: text(producerId, "producer id"), epoch: natural(epoch, "epoch"), seq: natural(seq, "sequence") };
  });
}

/** Next ordinal of a stream as of the checkpoint with this body; 0 if it did not exist. */
export function ordinalAt(body: Uint8Array, id: Id): number {
  const count = Math.floor(body.length / (STREAM_ID_BYTES + 8));
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

function streamOf(value: unknown, eras: ReadonlyMap<Id, LocalEra[]>): EdgeStream {
  const [id, scope, stream, contentType, segments, createdAtMs, flags, nextOrdinal, firstOrdinal, streamSeq, mapping] = row(
    value,
    11,
    "stream",
  );
  const bits = natural(flags, "flags");
  const read: EdgeStream = {
    id: idOfBytes(id, STREAM_ID_BYTES, "stream id"),
    name: readName(scope, stream),
    contentType: text(contentType, "content type"),
    segments: readSegments(segments),
    createdAtMs: integer(createdAtMs, "creation time"),
    closed: (bits & FLAG.closed) !== 0,
    deleted: (bits & FLAG.deleted) !== 0,
    nextOrdinal: natural(nextOrdinal, "ordinal"),
    firstOrdinal: natural(firstOrdinal, "ordinal"),
    eras: [],
    streamSeq: text(streamSeq, "Stream-Seq"),
    mapping: mapping === null ? undefined : readMappingRow(mapping),
  };
  if (read.firstOrdinal > read.nextOrdinal) throw malformed("ordinals");
  const own = eras.get(read.id) ?? [];
  const follow = own.every((era, i) => era.ordinal + era.count <= (own[i + 1]?.ordinal ?? read.nextOrdinal));
  if (!follow) throw malformed("eras");
  return { ...read, eras: own };
}

/** Incarnations stand once, since most streams have them in common. */
function eraRows(streams: readonly EdgeStream[]): Pick<CheckpointMeta, "v" | "a"> {
  const positions = new Map<Id, number>();
  const position = (incarnation: Id) => {
    const known = positions.get(incarnation) ?? positions.size;
    positions.set(incarnation, known);
    return known;
  };
  const rows = streams
    .filter(({ eras }) => eras.length > 0)
    .map(({ id, eras }): [Uint8Array, EraRow[]] => [
      hexToBytes(id),
      eras.map((era) => [position(era.incarnation), LANES.indexOf(era.lane), era.ordinal, era.count, era.first]),
    ]);
  return { v: Array.from(positions.keys(), hexToBytes), a: rows };
}

function erasOf(incarnations: unknown, rows: unknown): Map<Id, LocalEra[]> {
  const ids = list(incarnations, "incarnations", (id) => idOfBytes(id, INCARNATION_BYTES, "incarnation"));
  return new Map(
    list(rows, "eras", (entry) => {
      const [id, eras] = row(entry, 2, "eras");
      return [idOfBytes(id, STREAM_ID_BYTES, "stream id"), list(eras, "eras", (era) => eraOf(era, ids))] as const;
    }),
  );
}

function eraOf(value: unknown, incarnations: readonly Id[]): LocalEra {
  const [position, lane, ordinal, count, first] = row(value, 5, "era");
  const incarnation = incarnations[natural(position, "incarnation")];
  if (incarnation === undefined) throw malformed("incarnation");
  return {
    ordinal: natural(ordinal, "ordinal"),
    count: natural(count, "count"),
    incarnation,
    lane: laneAt(lane),
    first: natural(first, "number"),
  };
}

function readMappingRow(value: unknown): EdgeStream["mapping"] {
  const [id, segments, containers] = row(value, 3, "mapping");
  return mappingOf(idOfBytes(id, STREAM_ID_BYTES, "stream id"), segments, containers);
}
