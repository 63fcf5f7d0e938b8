import { crc32c } from "@tributary/common/checksum";
import { TributaryError } from "@tributary/common/errors";
import { parseStreamName } from "@tributary/common/names";
import { type EnvelopeRecord, TributaryClient } from "@tributary/common/sdk/client";

/** Fingerprints of what stood at each (segment, ordinal) when it was read. */
class Fingerprints {
  readonly #segments = new Map<string, Map<number, number>>();

  /** False if something else was seen there before. */
  add(record: EnvelopeRecord): boolean {
    let ordinals = this.#segments.get(record.segment);
    if (!ordinals) {
      ordinals = new Map();
      this.#segments.set(record.segment, ordinals);
    }
    const identity = crc32c(Buffer.from(`${record.kind} ${record.key} ${record.writer} ${record.incarnation} ${record.number}`));
    const fingerprint = crc32c(record.data, identity);
    const known = ordinals.get(record.ordinal);
    if (known === undefined) ordinals.set(record.ordinal, fingerprint);
    return known === undefined || known === fingerprint;
  }
}

/** Follows a stream through every crash of its server, and remembers what it saw where. */
export class TailReader {
  readonly stream: string;
  readonly #fingerprints = new Fingerprints();
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
          for (const record of page.records) this.check(record);
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

  check(record: EnvelopeRecord): void {
    this.seen++;
    if (!this.#fingerprints.add(record)) this.changed++;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#done;
  }
}
