import { NumberSet } from "../check/number-set.ts";

/** What one load client did: its events are numbered from 1, and carry the client's name and the number in their payload. */
export interface ClientLedger {
  readonly client: string;
  sent: number;
  acked: number;
  readonly ackedNumbers: NumberSet;
  /** Numbers that the client itself sent more than once without a way to be recognised (MQTT QoS 1). */
  readonly resent: Set<number>;
}

export interface LedgerReport {
  readonly acked: number;
  readonly read: number;
  readonly lost: number;
  readonly doubled: number;
  readonly reordered: number;
  /** Doubles that a QoS 1 client made itself. */
  readonly resentDoubles: number;
  /** Events read that were never acknowledged: allowed. */
  readonly unacknowledged: number;
  readonly details: readonly string[];
}

const DETAILS_KEPT_MAX = 20;

/** Compares what clients were told with what a reader gets from the public API. */
export class Ledger {
  readonly #clients = new Map<string, ClientLedger>();

  open(client: string): ClientLedger {
    const ledger: ClientLedger = { client, sent: 0, acked: 0, ackedNumbers: new NumberSet(), resent: new Set() };
    this.#clients.set(client, ledger);
    return ledger;
  }

  get acked(): number {
    let sum = 0;
    for (const client of this.#clients.values()) sum += client.acked;
    return sum;
  }

  checker(): LedgerChecker {
    return new LedgerChecker(this.#clients);
  }
}

export function recordAck(ledger: ClientLedger, from: number, to: number): void {
  const known = ledger.ackedNumbers.add(from, to);
  ledger.acked += to - from + 1 - known;
}

export function eventPayload(client: string, number: number, filler: string): string {
  return `{"client":"${client}","n":${number},"fill":"${filler}"}\n`;
}

const PAYLOAD = /^\{"client":"([^"]+)","n":(\d+),/;

/** Takes the events of one client's key in the order read. */
export class LedgerChecker {
  readonly #clients: ReadonlyMap<string, ClientLedger>;
  readonly #seen = new Map<string, { numbers: NumberSet; last: number; count: number }>();
  readonly #details: string[] = [];
  #read = 0;
  #doubled = 0;
  #reordered = 0;
  #resentDoubles = 0;

  constructor(clients: ReadonlyMap<string, ClientLedger>) {
    this.#clients = clients;
  }

  add(data: Uint8Array): void {
    const match = PAYLOAD.exec(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("latin1"));
    if (!match) {
      this.#note(`a payload that no client sent: ${Buffer.from(data).toString("latin1").slice(0, 80)}`);
      return;
    }
    this.#read++;
    const [client, number] = [match[1] as string, Number(match[2])];
    let seen = this.#seen.get(client);
    if (!seen) {
      seen = { numbers: new NumberSet(), last: 0, count: 0 };
      this.#seen.set(client, seen);
    }
    if (seen.numbers.add(number, number) > 0) {
      if (this.#clients.get(client)?.resent.has(number)) this.#resentDoubles++;
      else {
        this.#doubled++;
        this.#note(`${client} ${number} is there twice`);
      }
      return;
    }
    seen.count++;
    if (number < seen.last) {
      this.#reordered++;
      this.#note(`${client} ${number} comes behind ${seen.last}`);
    }
    seen.last = Math.max(seen.last, number);
  }

  finish(): LedgerReport {
    let acked = 0;
    let lost = 0;
    let distinct = 0;
    for (const client of this.#clients.values()) {
      acked += client.acked;
      const seen = this.#seen.get(client.client);
      distinct += seen?.count ?? 0;
      for (const [from, to] of client.ackedNumbers.ranges()) {
        const missing = to - from + 1 - (seen?.numbers.countWithin(from, to) ?? 0);
        if (missing > 0) this.#note(`${client.client}: ${missing} of ${from} to ${to} are lost`);
        lost += missing;
      }
    }
    return {
      acked,
      read: this.#read,
      lost,
      doubled: this.#doubled,
      reordered: this.#reordered,
      resentDoubles: this.#resentDoubles,
      unacknowledged: distinct - (acked - lost),
      details: this.#details,
    };
  }

  #note(detail: string): void {
    if (this.#details.length < DETAILS_KEPT_MAX) this.#details.push(detail);
  }
}
