import { canonicalContentType } from "../content-type.ts";
import { TributaryError } from "../errors.ts";
import { isValidName, type StreamName, streamName } from "../names.ts";
import type { CreateOptions, ListedStream, StreamInfo } from "../stream-service.ts";
import { type BodyLimit, takeBody } from "./body.ts";
import { segmentCount } from "./create.ts";
import { parseJson } from "./json-events.ts";
import { methodNotAllowed } from "./methods.ts";
import type { Plane } from "./plane.ts";
import { reply, replyJson } from "./reply.ts";

const BODY_LIMIT: BodyLimit = { bytesMax: 65_536, code: "BATCH_TOO_LARGE" };
const PAGE_STREAMS_DEFAULT = 100;
const PAGE_STREAMS_MAX = 1000;

/** `/v1/scopes`, `/v1/scopes/{scope}/streams` and `/v1/scopes/{scope}/streams/{stream}`; `parts` is what follows `/v1/scopes`. */
export async function handleManagement(plane: Plane, parts: readonly string[], request: Request): Promise<Response> {
  const [scope, collection, stream] = parts;
  if (scope === undefined) return listScopes(plane, request);
  if (collection !== "streams" || parts.length > 3) throw new TributaryError("NOT_FOUND", "no such path below /v1/scopes");
  if (stream === undefined) return listStreams(plane, scope, request);
  const name = streamName(scope, stream);
  switch (request.method) {
    case "GET":
    case "HEAD":
      return replyJson(200, describeStream(await plane.streams.describe(name)));
    case "PUT":
      return createStream(plane, name, request);
    case "DELETE":
      await plane.streams.delete(name);
      return reply(204, null, {});
    default:
      throw methodNotAllowed(request.method, "GET, HEAD, PUT, DELETE");
  }
}

async function listScopes(plane: Plane, request: Request): Promise<Response> {
  if (request.method !== "GET" && request.method !== "HEAD") throw methodNotAllowed(request.method, "GET, HEAD");
  return replyJson(200, { scopes: (await plane.streams.listScopes()).map((name) => ({ name })) });
}

async function listStreams(plane: Plane, scope: string, request: Request): Promise<Response> {
  if (request.method !== "GET" && request.method !== "HEAD") throw methodNotAllowed(request.method, "GET, HEAD");
  if (!isValidName(scope)) throw new TributaryError("INVALID_NAME", "not a valid scope name", { what: "scope" });
  const params = new URL(request.url).searchParams;
  const limitText = params.get("limit") ?? String(PAGE_STREAMS_DEFAULT);
  const limit = /^\d{1,6}$/.test(limitText) ? Number(limitText) : 0;
  if (limit < 1 || limit > PAGE_STREAMS_MAX) throw new TributaryError("INVALID_REQUEST", `limit is a number from 1 to ${PAGE_STREAMS_MAX}`);
  const after = params.get("after");
  const found = await plane.streams.list({ scope, ...(after !== null && { after: streamName(scope, after) }), limit: limit + 1 });
  const page = found.slice(0, limit);
  const last = page.at(-1);
  return replyJson(200, { streams: page.map(describeListed), ...(found.length > limit && last && { next: last.name.stream }) });
}

async function createStream(plane: Plane, name: StreamName, request: Request): Promise<Response> {
  const body = await takeBody(request, BODY_LIMIT, plane.bodies);
  try {
    const { created, info } = await plane.streams.create(name, readOptions(body.bytes));
    return replyJson(created ? 201 : 200, describeStream(info), created ? { Location: request.url } : {});
  } finally {
    body.release();
  }
}

function readOptions(bytes: Uint8Array): CreateOptions {
  const value = bytes.length === 0 ? {} : parseJson(bytes);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new TributaryError("INVALID_REQUEST", "the body is not a JSON object");
  }
  const { segments, contentType, ...others } = value as { segments?: unknown; contentType?: unknown };
  const unknown = Object.keys(others)[0];
  if (unknown !== undefined) throw new TributaryError("INVALID_REQUEST", `unknown member '${unknown.slice(0, 40)}'`);
  if (segments !== undefined && typeof segments !== "number") throw new TributaryError("INVALID_REQUEST", "'segments' is not a number");
  if (contentType !== undefined && typeof contentType !== "string") {
    throw new TributaryError("INVALID_REQUEST", "'contentType' is not a string");
  }
  return {
    ...(segments !== undefined && { segments: segmentCount(segments) }),
    contentType: canonicalContentType(contentType ?? "application/octet-stream"),
  };
}

/** Of what is not served now it is told what is known, and nothing else. */
function describeListed(listed: ListedStream): object {
  if (!listed.unserved) return describeStream(listed);
  const { name, id, contentType, createdAtMs, segments } = listed;
  const createdAt = new Date(createdAtMs).toISOString();
  return {
    scope: name.scope,
    stream: name.stream,
    id,
    contentType,
    createdAt,
    segments: segments.map(({ id: segment, range }) => ({ id: segment, range })),
    unserved: true,
  };
}

function describeStream(info: StreamInfo): object {
  const { name, id, contentType, closed, createdAtMs, events, firstOffset, nextOffset, segments } = info;
  return {
    scope: name.scope,
    stream: name.stream,
    id,
    contentType,
    closed,
    createdAt: new Date(createdAtMs).toISOString(),
    events,
    firstOffset,
    nextOffset,
    segments: segments.map(({ id: segment, range, length }) => ({ id: segment, range, length })),
  };
}
