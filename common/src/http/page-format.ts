import { contentTypeEssence, isJsonContentType } from "../content-type.ts";
import { TributaryError } from "../errors.ts";
import type { ReadEvent } from "../stream-service.ts";
import { envelopeCbor, envelopeLine } from "./envelope.ts";

/** How the events of a page become a body. */
export interface PageFormat {
  /** Of the response; undefined: the stream's own. */
  readonly contentType: string | undefined;
  /** Whether gap records are shown. Reads of bytes and of JSON skip them. */
  readonly showsGaps: boolean;
  /** Whether the body hangs on the Accept header. */
  readonly varies: boolean;
  /** Distinguishes the ETags of one page in several formats. */
  readonly tag: string;
  body(events: readonly ReadEvent[]): string | Uint8Array;
  /** The payload of one SSE data event. */
  sse: { readonly base64: boolean; data(events: readonly ReadEvent[]): string };
}

function joinBytes(events: readonly ReadEvent[]): Buffer {
  return Buffer.concat(events.map((event) => event.data));
}

function joinJson(events: readonly ReadEvent[]): Buffer {
  const parts: Uint8Array[] = [];
  for (const event of events) parts.push(parts.length === 0 ? OPEN : COMMA, event.data);
  if (parts.length === 0) parts.push(OPEN);
  parts.push(CLOSE);
  return Buffer.concat(parts);
}

const OPEN = Buffer.from("[");
const COMMA = Buffer.from(",");
const CLOSE = Buffer.from("]");

const joinLines = (events: readonly ReadEvent[]): string => events.map(envelopeLine).join("");

const asBase64 = { base64: true, data: (events: readonly ReadEvent[]) => joinBytes(events).toString("base64") };

const RAW = { contentType: undefined, showsGaps: false, varies: false } as const;
const BINARY: PageFormat = { ...RAW, tag: "", body: joinBytes, sse: asBase64 };
const TEXT: PageFormat = { ...BINARY, sse: { base64: false, data: (events) => joinBytes(events).toString("utf8") } };
const JSON_ARRAY: PageFormat = {
  ...RAW,
  tag: "",
  body: joinJson,
  sse: { base64: false, data: (events) => joinJson(events).toString("utf8") },
};

const ENVELOPE = { showsGaps: true, varies: true } as const;
const ENVELOPE_NDJSON: PageFormat = {
  ...ENVELOPE,
  contentType: "application/x-ndjson",
  tag: ":n",
  body: joinLines,
  // The last terminator would become an empty line of the data event.
  sse: { base64: false, data: (events) => joinLines(events).trimEnd() },
};
const ENVELOPE_CBOR: PageFormat = {
  ...ENVELOPE,
  contentType: "application/cbor",
  tag: ":b",
  body: envelopeCbor,
  sse: ENVELOPE_NDJSON.sse,
};

/** @throws INVALID_REQUEST */
export function pageFormat(view: string | undefined, accept: string | null, streamContentType: string): PageFormat {
  if (view === "envelope") return accept?.toLowerCase().includes("application/cbor") ? ENVELOPE_CBOR : ENVELOPE_NDJSON;
  if (view !== undefined) throw new TributaryError("INVALID_REQUEST", "view knows only 'envelope'");
  if (isJsonContentType(streamContentType)) return JSON_ARRAY;
  return contentTypeEssence(streamContentType).startsWith("text/") ? TEXT : BINARY;
}
