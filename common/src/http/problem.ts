import { STATUS_CODES } from "node:http";
import type { TributaryError } from "../errors.ts";
import { reply } from "./reply.ts";

/** Names that an error gives to facts which the Durable Streams protocol returns as headers. */
const DETAIL_HEADERS: Readonly<Record<string, string>> = {
  nextOffset: "Stream-Next-Offset",
  producerEpoch: "Producer-Epoch",
  expectedSeq: "Producer-Expected-Seq",
  receivedSeq: "Producer-Received-Seq",
  allow: "Allow",
};

const RETRY_AFTER_SECONDS = 1;

/** RFC 9457 problem document. `details` of the error become members of their own beside the standard ones. */
export function problemResponse(error: TributaryError): Response {
  const headers: Record<string, string> = { "Content-Type": "application/problem+json", "Cache-Control": "no-store" };
  for (const [detail, value] of Object.entries(error.details)) {
    const header = DETAIL_HEADERS[detail];
    if (header !== undefined) headers[header] = String(value);
  }
  if (error.code === "STREAM_CLOSED") headers["Stream-Closed"] = "true";
  if (error.code === "UNAUTHORIZED") headers["WWW-Authenticate"] = 'Bearer realm="tributary"';
  if (error.retryable) headers["Retry-After"] = String(RETRY_AFTER_SECONDS);
  const body = {
    ...error.details,
    type: `urn:tributary:error:${error.code}`,
    title: STATUS_CODES[error.status] ?? "Error",
    status: error.status,
    code: error.code,
    // What went wrong inside is for the log, not for whoever sent the request.
    detail: error.code === "INTERNAL" ? "The server met an unexpected condition." : error.message,
    hint: error.hint,
  };
  return reply(error.status, JSON.stringify(body), headers);
}
