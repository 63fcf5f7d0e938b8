import type { EnvelopeRecord } from "@tributary/common/sdk/client";
import { ClientHistories, type ClientHistory } from "../check/client-histories.ts";
import { digestOf, type PlainRecord } from "../check/plain.ts";

const PAYLOAD = /^\{"client":"([^"]+)","n":(\d+),/;

function eventPayload(client: string, number: number, filler: string): string {
  return `{"client":"${client}","n":${number},"fill":"${filler}"}\n`;
}

/** What the load clients of a scenario did; the check itself is `check/client-histories.ts`. */
export class Ledger extends ClientHistories {
  constructor() {
    super((data) => {
      const match = PAYLOAD.exec(Buffer.from(data.buffer, data.byteOffset, Math.min(data.byteLength, 256)).toString("latin1"));
      return match ? { client: match[1] as string, number: Number(match[2]) } : undefined;
    });
  }

  /** A client whose routing key is its name. */
  enter(client: string, stream: string, promise: ClientHistory["promise"], filler: string): ClientHistory {
    return this.open({ client, stream, key: client, promise, payload: (number) => eventPayload(client, number, filler) });
  }
}

export function plainOf(record: EnvelopeRecord): PlainRecord & { readonly digest: number } {
  const { segment, ordinal, nonce, writer, incarnation, lane, number, key, gap, data } = record;
  const plain = { segment, ordinal, nonce, writer, incarnation, lane, number, key, gap: gap && { first: gap.first, count: gap.count } };
  return { ...plain, digest: digestOf(plain, data) };
}
