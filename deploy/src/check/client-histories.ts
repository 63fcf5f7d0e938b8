import { NumberSet } from "./number-set.ts";
import type { DeliveryPromise, PlainRecord } from "./plain.ts";

export interface ClientOptions {
  readonly client: string;
  /** Where all of its events go, and under which key. */
  readonly stream: string;
  readonly key: string;
  readonly promise: DeliveryPromise;
  /** The bytes of its event `number`. */
  readonly payload: (number: number) => string;
}

/** What one client did: its events are numbered from 1 and carry its name and their number. Numbers are kept as ranges, so it stays small. */
export interface ClientHistory extends ClientOptions {
  sent: number;
  acked: number;
  readonly ackedNumbers: NumberSet;
  /** How often the client itself sent a number once more without a way to be recognised. */
  readonly resent: Map<number, number>;
}

/** What one client did since the report before, in what another process can be told. */
export interface HistoryReport {
  readonly client: string;
  /** In all. */
  readonly sent: number;
  readonly acked: readonly (readonly [from: number, to: number])[];
  readonly resent: readonly (readonly [number: number, times: number])[];
}

export interface ClientReport {
  readonly acked: number;
  readonly read: number;
  readonly lost: number;
  readonly doubled: number;
  readonly reordered: number;
  /** Records that are nothing that the client sent, or stand where it did not send them. */
  readonly foreign: number;
  /** Doubles that a client made itself, as its promise allows. */
  readonly resentDoubles: number;
  /** Events read that were never acknowledged: allowed. */
  readonly unacknowledged: number;
  readonly details: readonly string[];
}

const DETAILS_KEPT_MAX = 20;

/** Which client's which event a payload says that it is. */
export type Identify = (data: Uint8Array) => { readonly client: string; readonly number: number } | undefined;

/** Compares what clients sent and were told with complete reads: invariants 1 and 2 for histories of many millions of events. */
export class ClientHistories {
  readonly #identify: Identify;
  readonly #clients = new Map<string, ClientHistory>();
  /** What was sent of each client when it was reported last. */
  readonly #reported = new Map<string, number>();

  constructor(identify: Identify) {
    this.#identify = identify;
  }

  open(options: ClientOptions): ClientHistory {
    const history: ClientHistory = { ...options, sent: 0, acked: 0, ackedNumbers: new NumberSet(), resent: new Map() };
    this.#clients.set(options.client, history);
    return history;
  }

