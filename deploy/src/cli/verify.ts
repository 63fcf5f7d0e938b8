import { parseStreamName } from "@tributary/common/names";
import type { Command } from "commander";
import { digestOf, type PlainRecord } from "../check/plain.ts";
import { isClean, StreamVerifier, VERIFIED_BY_READING, VERIFIED_BY_READING_TWICE } from "../check/stream-verifier.ts";
import { CORE_URL, clientFor, EXIT, print, type ServerFlags } from "./io.ts";
import { createProgress } from "./progress.ts";

export function addVerifyCommand(program: Command): void {
  program
    .command("verify [streams...]")
    .description(
      "read streams (all, if none is named) from their first event on and prove that nothing is missing, doubled, out of order or changed",
    )
    .option("--twice", `read each stream a second time and compare: ${VERIFIED_BY_READING_TWICE}`)
    .addHelpText(
      "after",
      `\nChecked:\n${VERIFIED_BY_READING.map((what) => `  - ${what}`).join("\n")}\nExit code ${EXIT.violated} if any of it is broken.\nExample:\n  tributary verify gateway/vitals`,
    )
    .action(async (names: string[], _: unknown, command: Command) => {
      const flags = command.optsWithGlobals<ServerFlags & { twice?: boolean }>();
      const checked = flags.twice ? [...VERIFIED_BY_READING, VERIFIED_BY_READING_TWICE] : VERIFIED_BY_READING;
      const client = clientFor(flags, CORE_URL);
      const all = names.length > 0 ? names : (await client.listStreams()).map((s) => `${s.scope}/${s.stream}`);
      let violated = false;
      for (const name of all) {
        const stream = parseStreamName(name);
        const description = await client.describeStream(stream);
        const progress = createProgress(`verify ${name}`, description.events * (flags.twice ? 2 : 1), flags.json === true);
        const verifier = new StreamVerifier();
        const readAll = async (take: (record: PlainRecord) => void) => {
          for await (const page of client.readPages(stream, { offset: "-1" })) {
            for (const record of page.records) take({ ...record, digest: digestOf(record, record.data) });
            progress.advance(page.records.length);
          }
        };
        await readAll((record) => verifier.add(record));
        verifier.expectRecords(description.events);
        if (flags.twice) await readAll((record) => verifier.compare(record));
        progress.stop();
        const report = verifier.finish();
        violated ||= !isClean(report);
        print(flags, { stream: name, checked, ...report }, () =>
          [
            `${name}: ${report.events} events of ${report.writers} writers, ${report.missing} missing, ${report.doubled} doubled, ` +
              `${report.reordered} reordered, ${report.otherwiseWrong} otherwise wrong, ${report.eventsDeclaredLost} declared lost in ${report.gapRecords} gap records`,
            ...(isClean(report) ? [] : ["  checked:", ...checked.map((what) => `  - ${what}`)]),
            ...report.violations.map((violation) => `  ${violation.kind} (invariant ${violation.invariant}): ${violation.detail}`),
          ].join("\n"),
        );
      }
      if (violated) process.exitCode = EXIT.violated;
    });
}
