import { TributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import { newId, parseStreamName, type StreamName } from "@tributary/common/names";
import { systemRandom } from "@tributary/common/random";
import type { OutgoingEvent, TributaryClient } from "@tributary/common/sdk/client";
import type { Command } from "commander";
import { byteLineChunks } from "./byte-lines.ts";
import { clientFor, GATEWAY_URL, print, type ServerFlags } from "./io.ts";

interface WriteOptions extends ServerFlags {
  readonly key?: string;
  readonly time?: string;
  readonly create?: boolean;
}

const BATCH_EVENTS = 500;
const BATCH_BYTES = 1_048_576;

export function addWriteCommand(program: Command): void {
  program
    .command("write <stream> [events...]")
    .description("append events: the arguments, or the lines of standard input (their terminators are kept)")
    .option("--key <key>", "routing key of all events")
    .option("--time <time>", "event time of all events, RFC 3339 or ms since 1970; now if not given")
    .option("--create", "create the stream if it does not exist")
    .addHelpText(
      "after",
      "\nExamples:\n  tributary write plant/log --create 'pump 7 started'\n  tail -f app.log | tributary write plant/log --key app",
    )
    .action(async (name: string, events: string[], _: unknown, command: Command) => {
      const options = command.optsWithGlobals<WriteOptions>();
      const count = await write(name, events, options);
      print(options, { stream: name, written: count }, () => `${count} events written`);
    });
}

async function write(name: string, args: readonly string[], options: WriteOptions): Promise<number> {
  const stream = parseStreamName(name);
  const client = clientFor(options, GATEWAY_URL);
  const time = options.time === undefined ? undefined : parseTime(options.time);
  if (options.create) await createIfMissing(client, stream);
  const writer = new BatchWriter(client, stream);
  for (const text of args) await writer.add({ key: options.key, time, data: Buffer.from(text) });
  if (args.length === 0) {
    for await (const lines of byteLineChunks(process.stdin)) {
      for (const line of lines) await writer.add({ key: options.key, time, data: line });
      // Nothing more is there now: a slow source's lines must not wait for a full batch.
      if (process.stdin.readableLength === 0) await writer.flush();
    }
  }
  await writer.flush();
  return writer.count;
}

/** An existing stream is taken as it is, whatever its configuration. */
export async function createIfMissing(client: TributaryClient, stream: StreamName, contentType?: string): Promise<void> {
  try {
    await client.createStream(stream, contentType === undefined ? {} : { contentType });
  } catch (error) {
    if (!(error instanceof TributaryError) || error.code !== "STREAM_EXISTS") throw error;
  }
}

/** Appends in requests of many events, as one idempotent producer: a repeated request is recognised. */
export class BatchWriter {
  readonly #client: TributaryClient;
  readonly #stream: StreamName;
  readonly #producerId = `cli-${newId(systemRandom, 8)}`;
  #batch: OutgoingEvent[] = [];
  #bytes = 0;
  #seq = 0;
  count = 0;

  constructor(client: TributaryClient, stream: StreamName) {
    this.#client = client;
    this.#stream = stream;
  }

  async add(event: OutgoingEvent): Promise<void> {
    if (event.data.length > LIMITS.eventBytesMax) throw new TributaryError("EVENT_TOO_LARGE", `an event of ${event.data.length} bytes`);
    this.#batch.push(event);
    this.#bytes += event.data.length;
    if (this.#batch.length >= BATCH_EVENTS || this.#bytes >= BATCH_BYTES) await this.flush();
  }

  async flush(): Promise<void> {
    if (this.#batch.length === 0) return;
    const [batch, producer] = [this.#batch, { id: this.#producerId, epoch: 0, seq: this.#seq }];
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#client.append(this.#stream, batch, producer);
        break;
      } catch (error) {
        if (!(error instanceof TributaryError) || !error.retryable || attempt >= ATTEMPTS_MAX) throw error;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS * attempt));
      }
    }
    this.#seq++;
    this.count += batch.length;
    this.#batch = [];
    this.#bytes = 0;
  }
}

const ATTEMPTS_MAX = 10;
const RETRY_MS = 200;

/** @throws USAGE */
function parseTime(text: string): number {
  const time = /^-?\d+$/.test(text) ? Number(text) : Date.parse(text);
  if (!Number.isSafeInteger(time)) throw new TributaryError("USAGE", `--time '${text}' is neither RFC 3339 nor ms since 1970`);
  return time;
}
