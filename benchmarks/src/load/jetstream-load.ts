import { randomBytes } from "node:crypto";
import { parseArgs } from "node:util";
import { ensureStream, type PubAck, parseAnswer } from "@tributary/common/engines/jetstream-api";
import { connectNats, type NatsLink } from "@tributary/common/engines/nats-connection";
import { LatencyHistogram } from "./latency-histogram.ts";
import { LoadMeter, type LoadResult } from "./load-result.ts";
import { startPacer } from "./pacer.ts";

export interface JetStreamLoadOptions {
  readonly nats: string;
  readonly streams: number;
  readonly replicas: number;
  readonly messageBytes: number;
  /** Messages a second over all streams; 0: as fast as the answers come. */
  readonly rate: number;
  /** Messages under way in all. */
  readonly window: number;
  readonly warmupSeconds: number;
  readonly seconds: number;
  /** Creating the streams may take this long. */
  readonly createSecondsMax: number;
}

const TIMEOUT_MS = 30_000;
const CREATED_AT_ONCE = 8;

/** A bare publisher, one message at a time into each place of the window: what JetStream gives without Tributary. */
export async function runJetStreamLoad(options: JetStreamLoadOptions): Promise<LoadResult> {
  const link = await connectNats({ url: options.nats, name: "jetstream-load" });
  const run = randomBytes(4).toString("hex");
  const names = Array.from({ length: options.streams }, (_, i) => `bare-${run}-${i}`);
  try {
    const startedMs = performance.now();
    await createStreams(link, names, options);
    const connectMs = performance.now() - startedMs;
    const publisher = new Publisher(link, names, options);
    return { ...(await publisher.measure()), connectMs };
  } finally {
    await link.close();
  }
}

async function createStreams(link: NatsLink, names: readonly string[], options: JetStreamLoadOptions): Promise<void> {
  const endMs = performance.now() + options.createSecondsMax * 1000;
  let created = 0;
  const work = async (from: number) => {
    for (let i = from; i < names.length; i += CREATED_AT_ONCE) {
      if (performance.now() > endMs) {
        throw new Error(`only ${created} of ${names.length} JetStream streams could be created in ${options.createSecondsMax} s`);
      }
      const name = names[i] as string;
      await ensureStream(
        link,
        {
          name,
          subjects: [name],
          storage: "file",
          num_replicas: options.replicas,
          retention: "limits",
          discard: "new",
          allow_direct: false,
        },
        TIMEOUT_MS,
      );
      created++;
    }
  };
  await Promise.all(Array.from({ length: CREATED_AT_ONCE }, (_, i) => work(i)));
}

class Publisher {
  readonly #link: NatsLink;
  readonly #names: readonly string[];
  readonly #options: JetStreamLoadOptions;
  readonly #meter = new LoadMeter(new LatencyHistogram());
  readonly #payload: Buffer;
  readonly #refusals: Record<string, number> = {};
  readonly #due: number[] = [];
  #dueAt = 0;
  #next = 0;
  #inFlight = 0;
  #ended = false;

  constructor(link: NatsLink, names: readonly string[], options: JetStreamLoadOptions) {
    this.#link = link;
    this.#names = names;
    this.#options = options;
    this.#payload = randomBytes(options.messageBytes * 2);
  }

  async measure(): Promise<Omit<LoadResult, "connectMs">> {
    const { rate, window, warmupSeconds, seconds, streams, messageBytes } = this.#options;
    const stopPacer =
      rate === 0
        ? () => {}
        : startPacer(rate, (messages) => {
            const dueMs = performance.now();
            for (let i = 0; i < messages; i++) this.#due.push(dueMs);
            this.#fill();
          });
    this.#fill();
    await wait(warmupSeconds * 1000);
    this.#meter.start();
    await wait(seconds * 1000);
    const measured = this.#meter.stop();
    stopPacer();
    this.#ended = true;
    const eventsLate = this.#due.length - this.#dueAt;
    while (this.#inFlight > 0) await wait(10);
    return {
      kind: "jetstream",
      connections: streams,
      depth: window,
      eventsPerRequest: 1,
      rateAsked: rate,
      ...measured,
      payloadBytesPerEvent: messageBytes,
      reconnects: 0,
      refusals: this.#refusals,
      eventsLate,
    };
  }

  #fill(): void {
    const { rate, window, messageBytes } = this.#options;
    while (!this.#ended && this.#inFlight < window) {
      let dueMs = performance.now();
      if (rate > 0) {
        if (this.#dueAt === this.#due.length) return;
        dueMs = this.#due[this.#dueAt++] as number;
        if (this.#dueAt > 65_536) {
          this.#due.splice(0, this.#dueAt);
          this.#dueAt = 0;
        }
      }
      const subject = this.#names[this.#next++ % this.#names.length] as string;
      const start = this.#next % messageBytes;
      this.#inFlight++;
      this.#link.inbox
        .request(subject, this.#payload.subarray(start, start + messageBytes), { timeoutMs: TIMEOUT_MS })
        .then((msg) => {
          parseAnswer<PubAck>(msg);
          this.#meter.acked(1, performance.now() - dueMs);
        })
        .catch((error: unknown) => {
          const why = error instanceof Error ? error.message : String(error);
          this.#refusals[why] = (this.#refusals[why] ?? 0) + 1;
        })
        .finally(() => {
          this.#inFlight--;
          this.#fill();
        });
    }
  }
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

const USAGE = `Publishes messages straight into JetStream and prints one line of JSON.
  --nats URL  --streams N (1)  --replicas N (3)  --bytes N of a message (1000)  --rate MESSAGES/S (0: as fast as the answers come)
  --window MESSAGES under way (256)  --warmup S (2)  --seconds S (8)  --create-seconds S (60)`;

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      nats: { type: "string", default: "nats://127.0.0.1:4222" },
      streams: { type: "string", default: "1" },
      replicas: { type: "string", default: "3" },
      bytes: { type: "string", default: "1000" },
      rate: { type: "string", default: "0" },
      window: { type: "string", default: "256" },
      warmup: { type: "string", default: "2" },
      seconds: { type: "string", default: "8" },
      "create-seconds": { type: "string", default: "60" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) console.log(USAGE);
  else {
    const result = await runJetStreamLoad({
      nats: values.nats,
      streams: Number(values.streams),
      replicas: Number(values.replicas),
      messageBytes: Number(values.bytes),
      rate: Number(values.rate),
      window: Number(values.window),
      warmupSeconds: Number(values.warmup),
      seconds: Number(values.seconds),
      createSecondsMax: Number(values["create-seconds"]),
    });
    console.log(JSON.stringify(result));
  }
}
