import { hasCode } from "@tributary/common/errors";
import type { Log, LogRecord } from "@tributary/common/ports/log";
import { type CommitRecord, decodeCommit } from "./commit-record.ts";
import { decodeIncarnation, type IncarnationRecord } from "./incarnation-record.ts";
import { decodeRecord, type RawRecord, RECORD_KIND } from "./record.ts";

export type LogEntry =
  | CommitRecord
  | IncarnationRecord
  | { readonly kind: "checkpoint"; readonly seq: number; readonly bytes: number; readonly checkpoint: number; readonly raw: RawRecord }
  /** Records `from` to `seq` are lost: unreadable, or not there. */
  | { readonly kind: "damaged"; readonly from: number; readonly seq: number; readonly bytes: number };

/** Told of every damaged record that is met, `data` undefined if it is not there at all. May be told twice of one. */
export type DamageListener = (from: number, seq: number, data: Uint8Array | undefined) => void;

const PAGE = { recordsMax: 1024, bytesMax: 1024 * 1024 } as const;

/** Reads the log forward, a page ahead, and decodes record by record. Damage is an entry like any other. */
export class LogCursor {
  readonly #log: Log;
  readonly #onDamage: DamageListener;
  #next: number;
  #page: LogRecord[] = [];
  #pageAt = 0;
  #entry: LogEntry | undefined;

  constructor(log: Log, fromSeq: number, onDamage: DamageListener) {
    this.#log = log;
    this.#next = fromSeq;
    this.#onDamage = onDamage;
  }

  /** Sequence of the next entry. */
  get next(): number {
    return this.#next;
  }

  /** The next entry, if it lies at or below `end`; stays the next one until `advance`. @throws FORMAT_UNSUPPORTED */
  async peek(end: number): Promise<LogEntry | undefined> {
    if (this.#entry) return this.#entry;
    if (this.#next > end) return undefined;
    if (this.#pageAt >= this.#page.length) {
      this.#page = await this.#log.read(this.#next, PAGE);
      this.#pageAt = 0;
    }
    const record = this.#page[this.#pageAt];
    // Records behind `end` are not durable yet; a page that runs out before `end` or begins behind `next` shows a hole.
    if (!record || record.seq > this.#next) {
      const seq = Math.min(end, record ? record.seq - 1 : end);
      if (!record) this.#page = [];
      this.#onDamage(this.#next, seq, undefined);
      this.#entry = { kind: "damaged", from: this.#next, seq, bytes: 0 };
      return this.#entry;
    }
    this.#pageAt++;
    this.#entry = decodeEntry(record) ?? this.#damaged(record);
    return this.#entry;
  }

  advance(): void {
    if (!this.#entry) return;
    this.#next = this.#entry.seq + 1;
    this.#entry = undefined;
  }

  #damaged(record: LogRecord): LogEntry {
    this.#onDamage(record.seq, record.seq, record.data);
    return { kind: "damaged", from: record.seq, seq: record.seq, bytes: record.data.length };
  }
}

/** undefined if the record is damaged. @throws FORMAT_UNSUPPORTED */
export function decodeEntry(record: LogRecord): Exclude<LogEntry, { kind: "damaged" }> | undefined {
  try {
    const raw = decodeRecord(record.data, record.seq);
    const bytes = record.data.length;
    if (raw.kind === RECORD_KIND.commit) return decodeCommit(raw, bytes);
    if (raw.kind === RECORD_KIND.incarnation) return decodeIncarnation(raw, bytes);
    return { kind: "checkpoint", seq: raw.seq, bytes, checkpoint: raw.checkpoint, raw };
  } catch (error) {
    if (hasCode(error, "STORE_CORRUPT")) return undefined;
    throw error;
  }
}
