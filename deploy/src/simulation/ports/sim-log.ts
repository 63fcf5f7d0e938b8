import { TributaryError } from "@tributary/common/errors";
import type { Log, LogRecord, LogState } from "@tributary/common/ports/log";
import type { SimEnvironment } from "../environment.ts";
import { across, createWire, type Outcome, outcomeOf, type SimProcess, type Wire } from "../process.ts";

/** Bytes that a record takes beside its own. */
const RECORD_OVERHEAD_BYTES = 32;

/** Whoever watches a store to judge what is done to it. */
export interface LogObserver {
  landed?(seq: number, data: Uint8Array): void;
  /** Before a record gets other bytes than it was given. */
  damaged?(seq: number): void;
  /** Before the records through `throughSeq` go. */
  truncating?(first: number, throughSeq: number): void;
  /** A snapshot is taken; what this returns is called when the log goes back to it. */
  marking?(): () => void;
}

/** All that a store held at a moment. */
export interface LogSnapshot {
  readonly first: number;
  readonly last: number;
  readonly records: ReadonlyMap<number, Uint8Array>;
  readonly wentBack: (() => void) | undefined;
}

/** The durable side of a log: what is left when every process is dead. */
export class LogStore {
  readonly name: string;
  readonly records: Map<number, Uint8Array> = new Map();
  first = 1;
  last = 0;
  bytes = 0;
  /** Appends above it find the disk full. */
  bytesMax: number = Number.POSITIVE_INFINITY;
  /** Records that the engine itself can no longer read: gone once it is opened again. */
  readonly unreadable: Set<number> = new Set();
  /** Counts up when it goes back: whatever was on its way to it then reaches nobody. */
  life = 0;
  readonly observer: LogObserver;

  constructor(name: string, observer: LogObserver = {}) {
    this.name = name;
    this.observer = observer;
  }

  append(data: Uint8Array, expectedLast: number): number {
    if (expectedLast !== this.last) throw new TributaryError("LOG_SEQUENCE_MISMATCH", `the log ends at ${this.last}, not ${expectedLast}`);
    if (this.bytes + data.length + RECORD_OVERHEAD_BYTES > this.bytesMax) throw new TributaryError("STORAGE_FULL", "the disk is full");
    const seq = ++this.last;
    this.#put(seq, data);
    this.observer.landed?.(seq, data);
    return seq;
  }

  truncate(throughSeq: number): void {
    const through = Math.min(throughSeq, this.last);
    if (through < this.first) return;
    this.observer.truncating?.(this.first, through);
    for (; this.first <= through; this.first++) this.remove(this.first);
  }

  remove(seq: number): void {
    const data = this.records.get(seq);
    if (!data) return;
    this.bytes -= data.length + RECORD_OVERHEAD_BYTES;
    this.records.delete(seq);
    this.unreadable.delete(seq);
  }

  /** Other bytes under a sequence, as a damaged disk has them. */
  damage(seq: number, data: Uint8Array): void {
    this.observer.damaged?.(seq);
    this.remove(seq);
    this.#put(seq, data);
  }

  /** Another disk with the same content: a cloned card, or a backup. */
  copy(name: string, observer: LogObserver): LogStore {
    const copy = new LogStore(name, observer);
    for (const [seq, data] of this.records) copy.#put(seq, data);
    for (const seq of this.unreadable) copy.unreadable.add(seq);
    copy.first = this.first;
    copy.last = this.last;
    return copy;
  }

  snapshot(): LogSnapshot {
    return { first: this.first, last: this.last, records: new Map(this.records), wentBack: this.observer.marking?.() };
  }

  /** All servers that hold it are lost at once, and an earlier state of their disks is restored. Sequences are given out again. */
  rollBack(to: LogSnapshot): void {
    this.life++;
    for (const seq of [...this.records.keys()]) this.remove(seq);
    this.unreadable.clear();
    for (const [seq, data] of to.records) this.#put(seq, data);
    this.first = to.first;
    this.last = to.last;
    to.wentBack?.();
  }

  read(fromSeq: number, bounds: { recordsMax: number; bytesMax: number }): LogRecord[] {
    const page: LogRecord[] = [];
    let bytes = 0;
    for (let seq = Math.max(fromSeq, this.first); seq <= this.last; seq++) {
      if (this.unreadable.has(seq)) throw new TributaryError("STORE_CORRUPT", `record ${seq} cannot be read`);
      const data = this.records.get(seq);
      if (!data) continue;
      if (page.length > 0 && (page.length >= bounds.recordsMax || bytes + data.length > bounds.bytesMax)) break;
      page.push({ seq, data });
      bytes += data.length;
    }
    return page;
  }

