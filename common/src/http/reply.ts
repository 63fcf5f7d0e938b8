/**
 * Every response of the data plane is made here. Headers stay a plain object: @hono/node-server writes those as they are, while a Headers
 * object costs a copy. The two headers that browsers need (Durable Streams, section 12.7) are on all of them; same-origin keeps streams
 * out of other sites' <img> and <script>, and does not touch what CORS allows.
 */
export function reply(
  status: number,
  body: string | Uint8Array | ReadableStream<Uint8Array> | null,
  headers: Record<string, string>,
): Response {
  headers["X-Content-Type-Options"] = "nosniff";
  headers["Cross-Origin-Resource-Policy"] = "same-origin";
  return new Response(body as BodyInit | null, { status, headers });
}

export function replyJson(status: number, value: unknown, headers: Record<string, string> = {}): Response {
  return reply(status, JSON.stringify(value), { ...headers, "Content-Type": "application/json", "Cache-Control": "no-store" });
}
