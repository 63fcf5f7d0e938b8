import { TributaryError } from "../errors.ts";
import type { StreamName } from "../names.ts";
import type { AppendResult, ProducerToken } from "../stream-service.ts";
import { readAppendHeaders } from "./append-headers.ts";
import type { Plane } from "./plane.ts";
import { reply } from "./reply.ts";
import { takeEvents } from "./take-events.ts";

/** POST: append, append and close, or close. Answers when the events are durable. */
export async function handleAppend(plane: Plane, name: StreamName, request: Request): Promise<Response> {
  const headers = readAppendHeaders(request.headers);
  const taken = await takeEvents(plane, name, request, headers, request.headers.get("content-type"));
  try {
    const { events } = taken;
    if (events === undefined && !(taken.emptyBody && headers.close)) {
      throw new TributaryError("PAYLOAD_EMPTY", taken.emptyBody ? "the body is empty" : "the body holds no event");
    }
    const result = await plane.streams.append(name, {
      events,
      contentType: taken.contentType,
      ...(headers.producer && { producer: headers.producer }),
      ...(headers.streamSeq !== undefined && { streamSeq: headers.streamSeq }),
      ...(headers.close && { close: true }),
    });
    return appended(result, headers.producer, events !== undefined);
  } finally {
    // What may still be carried out holds its bytes.
    plane.time.whenIdle(() => taken.release());
  }
}

/** 200 tells an idempotent producer that its events are new, 204 that they were known; without a producer it is always 204. */
function appended(result: AppendResult, producer: ProducerToken | undefined, hadEvents: boolean): Response {
  const headers: Record<string, string> = { "Stream-Next-Offset": result.nextOffset };
  if (result.closed) headers["Stream-Closed"] = "true";
  if (producer === undefined) return reply(204, null, headers);
  headers["Producer-Epoch"] = String(producer.epoch);
  headers["Producer-Seq"] = String(result.producerSeq ?? producer.seq);
  return result.duplicate || !hadEvents ? reply(204, null, headers) : reply(200, "", headers);
}