  #put(seq: number, data: Uint8Array): void {
    this.records.set(seq, data);
    this.bytes += data.length + RECORD_OVERHEAD_BYTES;
  }
}

/** How a log goes wrong: probabilities of each kind, for each call. */
export interface LogBehaviour {
  readonly appendMs: readonly [number, number];
  readonly readMs: readonly [number, number];
  /** Much slower than usual. */
  readonly slow: number;
  readonly slowMs: readonly [number, number];
  /** Of unknown result: it landed; it did not; it lands later. */
  readonly unknownLanded: number;
  readonly unknownLost: number;
  readonly unknownLate: number;
  readonly lateMs: readonly [number, number];
  /** A read of a good record gives bad bytes, once. */
  readonly readFlip: number;
  /** A read or truncation fails, or a truncation comes late. */
  readonly otherFailure: number;
  /** Local: what a dead process had under way is lost or lands as a prefix. Remote: it is on the network and lands. */
  readonly local: boolean;
}

export const QUIET_LOG: LogBehaviour = {
  appendMs: [0, 0],
  readMs: [0, 0],
  slow: 0,
  slowMs: [0, 0],
  unknownLanded: 0,
  unknownLost: 0,
  unknownLate: 0,
  lateMs: [0, 0],
  readFlip: 0,
  otherFailure: 0,
  local: true,
};

/** A process's handle on a log. */
export class SimLog implements Log {
  readonly #store: LogStore;
  readonly #process: SimProcess;
  readonly #environment: SimEnvironment;
  readonly #behaviour: LogBehaviour;
  readonly #wire: Wire;
  readonly #site: string;
  #closed = false;
  #busyUntilMs = 0;
  /** Called and not carried out yet. */
  #pending: { readonly data: Uint8Array; readonly expectedLast: number; done: boolean }[] = [];
  #running = 0;
  #onIdle: (() => void)[] = [];

