/** A counting semaphore: whoever asks first is served first. */
export class Slots {
  #free: number;
  readonly #count: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#count = count;
    this.#free = count;
  }

  /** Runs `work` with one slot. */
  async use<T>(work: () => Promise<T>): Promise<T> {
    await this.#acquire();
    try {
      return await work();
    } finally {
      this.#release();
    }
  }

  /** Runs `work` with all slots: alone. */
  async useAll<T>(work: () => Promise<T>): Promise<T> {
    for (let i = 0; i < this.#count; i++) await this.#acquire();
    try {
      return await work();
    } finally {
      for (let i = 0; i < this.#count; i++) this.#release();
    }
  }

  #acquire(): Promise<void> {
    if (this.#free > 0) {
      this.#free--;
      return Promise.resolve();
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #release(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free++;
  }
}
