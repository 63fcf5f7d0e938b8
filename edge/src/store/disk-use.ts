import type { Log } from "@tributary/common/ports/log";

/** A byte appended is a byte in SQLite's own log and one in the database, and adds to the reserve: twice and a half, until it is looked at. */
const DISK_BYTES_PER_BYTE = 2.5;

/** What the log takes on its disk: asked for now and then, reckoned in between, because asking for every commit would cost more. */
export class DiskUse {
  readonly #log: Log;
  readonly #checkBytes: number;
  #bytes = 0;
  #sinceCheck = 0;
  #checking = false;

  constructor(log: Log, checkBytes: number) {
    this.#log = log;
    this.#checkBytes = checkBytes;
  }

  get bytes(): number {
    return this.#bytes + this.#sinceCheck;
  }

  wrote(bytes: number): void {
    this.#sinceCheck += Math.ceil(bytes * DISK_BYTES_PER_BYTE);
    if (this.#sinceCheck < this.#checkBytes || this.#checking) return;
    this.#checking = true;
    this.refresh()
      .catch(() => undefined) // The next commit or the next look tells what is wrong with the log.
      .finally(() => {
        this.#checking = false;
      });
  }

  async refresh(): Promise<number> {
    const { bytes, bytesReusable = 0 } = await this.#log.state();
    this.#bytes = bytes - bytesReusable;
    this.#sinceCheck = 0;
    return this.#bytes;
  }
}
