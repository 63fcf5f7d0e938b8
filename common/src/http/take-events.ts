import { canonicalContentType, contentTypeEssence, isJsonContentType } from "../content-type.ts";
import { TributaryError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { StreamName } from "../names.ts";
import type { EventPack } from "../stream-service.ts";
import type { AppendHeaders } from "./append-headers.ts";
import { BATCH_CBOR, BATCH_NDJSON } from "./batch.ts";
import { parseBatchCbor } from "./batch-cbor.ts";
import { parseBatchNdjson } from "./batch-ndjson.ts";
import { type BodyLimit, takeBody } from "./body.ts";
import { jsonEvents, parseJson } from "./json-events.ts";
import type { Plane } from "./plane.ts";
import { lineEnds } from "./split-lines.ts";

const EVENT_LIMIT: BodyLimit = { bytesMax: LIMITS.eventBytesMax, code: "EVENT_TOO_LARGE" };
const REQUEST_LIMIT: BodyLimit = { bytesMax: LIMITS.requestBytesMax, code: "BATCH_TOO_LARGE" };

export interface TakenEvents {
  /** undefined: the body was empty, or an empty JSON array. */
  readonly events: EventPack | undefined;
  /** True for a body of no bytes at all. */
  readonly emptyBody: boolean;
  /** undefined for a batch, whose own type says nothing about the stream's. */
  readonly contentType: string | undefined;
  release(): void;
}

/** Reads the body of a request and makes events of it, as its content type and headers say. */
export async function takeEvents(
  plane: Plane,
  name: StreamName,
  request: Request,
  headers: AppendHeaders,
  type: string | null,
): Promise<TakenEvents> {
  const essence = type === null ? "" : contentTypeEssence(type);
  const batch = essence === BATCH_NDJSON || essence === BATCH_CBOR;
  const json = essence === "application/json";
  if (headers.splitLines && json) throw new TributaryError("INVALID_REQUEST", "Event-Split is not for JSON; send an array");
  if (batch && (headers.splitLines || headers.key !== undefined || headers.timeMs !== undefined)) {
    throw new TributaryError("INVALID_REQUEST", "in a batch each event carries its own key and time; leave the headers out");
  }

  const body = await takeBody(request, batch || json || headers.splitLines ? REQUEST_LIMIT : EVENT_LIMIT, plane.bodies);
  try {
    const { bytes, release } = body;
    if (bytes.length === 0) return { events: undefined, emptyBody: true, contentType: undefined, release };
    if (type === null) throw new TributaryError("INVALID_REQUEST", "a body needs a Content-Type");
    if (batch) {
      const nowMs = plane.clock.nowMs();
      const events = essence === BATCH_CBOR ? parseBatchCbor(bytes, nowMs) : parseBatchNdjson(bytes, nowMs);
      await assertFitsStream(plane, name, events);
      return { events: events.count > 0 ? events : undefined, emptyBody: false, contentType: undefined, release };
    }
    return { events: packBody(bytes, json, headers), emptyBody: false, contentType: canonicalContentType(type), release };
  } catch (error) {
    body.release();
    throw error;
  }
}

function packBody(bytes: Uint8Array, json: boolean, headers: AppendHeaders): EventPack | undefined {
  const { payload, ends } = json ? jsonEvents(bytes) : { payload: bytes, ends: headers.splitLines ? lineEnds(bytes) : [bytes.length] };
  if (ends.length === 0) return undefined;
  return { count: ends.length, payload, ends, keys: headers.key, timesMs: headers.timeMs };
}

/** A stream in JSON mode is read as one array: each of its events must be JSON, however it came. @throws INVALID_JSON */
async function assertFitsStream(plane: Plane, name: StreamName, events: EventPack): Promise<void> {
  const { contentType } = await plane.streams.describe(name);
  if (!isJsonContentType(contentType)) return;
  let start = 0;
  for (let i = 0; i < events.count; i++) {
    const end = events.ends[i] as number;
    try {
      parseJson(events.payload.subarray(start, end));
    } catch (error) {
      const detail = error instanceof Error ? error.message : "";
      throw new TributaryError("INVALID_JSON", `event ${i} of the batch, for a stream of JSON: ${detail}`, { index: i });
    }
    start = end;
  }
}
