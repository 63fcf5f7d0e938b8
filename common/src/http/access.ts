import { timingSafeEqual } from "node:crypto";
import { TributaryError } from "../errors.ts";

/**
 * Who may use the data plane. With a token: whoever sends it, from any web page. Without one the server listens on loopback only (the composition
 * sees to it), where every web page that its user opens could reach it: then requests that a browser marks as coming from another site are refused.
 */
export class AccessPolicy {
  readonly #expected: Buffer | undefined;

  constructor(bearerToken: string | undefined) {
    this.#expected = bearerToken === undefined ? undefined : Buffer.from(`Bearer ${bearerToken}`);
  }

  get guarded(): boolean {
    return this.#expected !== undefined;
  }

  /** @throws UNAUTHORIZED */
  assertToken(headers: Headers): void {
    if (this.#expected === undefined) return;
    const given = Buffer.from(headers.get("authorization") ?? "", "latin1");
    // The length of the token shows, not its bytes.
    if (given.length !== this.#expected.length || !timingSafeEqual(given, this.#expected)) {
      throw new TributaryError("UNAUTHORIZED", "the bearer token is missing or wrong");
    }
  }

  /** The value of Access-Control-Allow-Origin for a request from a web page; undefined: that page may not ask. */
  allowOrigin(origin: string): string | undefined {
    if (this.guarded) return "*";
    return LOOPBACK_ORIGIN_PATTERN.test(origin) ? origin : undefined;
  }
}

const LOOPBACK_ORIGIN_PATTERN = /^https?:\/\/(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?$/;

const ALLOW_HEADERS =
  "Authorization, Content-Type, If-None-Match, Stream-Seq, Stream-Closed, Stream-TTL, Stream-Expires-At, Producer-Id, Producer-Epoch, Producer-Seq, " +
  "Routing-Key, Event-Time, Event-Split, Tributary-Segments";
const EXPOSE_HEADERS =
  "Stream-Next-Offset, Stream-Cursor, Stream-Up-To-Date, Stream-Closed, Stream-SSE-Data-Encoding, Producer-Epoch, Producer-Seq, " +
  "Producer-Expected-Seq, Producer-Received-Seq, Tributary-Owner, Tributary-Level, ETag, Location, Retry-After";

export function addCorsHeaders(response: Response, allowOrigin: string): void {
  response.headers.set("Access-Control-Allow-Origin", allowOrigin);
  response.headers.set("Access-Control-Expose-Headers", EXPOSE_HEADERS);
  if (allowOrigin !== "*") response.headers.append("Vary", "Origin");
}

export function preflightHeaders(): Record<string, string> {
  return {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": ALLOW_HEADERS,
    "Access-Control-Max-Age": "600",
  };
}
