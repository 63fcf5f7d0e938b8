import { TributaryError } from "../errors.ts";
import type { EventPack } from "../stream-service.ts";
import { BatchBuilder, invalidBatch } from "./batch.ts";
import { parseJson } from "./json-events.ts";
import { memberSlice, trimmedSlice } from "./json-slices.ts";

const LF = 0x0a;
const MEMBERS: ReadonlySet<string> = new Set(["key", "time", "data", "base64"]);
const BASE64_PATTERN = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/**
 * Batch, one event a line: {"key"?, "time"?, "data" | "base64"}. A string as `data` stands for its UTF-8 bytes, any other JSON value for
 * its own text, byte for byte. Empty lines are skipped.
 * @throws INVALID_JSON, INVALID_BODY, INVALID_REQUEST, EVENT_TOO_LARGE, BATCH_TOO_LARGE
 */
export function parseBatchNdjson(bytes: Uint8Array, nowMs: number): EventPack {
  const builder = new BatchBuilder(bytes.length);
  for (let start = 0; start < bytes.length; ) {
    const lf = bytes.indexOf(LF, start);
    const end = lf < 0 ? bytes.length : lf;
    const line = bytes.subarray(start, end);
    const { start: from, end: to } = trimmedSlice(line);
    if (to > from) addLine(builder, line.subarray(from, to));
    start = end + 1;
  }
  return builder.finish(nowMs);
}

function addLine(builder: BatchBuilder, line: Uint8Array): void {
  const index = builder.count;
  const record = parseLine(line, index);
  for (const name of Object.keys(record)) {
    if (!MEMBERS.has(name)) throw invalidBatch(index, `unknown member '${name.slice(0, 40)}'`);
  }
  const { key, time, data, base64 } = record;
  if ((data === undefined) === (base64 === undefined)) throw invalidBatch(index, "give either 'data' or 'base64'");
  if (base64 !== undefined) {
    if (typeof base64 !== "string" || !BASE64_PATTERN.test(base64))
      throw invalidBatch(index, "'base64' is not base64 (RFC 4648, with padding)");
    builder.add(key, time, Buffer.from(base64, "base64"));
  } else if (typeof data === "string") {
    builder.add(key, time, data);
  } else {
    const slice = memberSlice(line, "data");
    if (slice === undefined) throw invalidBatch(index, "'data' was not found");
    builder.add(key, time, line.subarray(slice.start, slice.end));
  }
}

function parseLine(line: Uint8Array, index: number): { key?: unknown; time?: unknown; data?: unknown; base64?: unknown } {
  let value: unknown;
  try {
    value = parseJson(line);
  } catch (error) {
    throw new TributaryError("INVALID_JSON", `event ${index} of the batch: ${error instanceof Error ? error.message : ""}`, { index });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw invalidBatch(index, "it is not an object");
  return value;
}
