import { TributaryError } from "@tributary/common/errors";
import { parseStreamName } from "@tributary/common/names";
import type { EnvelopeRecord } from "@tributary/common/sdk/client";
import { READ_LEVELS, type ReadLevel } from "@tributary/common/stream-service";
import { type Command, Option } from "commander";
import { CORE_URL, clientFor, type ServerFlags, untilStopped, writeOut } from "./io.ts";
import { wholeNumber } from "./stream.ts";

interface ReadOptions extends ServerFlags {
  readonly from: string;
  readonly follow?: boolean;
  readonly limit?: string;
  readonly envelope?: boolean;
  readonly level?: ReadLevel;
}

export function addReadCommand(program: Command): void {
  program
    .command("read <stream>")
    .description("print a stream's events, byte for byte")
    .option("--from <offset>", "-1 (the beginning), now, or an offset that the server gave", "-1")
    .option("--follow", "go on waiting for new events until Ctrl-C")
    .option("--limit <n>", "stop after this many events")
    .addOption(
      new Option(
        "--level <level>",
        "of a core: what is committed, or only what is in the lake already and survives the loss of all logs",
      ).choices(READ_LEVELS),
    )
    .option("--envelope", "one JSON line an event, with key, time, segment, ordinal, writer and number")
    .addHelpText(
      "after",
      "\nExamples:\n  tributary read gateway/vitals --follow --envelope\n  tributary read plant/log --from now --follow",
    )
    .action(async (name: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<ReadOptions>();
      await read(name, options);
    });
}

async function read(name: string, options: ReadOptions): Promise<void> {
  const limit = options.limit === undefined ? Number.POSITIVE_INFINITY : wholeNumber(options.limit, "--limit");
  const { from: offset, follow = false, level } = options;
  const signal = untilStopped();
  const stream = parseStreamName(name);
  const client = clientFor(options, CORE_URL);
  // JSON events carry no separator of their own.
  const separator = (await client.describeStream(stream)).contentType.startsWith("application/json") ? "\n" : "";
  let count = 0;
  try {
    for await (const page of client.readPages(stream, { offset, follow, signal, level })) {
      for (const record of page.records) {
        if (count >= limit) return;
        if (options.envelope || options.json) await writeOut(`${JSON.stringify(envelopeLine(record))}\n`);
        else if (record.kind === "event") {
          await writeOut(record.data);
          if (separator !== "") await writeOut(separator);
        }
        if (record.kind === "event") count++;
      }
      if (count >= limit) return;
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

function envelopeLine({ data, ...rest }: EnvelopeRecord): Record<string, unknown> {
  try {
    return { ...rest, data: utf8.decode(data) };
  } catch (error) {
    if (!(error instanceof TypeError)) throw new TributaryError("INTERNAL", "an event cannot be printed", {}, { cause: error });
    return { ...rest, base64: Buffer.from(data).toString("base64") };
  }
}
