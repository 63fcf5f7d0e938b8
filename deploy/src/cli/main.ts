import { TributaryError } from "@tributary/common/errors";
import { Command, CommanderError } from "commander";
import { addClusterCommand } from "./cluster.ts";
import { addConfigCommand } from "./config.ts";
import { EXIT, endQuietlyWithoutReader, reportError } from "./io.ts";
import { addReadCommand } from "./read.ts";
import { addReplayCommand } from "./replay.ts";
import { addServerCommands } from "./servers.ts";
import { addStatusCommand } from "./status.ts";
import { addStreamCommands } from "./stream.ts";
import { addVerifyCommand } from "./verify.ts";
import { addWriteCommand } from "./write.ts";

const program = new Command("tributary")
  .description("Edge-to-core stream storage: durable gateways, ordered streams, one history from the first event to the newest")
  .option("--server <url>", "address of a gateway or core (write and replay: http://127.0.0.1:8070, all others: http://127.0.0.1:8080)")
  .option("--token <token>", "bearer token of the server; TRIBUTARY_TOKEN if not given")
  .option("--json", "machine-readable output: one JSON value a line")
  .version("0.1.0")
  // Errors are shown in one place, in the form of the table.
  .configureOutput({ outputError: () => {} })
  .addHelpText(
    "after",
    `
Exit codes: ${EXIT.ok} done, ${EXIT.failed} failed, ${EXIT.usage} wrong usage or setting, ${EXIT.violated} verify found something missing, doubled or reordered.

Examples:
  tributary up
  tributary write plant/log --create 'pump 7 started'
  tributary read gateway/vitals --follow
  tributary verify`,
  )
  .exitOverride();

addServerCommands(program);
addStreamCommands(program);
addWriteCommand(program);
addReadCommand(program);
addReplayCommand(program);
addStatusCommand(program);
addClusterCommand(program);
addVerifyCommand(program);
addConfigCommand(program);
inheritSettings(program);

endQuietlyWithoutReader();
try {
  await program.parseAsync(process.argv);
} catch (error) {
  // At once: what a start left behind that failed must not keep the process alive.
  process.exit(error instanceof CommanderError ? usageExit(error) : reportError(error, jsonAsked()));
}

/** Help and version were asked for, or the help has been shown because no command was given; anything else is wrong usage. */
function usageExit(error: CommanderError): number {
  if (error.exitCode === 0) return EXIT.ok;
  if (error.code === "commander.help") return EXIT.usage;
  return reportError(new TributaryError("USAGE", error.message.replace(/^error: /, "")), jsonAsked());
}

/** Also where the arguments could not be parsed to their end. */
function jsonAsked(): boolean {
  const args = process.argv.slice(2);
  const end = args.indexOf("--");
  return (end < 0 ? args : args.slice(0, end)).includes("--json");
}

/** Commander gives exitOverride and configureOutput only to commands made after them. */
function inheritSettings(command: Command): void {
  for (const child of command.commands) {
    child.copyInheritedSettings(command);
    inheritSettings(child);
  }
}
