import { TributaryError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { ProducerToken } from "../stream-service.ts";
import { assertRoutingKey } from "./batch.ts";
import { parseEventTime } from "./event-time.ts";

/** Headers of a request that writes. Names are looked up one by one: most requests have none of them. */
export interface AppendHeaders {
  readonly key: string | undefined;
  readonly timeMs: number | undefined;
  readonly splitLines: boolean;
  readonly close: boolean;
  readonly streamSeq: string | undefined;
  readonly producer: ProducerToken | undefined;
}

const STREAM_SEQ_CHARS_MAX = 256;

/** Producer ids of the server itself: the initial body of a PUT is made repeatable with one. */
export const RESERVED_PRODUCER_PREFIX = "tributary/";

/** @throws INVALID_REQUEST, PRODUCER_HEADERS_INVALID, CONTENT_TYPE_UNSUPPORTED */
export function readAppendHeaders(headers: Headers): AppendHeaders {
  const encoding = headers.get("content-encoding");
  if (encoding !== null && encoding !== "identity") {
    throw new TributaryError("CONTENT_TYPE_UNSUPPORTED", `the content encoding '${encoding.slice(0, 40)}' is not supported`);
  }
  return {
    key: readKey(headers.get("routing-key")),
    timeMs: readTime(headers.get("event-time")),
    splitLines: readSplit(headers.get("event-split")),
    close: readClosed(headers),
    streamSeq: readStreamSeq(headers.get("stream-seq")),
    producer: readProducer(headers),
  };
}

/** Anything but `true` counts as absent, as the protocol has it. */
export function readClosed(headers: Headers): boolean {
  return headers.get("stream-closed")?.toLowerCase() === "true";
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** Runtimes hand out the bytes of a header as Latin-1; the bytes are meant as UTF-8. */
function readKey(value: string | null): string | undefined {
  if (value === null) return undefined;
  let key = value;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the range is the whole of ASCII
  if (!/^[\x00-\x7f]*$/.test(value)) {
    try {
      key = utf8.decode(Buffer.from(value, "latin1"));
    } catch {
      throw new TributaryError("INVALID_REQUEST", "Routing-Key is not UTF-8");
    }
  }
  assertRoutingKey(key);
  return key;
}

function readTime(value: string | null): number | undefined {
  if (value === null) return undefined;
  const ms = parseEventTime(value);
  if (ms === undefined) throw new TributaryError("INVALID_REQUEST", "Event-Time is neither ms since 1970 nor an RFC 3339 date");
  return ms;
}

function readSplit(value: string | null): boolean {
  if (value === null) return false;
  if (value.toLowerCase() !== "lines") throw new TributaryError("INVALID_REQUEST", "Event-Split knows only 'lines'");
  return true;
}

function readStreamSeq(value: string | null): string | undefined {
  if (value === null) return undefined;
  if (value.length === 0 || value.length > STREAM_SEQ_CHARS_MAX) {
    throw new TributaryError("INVALID_REQUEST", `Stream-Seq has 1 to ${STREAM_SEQ_CHARS_MAX} characters`);
  }
  return value;
}

function readProducer(headers: Headers): ProducerToken | undefined {
  const id = headers.get("producer-id");
  const epoch = headers.get("producer-epoch");
  const seq = headers.get("producer-seq");
  if (id === null && epoch === null && seq === null) return undefined;
  if (id === null || epoch === null || seq === null) {
    throw new TributaryError("PRODUCER_HEADERS_INVALID", "Producer-Id, Producer-Epoch and Producer-Seq belong together");
  }
  if (id.length === 0 || id.length > LIMITS.producerIdCharsMax) {
    throw new TributaryError("PRODUCER_HEADERS_INVALID", `Producer-Id has 1 to ${LIMITS.producerIdCharsMax} characters`);
  }
  if (id.startsWith(RESERVED_PRODUCER_PREFIX)) {
    throw new TributaryError("PRODUCER_HEADERS_INVALID", `producer ids that begin with '${RESERVED_PRODUCER_PREFIX}' are reserved`);
  }
  return { id, epoch: readCount("Producer-Epoch", epoch), seq: readCount("Producer-Seq", seq) };
}

function readCount(name: string, text: string): number {
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) {
    throw new TributaryError("PRODUCER_HEADERS_INVALID", `${name} is not an integer from 0 to ${Number.MAX_SAFE_INTEGER}`);
  }
  return value;
}
