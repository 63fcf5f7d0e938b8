import { TributaryError } from "@tributary/common/errors";
import { decodeCbor } from "@tributary/common/format/cbor";
import { LIMITS } from "@tributary/common/limits";
import {
  type Id,
  INCARNATION_BYTES,
  isValidName,
  LANES,
  type Lane,
  type SegmentId,
  STREAM_ID_BYTES,
  type StreamName,
  WRITER_ID_BYTES,
} from "@tributary/common/names";
import type { ControlRequest, FetchRequest, HelloRequest, LevelsRequest, ResolveRequest } from "@tributary/common/uplink-protocol";
import { DATE_MS_MAX } from "./stream-record.ts";

// Requests come from other machines and other versions: every field is looked at before it is used.

type Fields = Readonly<Record<string, unknown>>;
const VERSION_CHARS_MAX = 64;
const OFFSET_CHARS_MAX = 256;

/** @throws INVALID_REQUEST */
export function decodeControlRequest(payload: Uint8Array): ControlRequest {
  const fields = decodeFields(payload, LIMITS.controlRequestBytesMax);
  switch (fields["type"]) {
    case "hello":
      return helloRequest(fields);
    case "resolve":
      return resolveRequest(fields);
    case "fetch":
      return fetchRequest(fields);
    default:
      throw invalid("unknown type of control request");
  }
}

/** @throws INVALID_REQUEST */
export function decodeLevelsRequest(payload: Uint8Array): LevelsRequest {
  const fields = decodeFields(payload, LIMITS.blockBytesMax);
  const entries = list(fields["entries"], LIMITS.blockSlicesMax, "entries").map((entry) => {
    return {
      streamId: hex(entry["streamId"], STREAM_ID_BYTES, "streamId"),
      segment: segmentId(entry["segment"]),
      incarnation: hex(entry["incarnation"], INCARNATION_BYTES, "incarnation"),
      lane: lane(entry["lane"]),
    };
  });
  return { writer: hex(fields["writer"], WRITER_ID_BYTES, "writer"), entries };
}

function helloRequest(fields: Fields): HelloRequest {
  const parent = fields["parent"];
  return {
    type: "hello",
    writer: hex(fields["writer"], WRITER_ID_BYTES, "writer"),
    incarnation: hex(fields["incarnation"], INCARNATION_BYTES, "incarnation"),
    parent: parent === undefined || parent === null ? undefined : hex(parent, INCARNATION_BYTES, "parent"),
    name: text(fields["name"], LIMITS.nameCharsMax, "name"),
    version: text(fields["version"], VERSION_CHARS_MAX, "version"),
  };
}

function resolveRequest(fields: Fields): ResolveRequest {
  const streams = list(fields["streams"], LIMITS.resolveStreamsMax, "streams").map((stream) => {
    const create = stream["create"];
    if (typeof create !== "boolean") throw invalid("create must be true or false");
    return {
      name: streamNameOf(stream["name"]),
      provisionalId: hex(stream["provisionalId"], STREAM_ID_BYTES, "provisionalId"),
      contentType: text(stream["contentType"], LIMITS.contentTypeCharsMax, "contentType"),
      segments: integer(stream["segments"], 1, LIMITS.segmentsPerStreamMax, "segments"),
      createdAtMs: integer(stream["createdAtMs"], 0, DATE_MS_MAX, "createdAtMs"),
      create,
    };
  });
  return { type: "resolve", streams };
}

function fetchRequest(fields: Fields): FetchRequest {
  return {
    type: "fetch",
    name: streamNameOf(fields["name"]),
    writer: hex(fields["writer"], WRITER_ID_BYTES, "writer"),
    offset: text(fields["offset"], OFFSET_CHARS_MAX, "offset"),
    bytesMax: integer(fields["bytesMax"], 1, Number.MAX_SAFE_INTEGER, "bytesMax"),
  };
}

function decodeFields(payload: Uint8Array, bytesMax: number): Fields {
  if (payload.length > bytesMax) throw invalid(`a request of this kind has at most ${bytesMax} bytes`);
  let value: unknown;
  try {
    value = decodeCbor(payload);
  } catch (error) {
    throw new TributaryError("INVALID_REQUEST", "the request is not CBOR", {}, { cause: error });
  }
  return fieldsOf(value, "the request");
}

function fieldsOf(value: unknown, what: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Uint8Array) {
    throw invalid(`${what} must be a map`);
  }
  return value as Fields;
}

function list(value: unknown, countMax: number, what: string): Fields[] {
  if (!Array.isArray(value)) throw invalid(`${what} must be a list`);
  if (value.length > countMax) throw invalid(`${what} may have at most ${countMax} entries`);
  return value.map((entry) => fieldsOf(entry, `an entry of ${what}`));
}

function text(value: unknown, charsMax: number, what: string): string {
  if (typeof value !== "string" || value.length > charsMax) throw invalid(`${what} must be a text of at most ${charsMax} characters`);
  return value;
}

function hex(value: unknown, byteCount: number, what: string): Id {
  if (typeof value !== "string" || value.length !== 2 * byteCount || !/^[0-9a-f]*$/.test(value)) {
    throw invalid(`${what} must have ${2 * byteCount} hex digits in lower case`);
  }
  return value;
}

function integer(value: unknown, min: number, max: number, what: string): number {
  if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max) {
    throw invalid(`${what} must be an integer from ${min} to ${max}`);
  }
  return value as number;
}

function lane(value: unknown): Lane {
  const known = LANES.find((candidate) => candidate === value);
  if (!known) throw invalid("unknown lane");
  return known;
}

function segmentId(value: unknown): SegmentId {
  const fields = fieldsOf(value, "segment");
  const part = (name: string) => integer(fields[name], 0, Number.MAX_SAFE_INTEGER, name);
  return { generation: part("generation"), epoch: part("epoch"), number: part("number") };
}

function streamNameOf(value: unknown): StreamName {
  const { scope, stream } = fieldsOf(value, "name");
  if (typeof scope !== "string" || typeof stream !== "string" || !isValidName(scope) || !isValidName(stream)) {
    throw invalid("name must have a valid scope and stream");
  }
  return { scope, stream };
}

function invalid(message: string): TributaryError {
  return new TributaryError("INVALID_REQUEST", message);
}
