import { TributaryError } from "@tributary/common/errors";
import { parseStreamName } from "@tributary/common/names";
import type { Command } from "commander";
import { CORE_URL, clientFor, print, type ServerFlags } from "./io.ts";
import { plainText } from "./plain-text.ts";

export function addStreamCommands(program: Command): void {
  const stream = program.command("stream").description("create, list, describe and delete streams");

  stream
    .command("create <stream>")
    .description("create SCOPE/STREAM, or STREAM in the scope 'default'")
    .option("--segments <n>", "segments that share the key space (default 1)")
    .option("--content-type <type>", "content type of every event (default application/octet-stream)")
    .addHelpText("after", "\nExample:\n  tributary stream create factory/temperature --segments 4 --content-type application/json")
    .action(async (name: string, options: { segments?: string; contentType?: string }, command: Command) => {
      const flags = command.optsWithGlobals<ServerFlags>();
      const created = await clientFor(flags, CORE_URL).createStream(parseStreamName(name), {
        ...(options.segments === undefined ? {} : { segments: wholeNumber(options.segments, "--segments") }),
        ...(options.contentType === undefined ? {} : { contentType: options.contentType }),
      });
      print(flags, { stream: name, created }, () => (created ? `created ${name}` : `${name} exists with this configuration`));
    });

  stream
    .command("list [scope]")
    .description("list all streams, or those of one scope")
    .addHelpText("after", "\nExample:\n  tributary stream list factory")
    .action(async (scope: string | undefined, _: unknown, command: Command) => {
      const flags = command.optsWithGlobals<ServerFlags>();
      const streams = await clientFor(flags, CORE_URL).listStreams(scope);
      print(flags, streams, () =>
        streams.length === 0
          ? "no streams"
          : streams
              .map(
                (s) =>
                  `${s.scope}/${s.stream}\t${"unserved" in s ? "not served now" : `${s.events} events`}\t${s.segments.length} segments\t${s.contentType}`,
              )
              .join("\n"),
      );
    });

  stream
    .command("describe <stream>")
    .description("show one stream: segments, counts, offsets")
    .addHelpText("after", "\nExample:\n  tributary stream describe gateway/vitals --json")
    .action(async (name: string, _: unknown, command: Command) => {
      const flags = command.optsWithGlobals<ServerFlags>();
      const description = await clientFor(flags, CORE_URL).describeStream(parseStreamName(name));
      print(flags, description, () => plainText(description));
    });

  stream
    .command("delete <stream>")
    .description("delete a stream and its events for ever")
    .addHelpText("after", "\nExample:\n  tributary stream delete factory/temperature")
    .action(async (name: string, _: unknown, command: Command) => {
      const flags = command.optsWithGlobals<ServerFlags>();
      await clientFor(flags, CORE_URL).deleteStream(parseStreamName(name));
      print(flags, { stream: name, deleted: true }, () => `deleted ${name}`);
    });
}

/** @throws USAGE */
export function wholeNumber(text: string, flag: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new TributaryError("USAGE", `${flag} '${text}' is not a whole number`);
  return value;
}
