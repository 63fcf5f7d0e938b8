import type { Command } from "commander";
import { CORE_URL, clientFor, GATEWAY_URL, print, type ServerFlags } from "./io.ts";
import { plainText } from "./plain-text.ts";

export function addStatusCommand(program: Command): void {
  program
    .command("status")
    .description("show what the gateway and the core are doing (or the one server named with --server)")
    .addHelpText("after", "\nExample:\n  tributary status --json")
    .action(async (_: unknown, command: Command) => {
      const flags = command.optsWithGlobals<ServerFlags>();
      const named = flags.server ?? process.env["TRIBUTARY_SERVER"];
      const servers = named === undefined ? [GATEWAY_URL, CORE_URL] : [named];
      const results = await Promise.allSettled(servers.map(async (server) => clientFor({ ...flags, server }, server).status()));
      const answers = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
      const failures = results.flatMap((result) => (result.status === "rejected" ? [result.reason] : []));
      if (answers.length === 0) throw failures[0];
      print(flags, answers, () => answers.map(formatStatus).join("\n\n"));
    });
}

/** A server puts what it is beside what it does, under `status`. */
function formatStatus({ status, ...identity }: Record<string, unknown>): string {
  return plainText({ ...identity, ...(typeof status === "object" ? status : { status }) });
}
