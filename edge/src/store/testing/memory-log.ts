import { TributaryError } from "@tributary/common/errors";
import type { Log, LogRecord, LogState } from "@tributary/common/ports/log";

export type LogOperation = "append" | "truncate";
/** What becomes of an operation: it fails before or after it took effect, or the disk is full. */
export type Fault = "crash-before" | "crash-after" | "full" | undefined;

/** What a disk would hold; outlives the handles on it. */
export class MemoryDisk {
  readonly records: Map<number, Uint8Array> = new Map();
  first = 1;
  last = 0;
  /** Asked before each append and truncation. */
  fault: (operation: LogOperation) => Fault = () => undefined;
  bytesMax: number = Number.POSITIVE_INFINITY;

  /** What a backup or a cloned card holds. */
  copy(): MemoryDisk {
    const copy = new MemoryDisk();
    for (const [seq, data] of this.records) copy.records.set(seq, Uint8Array.from(data));
    copy.first = this.first;
    copy.last = this.last;
    return copy;
  }

  get bytes(): number {
    let bytes = 0;
    for (const data of this.records.values()) bytes += data.length;
    return bytes;
  }
}

/** A Log in memory, for tests. After a crash every operation of the handle fails, as those of a process that is gone. */
export class MemoryLog implements Log {
  readonly #disk: MemoryDisk;
  #dead = false;

  constructor(disk: MemoryDisk) {
    this.#disk = disk;
  }

  async state(): Promise<LogState> {
    this.#assertAlive();
    const { first, last, bytes } = this.#disk;
    return { first, last, bytes };
  }

  append(data: Uint8Array, expectedLast: number): Promise<number> {
    return this.#operate("append", () => {
      const disk = this.#disk;
      if (expectedLast !== disk.last) throw new TributaryError("LOG_SEQUENCE_MISMATCH", `the log ends at ${disk.last}`);
      if (disk.bytes + data.length > disk.bytesMax) throw new TributaryError("STORAGE_FULL", "the disk is full");
      disk.records.set(++disk.last, Uint8Array.from(data));
      return disk.last;
    });
  }

  async read(fromSeq: number, bounds: { recordsMax: number; bytesMax: number }): Promise<LogRecord[]> {
    this.#assertAlive();
    const records: LogRecord[] = [];
    let bytes = 0;
    for (let seq = Math.max(fromSeq, this.#disk.first); seq <= this.#disk.last; seq++) {
      const data = this.#disk.records.get(seq);
      if (!data) continue;
      if (records.length > 0 && (records.length >= bounds.recordsMax || bytes + data.length > bounds.bytesMax)) break;
      records.push({ seq, data: Uint8Array.from(data) });
      bytes += data.length;
    }
    return records;
  }

  truncate(throughSeq: number): Promise<void> {
    return this.#operate("truncate", () => {
      for (; this.#disk.first <= Math.min(throughSeq, this.#disk.last); this.#disk.first++) this.#disk.records.delete(this.#disk.first);
    });
  }

  async close(): Promise<void> {
    this.#dead = true;
  }

  async #operate<T>(operation: LogOperation, work: () => T): Promise<T> {
    this.#assertAlive();
    const fault = this.#disk.fault(operation);
    if (fault === "full") throw new TributaryError("STORAGE_FULL", "the disk is full");
    if (fault === "crash-before") this.#dead = true;
    this.#assertAlive();
    const result = work();
    if (fault === "crash-after") this.#dead = true;
    // Durable, but nobody hears of it any more.
    await Promise.resolve();
    this.#assertAlive();
    return result;
  }

  #assertAlive(): void {
    if (this.#dead) throw new TributaryError("LOG_CLOSED", "the log is closed");
  }
}
