import { TributaryError } from "@tributary/common/errors";
import { parseStreamName } from "@tributary/common/names";
import { type EnvelopeRecord, TributaryClient } from "@tributary/common/sdk/client";
import { Places } from "../check/places.ts";
import { fingerprintOf } from "../check/plain.ts";
import { plainOf } from "./ledger.ts";

/** Follows a stream through every crash of its server, and remembers what it saw where. */
export class TailReader {
  readonly stream: string;
  /** What stood at each (segment, ordinal) when it was read: whoever reads it again compares. */
  readonly places: Places = new Places();
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;
  seen = 0;
  /** Places that changed between two reads. */
  changed = 0;

  constructor(server: string, stream: string) {
    this.stream = stream;
    this.#done = this.#run(new TributaryClient({ server }));
  }

  async #run(client: TributaryClient): Promise<void> {
    let offset = "-1";
    while (!this.#stop.signal.aborted) {
      try {
        const options = { offset, follow: true, signal: this.#stop.signal };
        for await (const page of client.readPages(parseStreamName(this.stream), options)) {
          for (const record of page.records) this.#check(record);
          offset = page.nextOffset;
        }
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        // A server that is down, or a stream that does not exist yet: go on where it was.
        if (!(error instanceof TributaryError) || !(error.retryable || error.code === "STREAM_UNKNOWN")) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  #check(record: EnvelopeRecord): void {
    this.seen++;
    const plain = plainOf(record);
    if (!this.places.isSame(plain.segment, plain.ordinal, fingerprintOf(plain))) this.changed++;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#done;
  }
}
