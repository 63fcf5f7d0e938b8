import { TributaryError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { elementSlices, isArrayText, type Slice, trimmedSlice } from "./json-slices.ts";
import { eventTooLarge, tooManyEvents } from "./split-lines.ts";

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** @throws INVALID_JSON */
export function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(decoder.decode(bytes));
  } catch (error) {
    throw new TributaryError("INVALID_JSON", `not valid JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Payload and ends of an EventPack. */
export interface PackedPayload {
  readonly payload: Uint8Array;
  readonly ends: readonly number[];
}

/**
 * JSON mode: an array becomes one event for each element, anything else one event; texts are kept byte for byte. The array's own brackets
 * and commas are squeezed out in place, so `bytes` must belong to the caller. An empty array gives no events.
 * @throws INVALID_JSON, EVENT_TOO_LARGE, BATCH_TOO_LARGE
 */
export function jsonEvents(bytes: Uint8Array): PackedPayload {
  parseJson(bytes);
  const slices: Slice[] = isArrayText(bytes) ? elementSlices(bytes) : [trimmedSlice(bytes)];
  if (slices.length > LIMITS.requestEventsMax) throw tooManyEvents();
  const ends: number[] = [];
  let at = 0;
  for (const { start, end } of slices) {
    if (end - start > LIMITS.eventBytesMax) throw eventTooLarge(ends.length, end - start);
    bytes.copyWithin(at, start, end);
    at += end - start;
    ends.push(at);
  }
  return { payload: bytes.subarray(0, at), ends };
}
