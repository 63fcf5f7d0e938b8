import { parseStreamName } from "@tributary/common/names";
import type { Command } from "commander";
import { StreamVerifier } from "../check/stream-verifier.ts";
import { CORE_URL, clientFor, EXIT, print, type ServerFlags } from "./io.ts";
import { createProgress } from "./progress.ts";

export function addVerifyCommand(program: Command): void {
  program
    .command("verify [streams...]")
    .description(
      "read streams (all, if none is named) from their first event on and prove that nothing is missing, doubled or out of order",
    )
    .addHelpText("after", `\nExit code ${EXIT.violated} if anything is.\nExample:\n  tributary verify gateway/vitals`)
    .action(async (names: string[], _: unknown, command: Command) => {
      const flags = command.optsWithGlobals<ServerFlags>();
      const client = clientFor(flags, CORE_URL);
      const all = names.length > 0 ? names : (await client.listStreams()).map((s) => `${s.scope}/${s.stream}`);
      let violated = false;
      for (const name of all) {
        const stream = parseStreamName(name);
        const description = await client.describeStream(stream);
        const progress = createProgress(`verify ${name}`, description.events, flags.json === true);
        const verifier = new StreamVerifier();
        for await (const page of client.readPages(stream, { offset: "-1" })) {
          for (const record of page.records) verifier.add(record);
          progress.advance(page.records.length);
        }
        progress.stop();
        const report = verifier.finish();
        const bad = report.missing + report.doubled + report.reordered > 0;
        violated ||= bad;
        print(flags, { stream: name, ...report }, () =>
          [
            `${name}: ${report.events} events of ${report.writers} writers, ${report.missing} missing, ${report.doubled} doubled, ` +
              `${report.reordered} reordered, ${report.eventsDeclaredLost} declared lost in ${report.gapRecords} gap records`,
            ...report.violations.map((violation) => `  ${violation.kind}: ${violation.detail}`),
          ].join("\n"),
        );
      }
      if (violated) process.exitCode = EXIT.violated;
    });
}
