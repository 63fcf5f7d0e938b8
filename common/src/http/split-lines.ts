import { TributaryError } from "../errors.ts";
import { LIMITS } from "../limits.ts";

const LF = 0x0a;

/**
 * Ends of the lines of a body; a line keeps its terminator (LF or CRLF), the last one may lack it. The lines joined are the body again,
 * so the body itself serves as the payload and nothing is copied.
 * @throws EVENT_TOO_LARGE, BATCH_TOO_LARGE
 */
export function lineEnds(body: Uint8Array): number[] {
  // A Buffer searches with memchr; a plain array of bytes takes twice as long.
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  const ends: number[] = [];
  let start = 0;
  while (start < bytes.length) {
    const lf = bytes.indexOf(LF, start);
    const end = lf < 0 ? bytes.length : lf + 1;
    if (end - start > LIMITS.eventBytesMax) throw eventTooLarge(ends.length, end - start);
    if (ends.length === LIMITS.requestEventsMax) throw tooManyEvents();
    ends.push(end);
    start = end;
  }
  return ends;
}

export function eventTooLarge(index: number, bytes: number): TributaryError {
  return new TributaryError("EVENT_TOO_LARGE", `event ${index} of the request has ${bytes} bytes`, {
    index,
    bytes,
    bytesMax: LIMITS.eventBytesMax,
  });
}

export function tooManyEvents(): TributaryError {
  return new TributaryError("BATCH_TOO_LARGE", `the request holds more than ${LIMITS.requestEventsMax} events`, {
    eventsMax: LIMITS.requestEventsMax,
  });
}
