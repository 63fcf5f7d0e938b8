import { hexToBytes, type Id, INCARNATION_BYTES, LANES, type Lane, STREAM_ID_BYTES, WRITER_ID_BYTES } from "@tributary/common/names";
import { fields, idOfBytes, laneAt, list, natural, row } from "./meta-checks.ts";
import { corrupt, encodeRecord, type RawRecord, RECORD_KIND } from "./record.ts";

/**
 * Incarnation record: written and durable before an incarnation acknowledges anything (rule W1). Its meta is a CBOR map:
 *
 *   w writer id    i incarnation    p parent incarnation (missing on the first start of a log)
 *   n [stream id, lane, last number] of every stream and lane that the parent wrote to, as far as recovery could know
 *   f ids of deleted streams that are forgotten from here on: nothing of them is held
 *
 * Ids are byte strings, lanes positions in LANES.
 */
interface IncarnationMeta {
  w: Uint8Array;
  i: Uint8Array;
  p?: Uint8Array;
  n?: [Uint8Array, number, number][];
  f?: Uint8Array[];
}

export interface LastNumber {
  readonly id: Id;
  readonly lane: Lane;
  readonly last: number;
}

export interface IncarnationRecord {
  readonly kind: "incarnation";
  readonly seq: number;
  readonly bytes: number;
  /** Sequence of the newest checkpoint before it, 0 if there is none. */
  readonly checkpoint: number;
  readonly writer: Id;
  readonly incarnation: Id;
  readonly parent: Id | undefined;
  readonly parentLasts: readonly LastNumber[];
  readonly forgotten: readonly Id[];
}

export function encodeIncarnation(record: Omit<IncarnationRecord, "kind" | "bytes">): Uint8Array {
  const meta: IncarnationMeta = { w: hexToBytes(record.writer), i: hexToBytes(record.incarnation) };
  if (record.parent !== undefined) meta.p = hexToBytes(record.parent);
  if (record.parentLasts.length > 0) {
    meta.n = record.parentLasts.map(({ id, lane, last }) => [hexToBytes(id), LANES.indexOf(lane), last]);
  }
  if (record.forgotten.length > 0) meta.f = record.forgotten.map(hexToBytes);
  return encodeRecord(RECORD_KIND.incarnation, record.seq, record.checkpoint, meta, []).bytes;
}

/** @throws STORE_CORRUPT */
export function decodeIncarnation(raw: RawRecord, bytes: number): IncarnationRecord {
  try {
    const meta = fields(raw.meta(), "incarnation record");
    return {
      kind: "incarnation",
      seq: raw.seq,
      bytes,
      checkpoint: raw.checkpoint,
      writer: idOfBytes(meta["w"], WRITER_ID_BYTES, "writer"),
      incarnation: idOfBytes(meta["i"], INCARNATION_BYTES, "incarnation"),
      parent: meta["p"] === undefined ? undefined : idOfBytes(meta["p"], INCARNATION_BYTES, "parent"),
      parentLasts: list(meta["n"] ?? [], "numbers", readLastNumber),
      forgotten: list(meta["f"] ?? [], "forgotten streams", (id) => idOfBytes(id, STREAM_ID_BYTES, "stream id")),
    };
  } catch (error) {
    throw corrupt(raw.seq, error instanceof Error ? error.message : "malformed incarnation");
  }
}

/** [stream id, lane, last number]. @throws MalformedBytes */
export function readLastNumber(value: unknown): LastNumber {
  const [id, lane, last] = row(value, 3, "number");
  return { id: idOfBytes(id, STREAM_ID_BYTES, "stream id"), lane: laneAt(lane), last: natural(last, "last number") };
}
