import { LIMITS } from "@tributary/common/limits";
import { isValidName, type StreamName } from "@tributary/common/names";
import type { StateChange, StreamMapping } from "./edge-store.ts";
import { fields, flag, integer, list, malformed, natural, streamIdOfHex, text } from "./meta-checks.ts";

/** A change of state as a commit holds it, read strictly. This and all below throw MalformedBytes. */
export function readStateChange(value: unknown): StateChange {
  const change = fields(value, "state change");
  const type = change["type"];
  switch (type) {
    case "create-stream":
      return {
        type,
        id: streamIdOfHex(change["id"]),
        name: readStreamName(change["name"]),
        contentType: text(change["contentType"], "content type"),
        segments: readSegments(change["segments"]),
        createdAtMs: integer(change["createdAtMs"], "creation time"),
        closed: flag(change["closed"], "closed flag"),
      };
    case "map-stream":
      return { type, id: streamIdOfHex(change["id"]), mapping: readMapping(change["mapping"]) };
    case "close-stream":
    case "delete-stream":
      return { type, id: streamIdOfHex(change["id"]) };
    case "stream-seq":
      return { type, id: streamIdOfHex(change["id"]), streamSeq: text(change["streamSeq"], "Stream-Seq") };
    case "producer":
      return {
        type,
        id: streamIdOfHex(change["id"]),
        producerId: text(change["producerId"], "producer id"),
        epoch: natural(change["epoch"], "epoch"),
        seq: natural(change["seq"], "sequence"),
      };
    case "packet-id": {
      const taken = { type, clientId: text(change["clientId"], "client id"), packetId: natural(change["packetId"], "packet id") } as const;
      return change["digest"] === undefined ? taken : { ...taken, digest: natural(change["digest"], "digest") };
    }
    case "release-packet-id":
      return { type, clientId: text(change["clientId"], "client id"), packetId: natural(change["packetId"], "packet id") };
    case "clear-packet-ids":
      return { type, clientId: text(change["clientId"], "client id") };
    default:
      throw malformed("kind of state change");
  }
}

function readStreamName(value: unknown): StreamName {
  const { scope, stream } = fields(value, "name") as { readonly scope?: unknown; readonly stream?: unknown };
  return readName(scope, stream);
}

export function readName(scope: unknown, stream: unknown): StreamName {
  const name = { scope: text(scope, "scope"), stream: text(stream, "stream") };
  if (!isValidName(name.scope) || !isValidName(name.stream)) throw malformed("name");
  return name;
}

export function readSegments(value: unknown): number {
  const segments = natural(value, "number of segments");
  if (segments < 1 || segments > LIMITS.segmentsPerStreamMax) throw malformed("number of segments");
  return segments;
}

function readMapping(value: unknown): StreamMapping {
  const { id, segments, containers } = fields(value, "mapping") as { readonly [K in keyof StreamMapping]?: unknown };
  return mappingOf(streamIdOfHex(id), segments, containers);
}

export function mappingOf(id: string, segments: unknown, containers: unknown): StreamMapping {
  const mapping = {
    id,
    segments: readSegments(segments),
    containers: list(containers, "containers", (entry) => natural(entry, "container")),
  };
  if (mapping.containers.length !== mapping.segments) throw malformed("containers");
  return mapping;
}
