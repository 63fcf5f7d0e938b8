import { encodeCbor } from "@tributary/common/format/cbor";
import {
  bytes,
  decodeFields,
  type Fields,
  fieldsOf,
  flag,
  hex,
  integer,
  invalid,
  items,
  list,
  natural,
  optional,
  segmentId,
  streamNameOf,
  text,
} from "@tributary/common/format/fields";
import { LIMITS } from "@tributary/common/limits";
import { type Id, STREAM_ID_BYTES } from "@tributary/common/names";
import type { AppendRequest, EventPack, ProducerToken, ReadLevel } from "@tributary/common/stream-service";
import type { ContainerStream, StreamOrigin } from "../container/container.ts";
import type { Position } from "../container/nonces.ts";
import { DATE_MS_MAX } from "../service/stream-record.ts";
import type { ReadFrom } from "./container-access.ts";
import { levelOf, positionOf } from "./positions.ts";

/**
 * What core nodes ask of each other, on the subject `tributary.{cluster}.node.{node}.{operation}` of the node that owns the container.
 * Every request is a CBOR map with the member `container`; a block travels as bytes. Nothing of it is persisted.
 */
export const NODE_OPERATIONS = ["ensure", "append", "block", "levels", "read", "wait", "describe", "delete"] as const;
export type NodeOperation = (typeof NODE_OPERATIONS)[number];

export const NODE_SUBJECTS = {
  operation: (cluster: string, node: Id, operation: NodeOperation): string => `tributary.${cluster}.node.${node}.${operation}`,
  /** Published by a node that no longer waits; its payload is the id of the wait. */
  cancel: (cluster: string, node: Id): string => `tributary.${cluster}.node.${node}.cancel`,
} as const;

/** Id of a wait or an append: random bytes of the node that asks, and a number. */
export const REQUEST_ID_CHARS_MAX = 64;
const STREAM_SEQ_CHARS_MAX = 256;

interface OfStream {
  readonly container: number;
  readonly streamId: Id;
}

export interface EnsureRequest {
  readonly container: number;
  readonly stream: ContainerStream;
}

export interface BytesRequest {
  readonly container: number;
  readonly bytes: Uint8Array;
}

export interface NodeAppendRequest extends OfStream {
  /** Never used twice: by it the owner knows a request that the network brings again. undefined: of a node of an earlier version. */
  readonly id: string | undefined;
  readonly request: AppendRequest;
}

export interface NodeReadRequest extends OfStream {
  readonly from: ReadFrom;
  readonly eventsMax: number;
  readonly bytesMax: number;
  readonly level: ReadLevel;
}

export interface NodeWaitRequest extends OfStream {
  readonly id: string;
  readonly position: Position;
  readonly timeoutMs: number;
  readonly level: ReadLevel;
}

export interface DescribeRequest {
  readonly container: number;
  readonly streamIds: readonly Id[];
}

export const encodeEnsure = (request: EnsureRequest): Uint8Array => encodeCbor(request);

export const encodeBytes = ({ container, bytes }: BytesRequest): Uint8Array => encodeCbor({ container, bytes });

export const encodeRead = (request: NodeReadRequest): Uint8Array => encodeCbor(request);

export const encodeWait = (request: NodeWaitRequest): Uint8Array => encodeCbor(request);

export const encodeDescribe = (request: DescribeRequest): Uint8Array => encodeCbor(request);

export const encodeDelete = (request: OfStream): Uint8Array => encodeCbor(request);

export function encodeAppend({ id, container, streamId, request }: NodeAppendRequest): Uint8Array {
  const { events, contentType, producer, streamSeq, close } = request;
  return encodeCbor({
    ...(id !== undefined && { id }),
    container,
    streamId,
    ...(events && { events: encodePack(events) }),
    ...(contentType !== undefined && { contentType }),
    ...(producer && { producer: { id: producer.id, epoch: producer.epoch, seq: producer.seq } }),
    ...(streamSeq !== undefined && { streamSeq }),
    ...(close !== undefined && { close }),
  });
}

/** Lengths instead of ends: small events then cost a byte or two each. */
function encodePack({ count, payload, ends, keys, timesMs }: EventPack): object {
  const lengths = Array.from({ length: count }, (_, i) => (ends[i] as number) - (i === 0 ? 0 : (ends[i - 1] as number)));
  return { payload, lengths, ...(keys !== undefined && { keys }), ...(timesMs !== undefined && { timesMs }) };
}

/** @throws INVALID_REQUEST, like all that follow */
export function decodeEnsure(payload: Uint8Array): EnsureRequest {
  const fields = decode(payload);
  const stream = fieldsOf(fields["stream"], "stream");
  const segments = list(stream["segments"], LIMITS.segmentsPerStreamMax, "segments").map(segmentId);
  const origin = optional(stream["origin"], streamOrigin);
  return {
    container: containerIn(fields),
    stream: {
      id: hex(stream["id"], STREAM_ID_BYTES, "id"),
      segments,
      contentType: text(stream["contentType"], LIMITS.contentTypeCharsMax, "contentType"),
      closed: flag(stream["closed"], "closed"),
      ...(origin && { origin }),
    },
  };
}