  get acked(): number {
    let sum = 0;
    for (const client of this.#clients.values()) sum += client.acked;
    return sum;
  }

  /** Sent, and neither acknowledged nor refused as far as anybody knows: such an event may be there or not. */
  get unanswered(): number {
    let sum = 0;
    for (const client of this.#clients.values()) sum += client.sent - client.acked;
    return sum;
  }

  /**
   * Reports of the clients that did anything since this was called last. What is reported is forgotten here, however long the run is:
   * the histories that `addReports` is called on are the whole ones.
   */
  takeReports(): HistoryReport[] {
    const reports: HistoryReport[] = [];
    for (const { client, sent, ackedNumbers, resent } of this.#clients.values()) {
      const report = { client, sent, acked: ackedNumbers.take(), resent: [...resent] };
      resent.clear();
      if (report.acked.length + report.resent.length === 0 && sent === (this.#reported.get(client) ?? 0)) continue;
      this.#reported.set(client, sent);
      reports.push(report);
    }
    return reports;
  }

  /** Takes what `takeReports` of another process gave, each report once and in that order. The clients are open here as well. */
  addReports(reports: readonly HistoryReport[]): void {
    for (const { client, sent, acked, resent } of reports) {
      const history = this.#clients.get(client);
      if (!history) throw new Error(`there is no client '${client}'`);
      history.sent = sent;
      for (const [from, to] of acked) recordAck(history, from, to);
      for (const [number, times] of resent) recordResend(history, number, times);
    }
  }

  checker(): HistoryChecker {
    return new HistoryChecker(this.#clients, this.#identify);
  }
}

export function recordAck(history: ClientHistory, from: number, to: number): void {
  const known = history.ackedNumbers.add(from, to);
  history.acked += to - from + 1 - known;
}

/** To be called each time but the first that a client with the promise "at least once" sends a number. */
export function recordResend(history: ClientHistory, number: number, times = 1): void {
  history.resent.set(number, (history.resent.get(number) ?? 0) + times);
}

interface Seen {
  readonly history: ClientHistory;
  readonly numbers: NumberSet;
  /** Doubles so far of numbers that were sent again. */
  readonly doubles: Map<number, number>;
  last: number;
  count: number;
}

/** Takes the events of all streams, each from its first to its last, in the order read. */
export class HistoryChecker {
  readonly #seen: ReadonlyMap<string, Seen>;
  readonly #identify: Identify;
  readonly #details: string[] = [];
  #read = 0;
  #doubled = 0;
  #reordered = 0;
  #foreign = 0;
  #resentDoubles = 0;

  constructor(clients: ReadonlyMap<string, ClientHistory>, identify: Identify) {
    this.#seen = new Map(
      [...clients].map(([name, history]) => [name, { history, numbers: new NumberSet(), doubles: new Map(), last: 0, count: 0 }]),
    );
    this.#identify = identify;
  }

  add(stream: string, record: PlainRecord, data: Uint8Array): void {
    if (record.gap) return;
    this.#read++;
    const text = Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("latin1");
    const event = this.#identify(data);
    const seen = event && this.#seen.get(event.client);
    const at = `${stream} ${record.segment} ${record.ordinal}`;
    if (!seen || event.number < 1 || event.number > seen.history.sent || text !== seen.history.payload(event.number)) {
      this.#foreign++;
      this.#note(`${at} holds what no client sent: ${text.slice(0, 80)}`);
      return;
    }
    const { history } = seen;
    const who = `${history.client} ${event.number}`;
    if (stream !== history.stream || record.key !== history.key) {
      this.#foreign++;
      this.#note(`${who} was sent to ${history.stream} under key ${history.key}, and is at ${at} under key ${record.key}`);
    }
    if (seen.numbers.add(event.number, event.number) > 0) this.#double(seen, event.number, who);
    else {
      seen.count++;
      if (event.number < seen.last) {
        this.#reordered++;
        this.#note(`${who} comes behind ${seen.last}`);
      }
      seen.last = Math.max(seen.last, event.number);
    }
  }

  finish(): ClientReport {
    let acked = 0;
    let lost = 0;
    let distinct = 0;
    for (const { history, numbers, count } of this.#seen.values()) {
      acked += history.acked;
      distinct += count;
      for (const [from, to] of history.ackedNumbers.ranges()) {
        const missing = to - from + 1 - numbers.countWithin(from, to);
        if (missing > 0) this.#note(`${history.client}: ${missing} of ${from} to ${to} are lost`);
        lost += missing;
      }
    }
    return {
      acked,
      read: this.#read,
      lost,
      doubled: this.#doubled,
      reordered: this.#reordered,
      foreign: this.#foreign,
      resentDoubles: this.#resentDoubles,
      unacknowledged: distinct - (acked - lost),
      details: this.#details,
    };
  }

  #double({ history, doubles }: Seen, number: number, who: string): void {
    const doublesNow = (doubles.get(number) ?? 0) + 1;
    doubles.set(number, doublesNow);
    if (history.promise === "at-least-once" && doublesNow <= (history.resent.get(number) ?? 0)) this.#resentDoubles++;
    else {
      this.#doubled++;
      this.#note(`${who} is there ${doublesNow + 1} times, sent ${1 + (history.resent.get(number) ?? 0)} times`);
    }
  }

  #note(detail: string): void {
    if (this.#details.length < DETAILS_KEPT_MAX) this.#details.push(detail);
  }
}
