import { canonicalContentType } from "../content-type.ts";
import { hasCode, TributaryError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { StreamName } from "../names.ts";
import type { CreateOptions, EventPack, StreamInfo, StreamService } from "../stream-service.ts";
import { type AppendHeaders, RESERVED_PRODUCER_PREFIX, readAppendHeaders } from "./append-headers.ts";
import { BATCH_CBOR, BATCH_NDJSON } from "./batch.ts";
import type { Plane } from "./plane.ts";
import { reply } from "./reply.ts";
import { takeEvents } from "./take-events.ts";

/** Refused, not ignored: a client that asks for a stream that expires must not get one that stays. */
const UNSUPPORTED_HEADERS = [
  "Stream-TTL",
  "Stream-Expires-At",
  "Stream-Forked-From",
  "Stream-Fork-Offset",
  "Stream-Fork-Sub-Offset",
] as const;

const DEFAULT_CONTENT_TYPE = "application/octet-stream";

/** PUT: create the stream, or ensure that it exists as described; a body becomes its first content. */
export async function handleCreate(plane: Plane, name: StreamName, request: Request): Promise<Response> {
  for (const header of UNSUPPORTED_HEADERS) {
    if (request.headers.get(header) !== null) throw new TributaryError("INVALID_REQUEST", `${header} is not supported yet`, { header });
  }
  const headers = readAppendHeaders(request.headers);
  if (headers.producer || headers.streamSeq !== undefined) {
    throw new TributaryError("INVALID_REQUEST", "producer headers and Stream-Seq belong to POST");
  }
  const segments = readSegments(request.headers);
  const options = { contentType: readContentType(request.headers), ...(segments !== undefined && { segments }) };
  const taken = await takeEvents(plane, name, request, headers, options.contentType);
  try {
    const { created, info } = await ensureStream(plane.streams, name, options, headers, taken.events);
    const replyHeaders: Record<string, string> = { "Content-Type": info.contentType, "Stream-Next-Offset": info.nextOffset };
    if (created) replyHeaders["Location"] = locationOf(request.url);
    if (info.closed) replyHeaders["Stream-Closed"] = "true";
    return reply(created ? 201 : 200, "", replyHeaders);
  } finally {
    plane.time.whenIdle(() => taken.release());
  }
}

function readContentType(headers: Headers): string {
  const text = headers.get("content-type")?.trim();
  if (text === undefined || text === "") return DEFAULT_CONTENT_TYPE;
  const contentType = canonicalContentType(text);
  if (contentType.startsWith(BATCH_NDJSON) || contentType.startsWith(BATCH_CBOR)) {
    throw new TributaryError(
      "CONTENT_TYPE_UNSUPPORTED",
      "a batch cannot create a stream: PUT the stream with its own content type, then POST",
    );
  }
  return contentType;
}

/** undefined: a client that knows nothing of segments takes the stream as it is. */
function readSegments(headers: Headers): number | undefined {
  const text = headers.get("tributary-segments");
  if (text === null) return undefined;
  return segmentCount(/^\d{1,9}$/.test(text) ? Number(text) : Number.NaN);
}

/** @throws INVALID_REQUEST */
export function segmentCount(value: number): number {
  if (!Number.isSafeInteger(value) || value < 1 || value > LIMITS.segmentsPerStreamMax) {
    throw new TributaryError("INVALID_REQUEST", `a stream has 1 to ${LIMITS.segmentsPerStreamMax} segments`);
  }
  return value;
}

function locationOf(url: string): string {
  const query = url.indexOf("?");
  return query < 0 ? url : url.slice(0, query);
}

/**
 * The service creates and appends in two steps. The first content goes in as sequence 0 of a producer of its own, so that a PUT that
 * died between the two, or whose answer was lost, can be sent again: the content is there once in the end.
 */
const INITIAL_CONTENT = { id: `${RESERVED_PRODUCER_PREFIX}put`, epoch: 0, seq: 0 } as const;

async function ensureStream(
  streams: StreamService,
  name: StreamName,
  options: CreateOptions,
  headers: AppendHeaders,
  events: EventPack | undefined,
): Promise<{ created: boolean; info: StreamInfo }> {
  if (events === undefined) return streams.create(name, { ...options, closed: headers.close });
  const made = await createOpen(streams, name, options, headers.close);
  if (made.info.closed) return made;
  if (!made.created && holdsEvents(made.info)) {
    if (headers.close) throw new TributaryError("STREAM_EXISTS", "the stream exists and is open");
    return made;
  }
  const result = await streams.append(name, { events, contentType: undefined, producer: INITIAL_CONTENT, close: headers.close });
  return { created: made.created, info: { ...made.info, nextOffset: result.nextOffset, closed: result.closed } };
}

/** Open, because its content is still to come. One that exists closed already is what a repeated PUT finds. */
async function createOpen(streams: StreamService, name: StreamName, options: CreateOptions, close: boolean) {
  try {
    return await streams.create(name, { ...options, closed: false });
  } catch (error) {
    if (!close || !hasCode(error, "STREAM_EXISTS")) throw error;
    return streams.create(name, { ...options, closed: true });
  }
}

function holdsEvents(info: StreamInfo): boolean {
  return info.events > 0 || info.segments.some((segment) => segment.length > 0);
}
