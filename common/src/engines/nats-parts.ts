import { assert } from "../assert.ts";
import type { Clock } from "../clock.ts";

interface HalfReceived {
  readonly bytes: Uint8Array;
  filled: number;
  nextIndex: number;
  cancelTimer: () => void;
}

export interface PartLimits {
  readonly messagesMax: number;
  /** Bytes of all messages that are being put together, counted whole from their first part on. */
  readonly bytesMax: number;
  /** A message is given up when no part of it has come for this long. */
  readonly idleMsMax: number;
}

/** Puts messages together that came in parts. Memory is bounded: what exceeds the limits is refused, never swapped for older ones. */
export class PartCollector {
  readonly #clock: Clock;
  readonly #limits: PartLimits;
  readonly #onGivenUp: (key: string) => void;
  readonly #messages = new Map<string, HalfReceived>();
  #bytes = 0;

  constructor(clock: Clock, limits: PartLimits, onGivenUp: (key: string) => void) {
    this.#clock = clock;
    this.#limits = limits;
    this.#onGivenUp = onGivenUp;
  }

  /** Makes room for a message. False when there is none, or the key is taken. */
  begin(key: string, totalBytes: number): boolean {
    if (this.#messages.has(key) || this.#messages.size >= this.#limits.messagesMax) return false;
    if (!Number.isSafeInteger(totalBytes) || totalBytes < 0 || this.#bytes + totalBytes > this.#limits.bytesMax) return false;
    this.#bytes += totalBytes;
    this.#messages.set(key, { bytes: new Uint8Array(totalBytes), filled: 0, nextIndex: 0, cancelTimer: this.#timer(key) });
    return true;
  }

  has(key: string): boolean {
    return this.#messages.has(key);
  }

  /** Takes the next part; resolves the message when it was the last. A part that is out of turn, or too long, gives the message up. */
  add(key: string, index: number, part: Uint8Array): Uint8Array | undefined {
    const message = this.#messages.get(key);
    if (!message) return undefined;
    if (index !== message.nextIndex || message.filled + part.length > message.bytes.length) {
      this.#giveUp(key);
      return undefined;
    }
    message.bytes.set(part, message.filled);
    message.filled += part.length;
    message.nextIndex++;
    if (message.filled === message.bytes.length) {
      this.drop(key);
      return message.bytes;
    }
    message.cancelTimer();
    message.cancelTimer = this.#timer(key);
    return undefined;
  }

  /** Forgets a message without a call back. */
  drop(key: string): void {
    const message = this.#messages.get(key);
    if (!message) return;
    message.cancelTimer();
    this.#bytes -= message.bytes.length;
    this.#messages.delete(key);
  }

  clear(): void {
    for (const key of [...this.#messages.keys()]) this.drop(key);
  }

  #timer(key: string): () => void {
    return this.#clock.setTimer(this.#limits.idleMsMax, () => this.#giveUp(key));
  }

  #giveUp(key: string): void {
    this.drop(key);
    this.#onGivenUp(key);
  }
}

/** Cuts bytes into views of at most `partBytesMax`; nothing gives one empty part. */
export function* cutIntoParts(bytes: Uint8Array, partBytesMax: number): Generator<{ index: number; part: Uint8Array }> {
  assert(partBytesMax >= 1, "a part holds something");
  for (let index = 0, from = 0; from < bytes.length || index === 0; index++, from += partBytesMax) {
    yield { index, part: bytes.subarray(from, from + partBytesMax) };
  }
}

/** The same bytes without the habits of Node's Buffer, whose `slice` shares memory. */
export function plainBytes(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
}
