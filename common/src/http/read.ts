import { TributaryError } from "../errors.ts";
import type { StreamName } from "../names.ts";
import { READ_LEVELS, type ReadLevel } from "../stream-service.ts";
import { nextCursor } from "./cursor.ts";
import { LEVEL_HEADER } from "./headers.ts";
import { linkSignals } from "./link-signals.ts";
import { pageFormat } from "./page-format.ts";
import type { Plane } from "./plane.ts";
import { type LiveRead, readVisible, type VisiblePage } from "./read-page.ts";
import { reply } from "./reply.ts";
import { sseResponse } from "./sse.ts";

/** GET: catch up, long-poll, or follow by server-sent events. */
export async function handleRead(plane: Plane, name: StreamName, request: Request, closing: AbortSignal | undefined): Promise<Response> {
  const query = readQuery(request.url);
  const info = await plane.streams.describe(name);
  const format = pageFormat(query.view, request.headers.get("accept"), info.contentType);
  const { offset = "-1", cursor, level } = query;
  const read: LiveRead = { plane, name, request, closing, info, format, offset, cursor, level };
  if (query.live === "long-poll") return longPoll(read);
  if (query.live === "sse") return sseResponse(read, await readVisible(read, offset));
  return catchUp(read);
}

interface ReadQuery {
  readonly offset: string | undefined;
  readonly live: "long-poll" | "sse" | undefined;
  readonly cursor: string | undefined;
  readonly view: string | undefined;
  readonly level: ReadLevel | undefined;
}

const OFFSET_CHARS_MAX = 255;
const OFFSET_PATTERN = /^[A-Za-z0-9._~:!*-]+$/;

/** Unknown parameters are ignored: they are how a client steps around a cache. */
function readQuery(url: string): ReadQuery {
  const mark = url.indexOf("?");
  if (mark < 0) return { offset: undefined, live: undefined, cursor: undefined, view: undefined, level: undefined };
  const params = new URLSearchParams(url.slice(mark + 1));
  const offsets = params.getAll("offset");
  if (offsets.length > 1) throw new TributaryError("OFFSET_INVALID", "more than one offset");
  const offset = offsets[0];
  if (offset !== undefined && (offset.length > OFFSET_CHARS_MAX || !OFFSET_PATTERN.test(offset))) {
    throw new TributaryError("OFFSET_INVALID", "the offset has characters that no offset has, too many of them, or none");
  }
  const live = params.get("live") ?? undefined;
  if (live !== undefined && live !== "long-poll" && live !== "sse") {
    throw new TributaryError("INVALID_REQUEST", "live knows only 'long-poll' and 'sse'");
  }
  if (live !== undefined && offset === undefined) throw new TributaryError("INVALID_REQUEST", `live=${live} needs an offset`);
  return { offset, live, cursor: params.get("cursor") ?? undefined, view: params.get("view") ?? undefined, level: readLevel(params) };
}

/** @throws INVALID_REQUEST */
export function readLevel(params: URLSearchParams): ReadLevel | undefined {
  const given = params.get("level");
  if (given === null) return undefined;
  const level = READ_LEVELS.find((known) => known === given);
  if (!level) throw new TributaryError("INVALID_REQUEST", `level knows only ${READ_LEVELS.map((known) => `'${known}'`).join(" and ")}`);
  return level;
}

function pageHeaders({ plane, info, format, level }: LiveRead, page: VisiblePage): Record<string, string> {
  const headers: Record<string, string> = {
    "Content-Type": format.contentType ?? info.contentType,
    "Stream-Next-Offset": page.nextOffset,
    // What lies behind an offset stays a true answer when more is appended; that nothing lies there does not.
    "Cache-Control": page.events.length > 0 ? `${plane.cacheScope}, max-age=60, stale-while-revalidate=300` : "no-store",
  };
  if (page.upToDate) headers["Stream-Up-To-Date"] = "true";
  if (page.closed) headers["Stream-Closed"] = "true";
  if (format.varies) headers["Vary"] = "Accept";
  if (level !== undefined) headers[LEVEL_HEADER] = level;
  return headers;
}

async function catchUp(read: LiveRead): Promise<Response> {
  const { request, info, format, offset } = read;
  const page = await readVisible(read, offset);
  const headers = pageHeaders(read, page);
  if (offset === "now") {
    headers["Cache-Control"] = "no-store";
    return reply(200, format.body([]), headers);
  }
  const etag = `"${info.id}:${offset}:${page.nextOffset}${format.tag}${page.closed ? ":c" : ""}"`;
  headers["ETag"] = etag;
  if (matchesEtag(request.headers.get("if-none-match"), etag)) return reply(304, null, headers);
  return reply(200, format.body(page.events), headers);
}

function matchesEtag(header: string | null, etag: string): boolean {
  if (header === null) return false;
  return header.split(",").some((candidate) => candidate.trim().replace(/^W\//, "") === etag || candidate.trim() === "*");
}

async function longPoll(read: LiveRead): Promise<Response> {
  const { plane, format } = read;
  let page = await readVisible(read, read.offset);
  if (page.events.length === 0 && !page.closed) page = await waitForPage(read, page);
  const headers = pageHeaders(read, page);
  if (!page.closed) headers["Stream-Cursor"] = nextCursor(plane.clock, plane.random, read.cursor);
  if (page.events.length > 0) return reply(200, format.body(page.events), headers);
  delete headers["Content-Type"];
  headers["Stream-Up-To-Date"] = "true";
  return reply(204, null, headers);
}

/** Waits behind an empty page until there is something to see, the stream closes, or the time is over. */
async function waitForPage(read: LiveRead, empty: VisiblePage): Promise<VisiblePage> {
  const { plane, name, request, closing, level } = read;
  const deadlineMs = plane.clock.monotonicMs() + plane.longPollMsMax;
  const { signal, unlink } = linkSignals([request.signal, closing]);
  try {
    let page = empty;
    // A gap record wakes readers that do not see it: then the offset has moved, and they wait again.
    while (page.events.length === 0 && !page.closed && !signal.aborted) {
      const timeoutMs = deadlineMs - plane.clock.monotonicMs();
      if (timeoutMs <= 0) break;
      await plane.streams.waitForData(name, page.nextOffset, { timeoutMs, signal, level });
      plane.time.renew();
      const before = page.nextOffset;
      page = await readVisible(read, before);
      if (page.nextOffset === before) break;
    }
    return page;
  } finally {
    unlink();
  }
}
