import { TributaryError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { EventPack } from "../stream-service.ts";
import { parseEventTime } from "./event-time.ts";
import { eventTooLarge, tooManyEvents } from "./split-lines.ts";

export const BATCH_NDJSON = "application/vnd.tributary.batch+ndjson";
export const BATCH_CBOR = "application/vnd.tributary.batch+cbor";

export function invalidBatch(index: number, detail: string): TributaryError {
  return new TributaryError("INVALID_BODY", `event ${index} of the batch: ${detail}`, { index });
}

const encoder = new TextEncoder();

/** @throws INVALID_REQUEST */
export function assertRoutingKey(key: string): void {
  // A UTF-16 unit takes at most three bytes, so most keys need no count.
  const short = key.length * 3 <= LIMITS.routingKeyBytesMax;
  if (!short && Buffer.byteLength(key) > LIMITS.routingKeyBytesMax) {
    throw new TributaryError("INVALID_REQUEST", `a routing key has at most ${LIMITS.routingKeyBytesMax} bytes`, {
      bytesMax: LIMITS.routingKeyBytesMax,
    });
  }
}

/** Collects the events of a batch, each with its own key and time, into one EventPack. */
export class BatchBuilder {
  readonly #payload: Uint8Array;
  readonly #ends: number[] = [];
  readonly #keys: string[] = [];
  readonly #times: (number | undefined)[] = [];
  #at = 0;
  #keyed = false;
  #timed = false;

  /** No form of a batch is shorter than the payloads in it: the size of the body is room enough. */
  constructor(bodyBytes: number) {
    this.#payload = new Uint8Array(bodyBytes);
  }

  get count(): number {
    return this.#ends.length;
  }

  /** @throws INVALID_BODY, INVALID_REQUEST, EVENT_TOO_LARGE, BATCH_TOO_LARGE */
  add(key: unknown, time: unknown, data: string | Uint8Array): void {
    const index = this.#ends.length;
    if (index === LIMITS.requestEventsMax) throw tooManyEvents();
    this.#keys.push(this.#readKey(key, index));
    this.#times.push(this.#readTime(time, index));
    const start = this.#at;
    if (typeof data === "string") {
      // Half of a surrogate pair has no UTF-8 form; encoding would replace it.
      if (!data.isWellFormed()) throw invalidBatch(index, "'data' is not well-formed text; send it as base64");
      this.#at += encoder.encodeInto(data, this.#payload.subarray(start)).written;
    } else {
      this.#payload.set(data, start);
      this.#at += data.length;
    }
    if (this.#at - start > LIMITS.eventBytesMax) throw eventTooLarge(index, this.#at - start);
    this.#ends.push(this.#at);
  }

  #readKey(key: unknown, index: number): string {
    if (key === undefined) return "";
    if (typeof key !== "string" || !key.isWellFormed()) throw invalidBatch(index, "'key' is not well-formed text");
    assertRoutingKey(key);
    this.#keyed = true;
    return key;
  }

  #readTime(time: unknown, index: number): number | undefined {
    if (time === undefined) return undefined;
    const ms = typeof time === "number" || typeof time === "string" ? parseEventTime(time) : undefined;
    if (ms === undefined) throw invalidBatch(index, "'time' is neither ms since 1970 nor an RFC 3339 date");
    this.#timed = true;
    return ms;
  }

  /** Events without a time in a batch where others have one get `nowMs`. */
  finish(nowMs: number): EventPack {
    return {
      count: this.#ends.length,
      payload: this.#payload.subarray(0, this.#at),
      ends: this.#ends,
      keys: this.#keyed ? this.#keys : undefined,
      timesMs: this.#timed ? this.#times.map((time) => time ?? nowMs) : undefined,
    };
  }
}