  constructor(store: LogStore, process: SimProcess, environment: SimEnvironment, behaviour: LogBehaviour, wire: Wire = createWire()) {
    this.#store = store;
    this.#process = process;
    this.#environment = environment;
    this.#behaviour = behaviour;
    this.#wire = wire;
    this.#site = store.name;
    if (behaviour.local) process.onDeath(() => this.#crash());
  }

  state(): Promise<LogState> {
    return this.#call("state", this.#behaviour.readMs, () => {
      const { first, last, bytes } = this.#store;
      return { value: { first, last, bytes } };
    });
  }

  append(data: Uint8Array, expectedLast: number): Promise<number> {
    if (this.#closed) return Promise.reject(closedError());
    const { faults, dice, scheduler } = this.#environment;
    const { appendMs, slow, slowMs, unknownLanded, unknownLost, unknownLate, lateMs, local } = this.#behaviour;
    const site = `${this.#site} append`;
    const request = { data: new Uint8Array(data), expectedLast, done: false };
    const { life } = this.#store;
    this.#pending.push(request);
    let tookMs = dice.between(site, ...appendMs);
    if (faults.strikes("log slow", site, slow)) tookMs += dice.between(`${site} slow`, ...slowMs);
    // One disk: appends take their turns.
    this.#busyUntilMs = Math.max(scheduler.nowMs, this.#busyUntilMs) + tookMs;
    const backMs = local ? 0 : tookMs / 4;
    const arrive = (): Outcome<number> | undefined => {
      if (request.done) return undefined;
      this.#done(request);
      if (life !== this.#store.life) return unknownResult();
      const result = () => outcomeOf(() => this.#store.append(request.data, request.expectedLast));
      if (faults.strikes("log result unknown, landed", site, unknownLanded)) {
        result();
        return unknownResult();
      }
      if (faults.strikes("log result unknown, lost", site, unknownLost)) return unknownResult();
      if (!local && faults.strikes("log result unknown, lands later", site, unknownLate)) {
        // Mostly soon: then it meets those who just read the end of the log.
        const afterMs = lateMs[0] + dice.float(`${site} late`) ** 3 * (lateMs[1] - lateMs[0]);
        scheduler.schedule(afterMs, undefined, () => {
          if (life === this.#store.life) result();
        });
        return unknownResult();
      }
      return result();
    };
    return this.#count(this.#process.call(this.#busyUntilMs - scheduler.nowMs, backMs, () => across(this.#wire, LOST, arrive)));
  }

  read(fromSeq: number, bounds: { recordsMax: number; bytesMax: number }): Promise<LogRecord[]> {
    const site = `${this.#site} read`;
    return this.#call("read", this.#behaviour.readMs, () => {
      const { faults, dice } = this.#environment;
      if (faults.strikes("log read fails", site, this.#behaviour.otherFailure)) {
        return { error: new TributaryError("LOG_RESULT_UNKNOWN", "simulated: no answer") };
      }
      const page = this.#store.read(fromSeq, bounds);
      const record = page.at(-1);
      if (record && faults.strikes("log read flips a bit", site, this.#behaviour.readFlip)) {
        const data = record.data.slice();
        flipBit(data, dice.float(`${site} bit`));
        page[page.length - 1] = { seq: record.seq, data };
      }
      return { value: page };
    });
  }

  truncate(throughSeq: number): Promise<void> {
    const site = `${this.#site} truncate`;
    const { life } = this.#store;
    return this.#call("truncate", this.#behaviour.appendMs, () => {
      const { faults, dice, scheduler } = this.#environment;
      if (!this.#behaviour.local && faults.strikes("log truncation late", site, this.#behaviour.otherFailure)) {
        scheduler.schedule(dice.between(`${site} late`, ...this.#behaviour.lateMs), undefined, () => {
          if (life === this.#store.life) this.#store.truncate(throughSeq);
        });
        return { error: new TributaryError("LOG_RESULT_UNKNOWN", "simulated: no answer") };
      }
      if (faults.strikes("log truncation fails", site, this.#behaviour.otherFailure)) {
        return { error: new TributaryError(this.#behaviour.local ? "STORAGE_FULL" : "LOG_RESULT_UNKNOWN", "simulated: nothing done") };
      }
      this.#store.truncate(throughSeq);
      return { value: undefined };
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    if (this.#running > 0) await new Promise<void>((resolve) => this.#onIdle.push(resolve));
  }

  #call<T>(operation: string, takesMs: readonly [number, number], arrive: () => Outcome<T>): Promise<T> {
    if (this.#closed) return Promise.reject(closedError());
    const tookMs = this.#environment.dice.between(`${this.#site} ${operation} time`, ...takesMs);
    const { life } = this.#store;
    return this.#count(
      this.#process.call(tookMs / 2, tookMs / 2, () =>
        across(this.#wire, LOST, () => {
          if (life !== this.#store.life) return unknownResult();
          try {
            return arrive();
          } catch (error) {
            return { error };
          }
        }),
      ),
    );
  }

  async #count<T>(work: Promise<T>): Promise<T> {
    this.#running++;
    try {
      return await work;
    } finally {
      if (--this.#running === 0) for (const resolve of this.#onIdle.splice(0)) resolve();
    }
  }

  #done(request: { done: boolean }): void {
    request.done = true;
    this.#pending = this.#pending.filter((pending) => pending !== request);
  }

  /** The machine stops: of what was not synced a prefix is there, the next of it perhaps torn, and nothing behind it. */
  #crash(): void {
    const { dice, faults } = this.#environment;
    const pending = this.#pending;
    this.#pending = [];
    const kept = dice.integer(`${this.#site} crash`, 0, pending.length);
    pending.forEach((request, i) => {
      request.done = true;
      try {
        if (i < kept) this.#store.append(request.data, request.expectedLast);
        else if (i === kept && faults.strikes("log torn write", this.#site, 0.3)) {
          const bytes = Math.floor(dice.float(`${this.#site} torn`) * request.data.length);
          const seq = this.#store.append(request.data, request.expectedLast);
          this.#store.damage(seq, request.data.slice(0, bytes));
        } else faults.note("log unsynced write lost", `log unsynced write lost@${this.#site}#${this.#store.last}`);
      } catch {
        // Nobody waits for it.
      }
    });
  }
}

function unknownResult(): Outcome<never> {
  return { error: new TributaryError("LOG_RESULT_UNKNOWN", "simulated: no answer") };
}

/** After so long an append over a cut wire is given up. */
const LOST: Outcome<never> = { ...unknownResult(), lateMs: 2_500 };

function closedError(): TributaryError {
  return new TributaryError("LOG_CLOSED", "the log is closed");
}

export function flipBit(data: Uint8Array, at: number): void {
  const bit = Math.floor(at * data.length * 8);
  const byte = bit >> 3;
  if (byte < data.length) data[byte] = (data[byte] as number) ^ (1 << (bit & 7));
}
