import { isUtf8 } from "node:buffer";
import { encodeCbor } from "../format/cbor.ts";
import type { ReadEvent } from "../stream-service.ts";

/**
 * Envelope: an event with everything that is known of it. NDJSON gives the payload as `data` where it is UTF-8, else as `base64`: exactly one of
 * the two, so that the bytes can be had back either way. CBOR gives `data` as bytes.
 */
const bufferOf = (data: Uint8Array): Buffer => Buffer.from(data.buffer, data.byteOffset, data.byteLength);

/** One line, with its terminator. */
export function envelopeLine(event: ReadEvent): string {
  const head =
    `"key":${JSON.stringify(event.key)},"time":${event.timeMs},"segment":"${event.segment}","ordinal":${event.ordinal}` +
    (event.nonce === undefined ? "" : `,"nonce":"${event.nonce}"`) +
    `,"writer":"${event.writer}","incarnation":"${event.incarnation}","lane":"${event.lane}","number":${event.number}`;
  if (event.gap) {
    const { first, count, reason } = event.gap;
    return `{"kind":"gap",${head},"first":${first},"count":${count},"reason":"${reason}"}\n`;
  }
  const bytes = bufferOf(event.data);
  const data = isUtf8(bytes) ? `"data":${JSON.stringify(bytes.toString("utf8"))}` : `"base64":"${bytes.toString("base64")}"`;
  return `{"kind":"event",${head},${data}}\n`;
}

/** A page as one CBOR array of maps. */
export function envelopeCbor(events: readonly ReadEvent[]): Uint8Array {
  return encodeCbor(
    events.map(({ key, timeMs, segment, ordinal, nonce, writer, incarnation, lane, number, data, gap }) => {
      const place = nonce === undefined ? { segment, ordinal } : { segment, ordinal, nonce };
      const head = { kind: gap ? "gap" : "event", key, time: timeMs, ...place, writer, incarnation, lane, number };
      return gap ? { ...head, first: gap.first, count: gap.count, reason: gap.reason } : { ...head, data };
    }),
  );
}
