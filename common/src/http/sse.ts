import { toTributaryError } from "../errors.ts";
import { nextCursor } from "./cursor.ts";
import { LEVEL_HEADER } from "./headers.ts";
import { linkSignals } from "./link-signals.ts";
import type { PageFormat } from "./page-format.ts";
import { type LiveRead, readVisible, type VisiblePage } from "./read-page.ts";
import { reply } from "./reply.ts";

/** A connection is given up after this time, so that caches in between can join clients anew (Durable Streams, section 10.2). */
const CONNECTION_MS_MAX = 60_000;
/** A silent connection says at least this often that it is alive. */
const KEEP_ALIVE_MS = 15_000;
/** Timers may fire this much early. */
const TIMER_SLACK_MS = 50;

const encoder = new TextEncoder();

/**
 * Follows a stream from its first page on, as server-sent events: pages as `data`, each with a `control` event behind it. A page is read only when the
 * connection has taken the one before, so a slow reader costs one page of memory.
 */
export function sseResponse(read: LiveRead, first: VisiblePage): Response {
  // A reader that leaves cancels the body; its request's signal would tell the same, but on Deno it also aborts when all went well.
  const link = linkSignals([read.closing]);
  const chunks = follow(read, first, link.signal);
  const body = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { done, value } = await chunks.next();
        if (!done) return controller.enqueue(encoder.encode(value));
        link.unlink();
        controller.close();
      },
      cancel() {
        link.abort();
        link.unlink();
      },
    },
    { highWaterMark: 0 },
  );
  const headers: Record<string, string> = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    // Tells nginx not to collect the events.
    "X-Accel-Buffering": "no",
  };
  if (read.format.sse.base64) headers["Stream-SSE-Data-Encoding"] = "base64";
  if (read.level !== undefined) headers[LEVEL_HEADER] = read.level;
  return reply(200, body, headers);
}

async function* follow(read: LiveRead, first: VisiblePage, signal: AbortSignal): AsyncGenerator<string, void, undefined> {
  const { plane, name, format, level } = read;
  const endMs = plane.clock.monotonicMs() + CONNECTION_MS_MAX;
  const firstCursor = Number(nextCursor(plane.clock, plane.random, read.cursor));
  let page = first;
  try {
    for (;;) {
      const cursor = Math.max(firstCursor, Number(nextCursor(plane.clock, plane.random, undefined)));
      yield pageEvents(format, page, cursor);
      const leftMs = endMs - plane.clock.monotonicMs();
      if (page.closed || signal.aborted || leftMs <= 0) return;
      const before = page;
      const waitMs = Math.min(KEEP_ALIVE_MS, leftMs);
      const waitingSinceMs = plane.clock.monotonicMs();
      if (before.upToDate) await plane.streams.waitForData(name, before.nextOffset, { timeoutMs: waitMs, signal, level });
      if (signal.aborted) return;
      plane.time.renew();
      page = await readVisible(read, before.nextOffset);
      const woken = plane.clock.monotonicMs() - waitingSinceMs < waitMs - TIMER_SLACK_MS;
      // Woken for nothing: where the stream lives is changing hands. Better to come back than to spin.
      if (woken && page.nextOffset === before.nextOffset && !page.closed) return;
    }
  } catch (error) {
    // The status line is long gone. The connection ends, and the client meets the error when it comes back.
    if (toTributaryError(error).code === "INTERNAL") plane.reportError(error);
  }
}

function pageEvents(format: PageFormat, page: VisiblePage, cursor: number): string {
  const control = page.closed
    ? { streamNextOffset: page.nextOffset, upToDate: true, streamClosed: true }
    : {
        streamNextOffset: page.nextOffset,
        streamCursor: String(cursor),
        ...(page.upToDate && { upToDate: true }),
      };
  const data = page.events.length > 0 ? sseEvent("data", format.sse.data(page.events)) : "";
  return data + sseEvent("control", JSON.stringify(control));
}

/**
 * Each line of the payload becomes a line of the event, so that no payload can end it or begin another; a CR alone ends a line, too.
 * Readers take one space away behind the colon: it is added only where the line begins with one.
 */
export function sseEvent(type: string, payload: string): string {
  const lines = payload.replace(/(?:\r\n|\r|\n)( ?)/g, (_, space: string) => `\ndata:${space}${space}`);
  return `event: ${type}\ndata:${payload.startsWith(" ") ? " " : ""}${lines}\n\n`;
}
