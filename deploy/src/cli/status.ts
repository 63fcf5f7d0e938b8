import type { Command } from "commander";
import { CORE_URL, clientFor, GATEWAY_URL, print, type ServerFlags } from "./io.ts";

export function addStatusCommand(program: Command): void {
  program
    .command("status")
    .description("show what the gateway and the core are doing (or the one server named with --server)")
    .addHelpText("after", "\nExample:\n  tributary status --json")
    .action(async (_: unknown, command: Command) => {
      const flags = command.optsWithGlobals<ServerFlags>();
      const servers = flags.server === undefined ? [GATEWAY_URL, CORE_URL] : [flags.server];
      const results = await Promise.allSettled(servers.map((server) => clientFor({ ...flags, server }, server).status()));
      const answers = results.flatMap((result, i) => (result.status === "fulfilled" ? [{ server: servers[i], ...result.value }] : []));
      const failures = results.flatMap((result) => (result.status === "rejected" ? [result.reason] : []));
      if (answers.length === 0) throw failures[0];
      print(flags, answers, () => answers.map(formatStatus).join("\n\n"));
    });
}

function formatStatus(status: Record<string, unknown>): string {
  return Object.entries(status)
    .map(([name, value]) => `${name.padEnd(22)} ${typeof value === "object" && value !== null ? JSON.stringify(value) : String(value)}`)
    .join("\n");
}
