import { TributaryError } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { evenKeyRanges, type KeyRange } from "@tributary/common/key-hash";
import { type Id, isValidName, type SegmentId, type StreamName, suffixedName } from "@tributary/common/names";

/**
 * What the MetaStore keeps of a name (CBOR map). Everything about a name is decided by changing this one key:
 *
 *   streams/{scope}/{stream} => id contentType segments containers createdAtMs closed state past deletedAtMs
 *
 * A deleted name keeps its key for a while, in state "deleted": `past` tells a late retry of an old creation from a new one.
 */
export interface StreamRecord {
  readonly id: Id;
  readonly contentType: string;
  readonly segments: number;
  /** The container of each segment. Persisted, so that the number of containers can grow without moving anything. */
  readonly containers: readonly number[];
  readonly createdAtMs: number;
  /** It was created closed. */
  readonly closed: boolean;
  readonly state: "open" | "deleting" | "deleted";
  /** Ids that streams of this name had before, the latest last. */
  readonly past: readonly Id[];
  readonly deletedAtMs: number;
}

export const STREAMS_PREFIX = "streams";
export const IDS_PREFIX = "ids";

export function streamKey(name: StreamName): string {
  return `${STREAMS_PREFIX}/${name.scope}/${name.stream}`;
}

/** The name in a stream's key. @throws STORE_CORRUPT */
export function nameOfKey(key: string): StreamName {
  const [prefix, scope, stream, ...rest] = key.split("/");
  if (prefix !== STREAMS_PREFIX || scope === undefined || stream === undefined || rest.length > 0) {
    throw new TributaryError("STORE_CORRUPT", `'${key}' is not the key of a stream`, { key });
  }
  return { scope, stream };
}

export function encodeStreamRecord(record: StreamRecord): Uint8Array {
  return encodeCbor(record);
}

/** @throws STORE_CORRUPT */
export function decodeStreamRecord(key: string, bytes: Uint8Array): StreamRecord {
  const record = decodeMap(key, bytes) as Partial<StreamRecord>;
  const { id, contentType, segments, containers, createdAtMs, closed, state, past, deletedAtMs } = record;
  if (
    typeof id !== "string" ||
    typeof contentType !== "string" ||
    !isNatural(segments) ||
    !Array.isArray(containers) ||
    containers.length !== segments ||
    !containers.every(isNatural) ||
    !isDate(createdAtMs) ||
    typeof closed !== "boolean" ||
    (state !== "open" && state !== "deleting" && state !== "deleted") ||
    !Array.isArray(past) ||
    !past.every((id) => typeof id === "string") ||
    !isDate(deletedAtMs)
  ) {
    throw corrupt(key);
  }
  return { id, contentType, segments, containers, createdAtMs, closed, state, past, deletedAtMs };
}

/**
 * `ids/{streamId}` (CBOR map) points from an id to its name: an index, never a decision. It is written before the name's record
 * and never changed, so whoever reads one may follow it; whether the stream is there the record says: that of the name, or that of
 * the name which the stream gets where another one has taken its own. `probe` stands for a moment in the place of a pointer while
 * somebody makes sure that there is none.
 */
export type IdPointer = { readonly type: "stream"; readonly name: StreamName } | { readonly type: "probe" };

export function idKey(id: Id): string {
  return `${IDS_PREFIX}/${id}`;
}

export function encodeIdPointer(pointer: IdPointer): Uint8Array {
  return encodeCbor(pointer.type === "probe" ? { probe: true } : { scope: pointer.name.scope, stream: pointer.name.stream });
}

/** @throws STORE_CORRUPT */
export function decodeIdPointer(key: string, bytes: Uint8Array): IdPointer {
  const { probe, scope, stream } = decodeMap(key, bytes) as { probe?: unknown; scope?: unknown; stream?: unknown };
  if (probe === true) return { type: "probe" };
  if (typeof scope !== "string" || typeof stream !== "string" || !isValidName(scope) || !isValidName(stream)) throw corrupt(key);
  return { type: "stream", name: { scope, stream } };
}

const ID_CHARS = 8;

/** What a stream is called that comes back after another one has taken its name. */
export function recoveredName(name: StreamName, id: Id): StreamName {
  return suffixedName(name, `.recovered-${id.slice(0, ID_CHARS)}`);
}

/** Segments of a stream that was never scaled. */
export function initialSegments(count: number): { id: SegmentId; range: KeyRange }[] {
  return evenKeyRanges(count).map((range, number) => ({ id: { generation: 0, epoch: 0, number }, range }));
}

function isNatural(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** The largest ms that a Date can hold: beyond it a stream could not be described. */
export const DATE_MS_MAX = 8_640_000_000_000_000;

function isDate(value: unknown): value is number {
  return typeof value === "number" && value >= 0 && value <= DATE_MS_MAX;
}

function decodeMap(key: string, bytes: Uint8Array): object {
  let value: unknown;
  try {
    value = decodeCbor(bytes);
  } catch (error) {
    throw new TributaryError("STORE_CORRUPT", `the value of '${key}' is not CBOR`, { key }, { cause: error });
  }
  if (typeof value !== "object" || value === null) throw corrupt(key);
  return value;
}

function corrupt(key: string): TributaryError {
  return new TributaryError("STORE_CORRUPT", `the value of '${key}' is malformed`, { key });
}
