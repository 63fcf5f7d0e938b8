const GATHER_MS_MAX = 60_000;

/** Waits until all connections of a run are there. A generator whose server is missing says so instead of waiting for ever. */
export class Gathering {
  readonly #count: number;
  #arrived = 0;
  #all: () => void = () => {};

  constructor(count: number) {
    this.#count = count;
  }

  arrived(): void {
    this.#arrived++;
    if (this.#arrived === this.#count) this.#all();
  }

  /** Opens the connections, and resolves with the ms that it took until the last one had arrived. */
  async of(open: () => void): Promise<number> {
    const startedMs = performance.now();
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`only ${this.#arrived} of ${this.#count} connections after ${GATHER_MS_MAX / 1000} s`)),
        GATHER_MS_MAX,
      );
      this.#all = () => {
        clearTimeout(timer);
        resolve();
      };
      open();
    });
    return Math.round(performance.now() - startedMs);
  }
}
