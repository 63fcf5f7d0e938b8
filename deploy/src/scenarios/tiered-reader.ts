import { TributaryError } from "@tributary/common/errors";
import { parseStreamName } from "@tributary/common/names";
import { type EnvelopeRecord, TributaryClient } from "@tributary/common/sdk/client";
import { fingerprintOf } from "../check/plain.ts";
import { plainOf } from "./ledger.ts";
import { type ScenarioResult, until } from "./scenario.ts";

const RETRY_MS = 50;
const SETTLE_MS_MAX = 60_000;

/** What was read, in its order, in two numbers. */
class Sequence {
  count = 0;
  digest = 0;

  add(record: EnvelopeRecord): void {
    this.count++;
    this.digest = (Math.imul(this.digest, 31) + fingerprintOf(plainOf(record))) | 0;
  }
}

/**
 * Follows a stream at level tiered, through the loss of all logs: it goes on from the last offset that it was given, whatever happens,
 * and never takes a step back. Servers may be away; any other answer but a page is a failure.
 */
export class TieredReader {
  readonly stream: string;
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;
  readonly #read = new Sequence();
  /** Requests that met a server which was away or not ready. */
  retries = 0;
  failure: string | undefined;

  constructor(server: string, stream: string) {
    this.stream = stream;
    this.#done = this.#run(new TributaryClient({ server }));
  }

  get seen(): number {
    return this.#read.count;
  }

  async #run(client: TributaryClient): Promise<void> {
    const { signal } = this.#stop;
    let offset = "-1";
    while (!signal.aborted && this.failure === undefined) {
      try {
        for await (const page of client.readPages(parseStreamName(this.stream), { offset, follow: true, signal, level: "tiered" })) {
          for (const record of page.records) this.#read.add(record);
          offset = page.nextOffset;
        }
      } catch (error) {
        if (signal.aborted) return;
        // An answer that its server's death cut off ends in an error of the runtime.
        const away = error instanceof TributaryError ? error.retryable : error instanceof TypeError;
        if (away) this.retries++;
        else this.failure = `${this.stream} at ${offset}: ${error}`;
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  /** Once nothing is appended any more: it has read what the stream holds, each record once and in order. */
  async judge(client: TributaryClient): Promise<string | undefined> {
    const all = new Sequence();
    for await (const page of client.readPages(parseStreamName(this.stream), { offset: "-1" }))
      for (const record of page.records) all.add(record);
    await until("all to be tiered", SETTLE_MS_MAX, () => this.failure !== undefined || this.seen >= all.count).catch(() => {});
    if (this.failure !== undefined) return this.failure;
    if (this.seen !== all.count) return `${this.stream} holds ${all.count}, read were ${this.seen}`;
    return this.#read.digest === all.digest ? undefined : `${this.stream} was read in another order, or with other events`;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#done;
  }
}

/** The readers noticed nothing of what happened. */
export async function judgeTiered(server: string, readers: readonly TieredReader[]): Promise<ScenarioResult["checks"][number]> {
  const client = new TributaryClient({ server });
  const problems = (await Promise.all(readers.map((reader) => reader.judge(client)))).filter((problem) => problem !== undefined);
  const [seen, retries] = [readers.reduce((sum, { seen }) => sum + seen, 0), readers.reduce((sum, { retries }) => sum + retries, 0)];
  const figures = `${seen} records, each once and in order, never set back; ${retries} requests tried again`;
  return { name: "readers at level tiered noticed nothing", ok: problems.length === 0, detail: problems.slice(0, 3).join("; ") || figures };
}
