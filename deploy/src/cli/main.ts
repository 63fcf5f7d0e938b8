import { hasCode, TributaryError } from "@tributary/common/errors";
import { Command, CommanderError } from "commander";
import { addConfigCommand } from "./config.ts";
import { EXIT, reportError } from "./io.ts";
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
  .showHelpAfterError()
  .addHelpText(
    "after",
    `
Exit codes: ${EXIT.ok} done, ${EXIT.failed} failed, ${EXIT.usage} wrong usage, ${EXIT.violated} verify found something missing, doubled or reordered.

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
addVerifyCommand(program);
addConfigCommand(program);
inheritSettings(program);

try {
  await program.parseAsync(process.argv);
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  else {
    process.exitCode = reportError(error, program.opts<{ json?: boolean }>().json === true);
    if (hasCode(error, "PORT_IN_USE", "DATA_DIR_LOCKED") || !(error instanceof TributaryError)) process.exit();
  }
}

/** Commander gives exitOverride and showHelpAfterError only to commands made after them. */
function inheritSettings(command: Command): void {
  for (const child of command.commands) {
    child.copyInheritedSettings(command);
    inheritSettings(child);
  }
}
