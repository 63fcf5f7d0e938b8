import { hasCode, TributaryError } from "@tributary/common/errors";
import { parseStreamName } from "@tributary/common/names";
import { type EnvelopeRecord, TributaryClient } from "@tributary/common/sdk/client";
import { Places } from "../check/places.ts";
import { fingerprintOf, placeOf } from "../check/plain.ts";
import { plainOf } from "./ledger.ts";
import { CORE_TOKEN } from "./servers.ts";

/** Follows a stream through every crash of its server, and remembers what it saw where. */
export class TailReader {
  readonly stream: string;
  readonly wentBack: boolean;
  /** What stood at each (segment, ordinal) when it was read: whoever reads it again compares. */
  readonly places: Places = new Places();
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;
  seen = 0;
  /** Places that changed between two reads. */
  changed = 0;
  /** How often it had read on beyond what was recovered, was told how far its stream is still the same, and went on from there. */
  setBack = 0;

  /** `wentBack`: the core's logs may go back in time, and what was lost stand under other nonces. */
  constructor(server: string, stream: string, { wentBack = false }: { readonly wentBack?: boolean } = {}) {
    this.stream = stream;
    this.wentBack = wentBack;
    this.#done = this.#run(new TributaryClient({ server, token: CORE_TOKEN }));
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
        const common = hasCode(error, "OFFSET_UNKNOWN") ? error.details["nextOffset"] : undefined;
        if (typeof common === "string" && common !== offset) {
          this.setBack++;
          offset = common;
        } else if (!(error instanceof TributaryError) || !(error.retryable || error.code === "STREAM_UNKNOWN")) {
          // A server that is down, or a stream that does not exist yet: go on where it was. Nothing else.
          throw error;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  #check(record: EnvelopeRecord): void {
    this.seen++;
    const plain = plainOf(record);
    if (!this.places.isSame(placeOf(plain, this.wentBack), plain.ordinal, fingerprintOf(plain))) this.changed++;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#done;
  }
}
