import { TributaryError } from "@tributary/common/errors";
import { joined, type ObjectData } from "@tributary/common/object-data";
import type { Log, LogRecord, LogState } from "@tributary/common/ports/log";
import type { ObjectInfo, ObjectStore } from "@tributary/common/ports/object-store";

/** A Log in memory; it outlives whoever uses it. */
export class MemoryLog implements Log {
  protected records: LogRecord[] = [];
  protected last = 0;

  async state(): Promise<LogState> {
    const bytes = this.records.reduce((sum, record) => sum + record.data.length, 0);
    return { first: this.records[0]?.seq ?? this.last + 1, last: this.last, bytes };
  }
  async append(data: Uint8Array, expectedLast: number): Promise<number> {
    if (expectedLast !== this.last) throw new TributaryError("LOG_SEQUENCE_MISMATCH", `the log ends at ${this.last}`);
    this.records.push({ seq: ++this.last, data: Uint8Array.from(data) });
    return this.last;
  }
  async read(fromSeq: number, bounds: { recordsMax: number; bytesMax: number }): Promise<LogRecord[]> {
    return this.records.filter((record) => record.seq >= fromSeq).slice(0, bounds.recordsMax);
  }
  async truncate(throughSeq: number): Promise<void> {
    this.records = this.records.filter((record) => record.seq > throughSeq);
  }
  async close(): Promise<void> {}
}

export class MemoryObjectStore implements ObjectStore {
  readonly #objects = new Map<string, Uint8Array>();

  async put(name: string, data: ObjectData): Promise<void> {
    if (this.#objects.has(name)) throw new TributaryError("OBJECT_EXISTS", name);
    this.#objects.set(name, joined(data));
  }
  async get(name: string, range?: { offset: number; length: number }): Promise<Uint8Array> {
    const data = this.#objects.get(name);
    if (!data) throw new TributaryError("OBJECT_NOT_FOUND", name);
    return range ? data.slice(range.offset, range.offset + range.length) : data.slice();
  }
  async head(name: string): Promise<ObjectInfo | undefined> {
    const data = this.#objects.get(name);
    return data && { name, bytes: data.length };
  }
  async list(prefix: string, options: { after?: string; limit: number }): Promise<ObjectInfo[]> {
    const { after, limit } = options;
    const names = [...this.#objects.keys()].filter((name) => name.startsWith(prefix) && (after === undefined || name > after)).sort();
    return names.slice(0, limit).map((name) => ({ name, bytes: this.#objects.get(name)?.length ?? 0 }));
  }
  async delete(name: string): Promise<void> {
    this.#objects.delete(name);
  }
  async close(): Promise<void> {}
}
