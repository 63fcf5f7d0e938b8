import { type ErrorCode, TributaryError } from "../errors.ts";

/** The most that a body may hold, and what is said when it holds more. */
export interface BodyLimit {
  readonly bytesMax: number;
  readonly code: Extract<ErrorCode, "EVENT_TOO_LARGE" | "BATCH_TOO_LARGE">;
}

const EMPTY = new Uint8Array(0);

/**
 * Bodies in memory, of all requests together. Without this bound a thousand clients with the largest body each would need 8 GB;
 * beyond it requests are refused with OVERLOADED, which a client may repeat.
 */
export class BodyBudget {
  readonly #bytesMax: number;
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** @throws OVERLOADED */
  take(bytes: number): void {
    if (this.#bytes + bytes > this.#bytesMax) {
      throw new TributaryError("OVERLOADED", "too many request bodies are being taken in at once");
    }
    this.#bytes += bytes;
  }

  give(bytes: number): void {
    this.#bytes -= bytes;
  }
}

/** A body and its share of the budget; `release` when its bytes are no longer needed. */
export interface TakenBody {
  readonly bytes: Uint8Array;
  release(): void;
}

/**
 * Reads a body, refusing it as soon as it is known to be too long: by its Content-Length before anything is read, else while reading.
 * The bytes belong to the caller and may be changed in place.
 * @throws EVENT_TOO_LARGE, BATCH_TOO_LARGE, INVALID_BODY, OVERLOADED
 */
export async function takeBody(request: Request, limit: BodyLimit, budget: BodyBudget): Promise<TakenBody> {
  const declared = request.headers.get("content-length");
  return declared === null ? takeUndeclared(request, limit, budget) : takeDeclared(request, Number(declared), limit, budget);
}

function tooLarge(limit: BodyLimit, bytes: number): TributaryError {
  return new TributaryError(limit.code, `the body has more than ${limit.bytesMax} bytes`, { bytes, bytesMax: limit.bytesMax });
}

function endedEarly(cause: unknown): TributaryError {
  return new TributaryError("INVALID_BODY", "the request body ended before it was complete", {}, { cause });
}

async function takeDeclared(request: Request, length: number, limit: BodyLimit, budget: BodyBudget): Promise<TakenBody> {
  if (!Number.isSafeInteger(length) || length < 0) throw new TributaryError("INVALID_REQUEST", "Content-Length is not a length");
  if (length > limit.bytesMax) throw tooLarge(limit, length);
  if (length === 0) return { bytes: EMPTY, release: () => undefined };
  budget.take(length);
  try {
    const bytes = new Uint8Array(await request.arrayBuffer());
    return { bytes, release: () => budget.give(length) };
  } catch (error) {
    budget.give(length);
    throw endedEarly(error);
  }
}

/** Chunked: the length shows only while reading. */
async function takeUndeclared(request: Request, limit: BodyLimit, budget: BodyBudget): Promise<TakenBody> {
  const body = request.body;
  if (body === null) return { bytes: EMPTY, release: () => undefined };
  const reader = body.getReader() as ReadableStreamDefaultReader<Uint8Array>;
  const parts: Uint8Array[] = [];
  let length = 0;
  try {
    for (;;) {
      const { done, value } = await readPart(reader);
      if (done) break;
      if (length + value.length > limit.bytesMax) throw tooLarge(limit, length + value.length);
      budget.take(value.length);
      length += value.length;
      parts.push(value);
    }
  } catch (error) {
    budget.give(length);
    // What is left unread dies with the connection; nobody waits for the cancellation.
    reader.cancel().catch(() => undefined);
    throw error;
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return { bytes, release: () => budget.give(length) };
}

async function readPart(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<ReadableStreamReadResult<Uint8Array>> {
  try {
    return await reader.read();
  } catch (error) {
    throw endedEarly(error);
  }
}
