import { TributaryError } from "@tributary/common/errors";

/** Counts what is being worked on, and refuses what is too much. */
export class InFlight {
  readonly #countMax: number;
  readonly #bytesMax: number;
  #count = 0;
  #bytes = 0;

  constructor(countMax: number, bytesMax: number = Number.POSITIVE_INFINITY) {
    this.#countMax = countMax;
    this.#bytesMax = bytesMax;
  }

  /** One piece of work is taken however large it is. @throws OVERLOADED, or what the work throws */
  async run<T>(bytes: number, work: () => Promise<T>): Promise<T> {
    if (this.#count >= this.#countMax || (this.#count > 0 && this.#bytes + bytes > this.#bytesMax)) {
      throw new TributaryError("OVERLOADED", "too many requests are being worked on");
    }
    this.#count++;
    this.#bytes += bytes;
    try {
      return await work();
    } finally {
      this.#count--;
      this.#bytes -= bytes;
    }
  }
}
