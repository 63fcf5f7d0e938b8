/** Room is made in steps, so that a buffer fits many frames. */
const STEP_BYTES = 262_144;
/** Below this a buffer of its own costs less than the room that a step takes. */
const KEPT_BYTES_MIN = 65_536;

/**
 * Buffers of frames that are durable, for the next ones: a fresh array of a megabyte comes in pages that the system has to fill with zeros
 * first, and lies in no cache of the processor (measured: copying, hashing and sending a frame takes half as long again in it).
 * A buffer comes back only once nobody reads it any more: a frame of unknown result keeps its own.
 */
export class FrameBuffers {
  readonly #countMax: number;
  readonly #bytesMax: number;
  #free: ArrayBuffer[] = [];

  /** @param bytesMax larger ones are not kept */
  constructor(countMax: number, bytesMax: number) {
    this.#countMax = countMax;
    this.#bytesMax = bytesMax;
  }

  /** Its bytes are anything. */
  take(length: number): Uint8Array {
    if (length < KEPT_BYTES_MIN) return new Uint8Array(length);
    const at = this.#free.findIndex((buffer) => buffer.byteLength >= length);
    const [buffer = new ArrayBuffer(Math.ceil(length / STEP_BYTES) * STEP_BYTES)] = at < 0 ? [] : this.#free.splice(at, 1);
    return new Uint8Array(buffer, 0, length);
  }

  giveBack({ buffer }: Uint8Array): void {
    const { byteLength } = buffer;
    if (this.#free.length < this.#countMax && byteLength >= KEPT_BYTES_MIN && byteLength <= this.#bytesMax) {
      this.#free.push(buffer as ArrayBuffer);
    }
  }

  /** Whoever does nothing keeps no memory. */
  clear(): void {
    this.#free = [];
  }
}