function streamOrigin(value: unknown): StreamOrigin {
  const fields = fieldsOf(value, "origin");
  return {
    name: streamNameOf(fields["name"]),
    createdAtMs: integer(fields["createdAtMs"], 0, DATE_MS_MAX, "createdAtMs"),
    containers: items(fields["containers"], LIMITS.segmentsPerStreamMax, "containers").map((container) => natural(container, "container")),
  };
}

export function decodeBytes(payload: Uint8Array): BytesRequest {
  const fields = decode(payload);
  return { container: containerIn(fields), bytes: bytes(fields["bytes"], LIMITS.blockBytesMax, "bytes") };
}

export function decodeAppend(payload: Uint8Array): NodeAppendRequest {
  const fields = decode(payload);
  const producer = optional(fields["producer"], producerToken);
  const streamSeq = optional(fields["streamSeq"], (value) => text(value, STREAM_SEQ_CHARS_MAX, "streamSeq"));
  const close = optional(fields["close"], (value) => flag(value, "close"));
  return {
    id: optional(fields["id"], (value) => text(value, REQUEST_ID_CHARS_MAX, "id")),
    ...ofStream(fields),
    request: {
      events: optional(fields["events"], eventPack),
      contentType: optional(fields["contentType"], (value) => text(value, LIMITS.contentTypeCharsMax, "contentType")),
      ...(producer && { producer }),
      ...(streamSeq !== undefined && { streamSeq }),
      ...(close !== undefined && { close }),
    },
  };
}

export function decodeRead(payload: Uint8Array): NodeReadRequest {
  const fields = decode(payload);
  const from = fields["from"];
  return {
    ...ofStream(fields),
    from: from === "first" || from === "end" ? from : positionOf(from),
    eventsMax: integer(fields["eventsMax"], 1, Number.MAX_SAFE_INTEGER, "eventsMax"),
    bytesMax: integer(fields["bytesMax"], 1, Number.MAX_SAFE_INTEGER, "bytesMax"),
    level: levelOf(fields["level"]),
  };
}

export function decodeWait(payload: Uint8Array): NodeWaitRequest {
  const fields = decode(payload);
  return {
    ...ofStream(fields),
    id: text(fields["id"], REQUEST_ID_CHARS_MAX, "id"),
    position: positionOf(fields["position"]),
    timeoutMs: integer(fields["timeoutMs"], 0, LIMITS.nodeWaitMsMax, "timeoutMs"),
    level: levelOf(fields["level"]),
  };
}

export function decodeDescribe(payload: Uint8Array): DescribeRequest {
  const fields = decode(payload);
  const streamIds = items(fields["streamIds"], LIMITS.nodeDescribeStreamsMax, "streamIds").map((id) =>
    hex(id, STREAM_ID_BYTES, "streamId"),
  );
  return { container: containerIn(fields), streamIds };
}

export function decodeDelete(payload: Uint8Array): OfStream {
  return ofStream(decode(payload));
}

function decode(payload: Uint8Array): Fields {
  return decodeFields(payload, LIMITS.frameBytesMax);
}

function containerIn(fields: Fields): number {
  return natural(fields["container"], "container");
}

function ofStream(fields: Fields): OfStream {
  return { container: containerIn(fields), streamId: hex(fields["streamId"], STREAM_ID_BYTES, "streamId") };
}

function producerToken(value: unknown): ProducerToken {
  const fields = fieldsOf(value, "producer");
  return {
    id: text(fields["id"], LIMITS.producerIdCharsMax, "producer id"),
    epoch: natural(fields["epoch"], "producer epoch"),
    seq: natural(fields["seq"], "producer seq"),
  };
}

function eventPack(value: unknown): EventPack {
  const fields = fieldsOf(value, "events");
  const payload = bytes(fields["payload"], LIMITS.requestBytesMax, "payload");
  const lengths = items(fields["lengths"], LIMITS.requestEventsMax, "lengths");
  const count = lengths.length;
  const ends = new Uint32Array(count);
  let end = 0;
  for (let i = 0; i < count; i++) {
    end += integer(lengths[i], 0, LIMITS.eventBytesMax, "length");
    ends[i] = end;
  }
  if (end !== payload.length) throw invalid("the lengths of events do not add up to their payload");
  const keys = optional(fields["keys"], (given) =>
    typeof given === "string" ? routingKey(given) : eachOf(given, count, "keys", routingKey),
  );
  const timesMs = optional(fields["timesMs"], (given) => (typeof given === "number" ? time(given) : eachOf(given, count, "timesMs", time)));
  return { count, payload, ends, keys, timesMs };
}

function eachOf<T>(value: unknown, count: number, what: string, read: (item: unknown) => T): T[] {
  const all = items(value, count, what);
  if (all.length !== count) throw invalid(`${what} must have one entry an event`);
  return all.map(read);
}

function routingKey(value: unknown): string {
  return text(value, LIMITS.routingKeyBytesMax, "key");
}

function time(value: unknown): number {
  return integer(value, 0, DATE_MS_MAX, "time");
}
