import {
  decodeFields,
  type Fields,
  flag,
  hex,
  integer,
  invalid,
  lane,
  list,
  optional,
  segmentId,
  streamNameOf,
  text,
} from "@tributary/common/format/fields";
import { LIMITS } from "@tributary/common/limits";
import { INCARNATION_BYTES, STREAM_ID_BYTES, WRITER_ID_BYTES } from "@tributary/common/names";
import type { ControlRequest, FetchRequest, HelloRequest, LevelsRequest, ResolveRequest } from "@tributary/common/uplink-protocol";
import { DATE_MS_MAX } from "./stream-record.ts";

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
  return {
    type: "hello",
    writer: hex(fields["writer"], WRITER_ID_BYTES, "writer"),
    incarnation: hex(fields["incarnation"], INCARNATION_BYTES, "incarnation"),
    parent: optional(fields["parent"], (parent) => hex(parent, INCARNATION_BYTES, "parent")),
    name: text(fields["name"], LIMITS.nameCharsMax, "name"),
    version: text(fields["version"], VERSION_CHARS_MAX, "version"),
  };
}

function resolveRequest(fields: Fields): ResolveRequest {
  const streams = list(fields["streams"], LIMITS.resolveStreamsMax, "streams").map((stream) => {
    return {
      name: streamNameOf(stream["name"]),
      provisionalId: hex(stream["provisionalId"], STREAM_ID_BYTES, "provisionalId"),
      contentType: text(stream["contentType"], LIMITS.contentTypeCharsMax, "contentType"),
      segments: integer(stream["segments"], 1, LIMITS.segmentsPerStreamMax, "segments"),
      createdAtMs: integer(stream["createdAtMs"], 0, DATE_MS_MAX, "createdAtMs"),
      create: flag(stream["create"], "create"),
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
