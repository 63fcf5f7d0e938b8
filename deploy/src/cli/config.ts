import { environmentName, SETTING_NAMES, SETTINGS } from "@tributary/common/config";
import type { Command } from "commander";
import { print, type ServerFlags } from "./io.ts";

export function addConfigCommand(program: Command): void {
  program
    .command("config")
    .description("list every setting with its default, unit and environment variable")
    .addHelpText("after", "\nExample:\n  tributary config | less")
    .action((_: unknown, command: Command) => {
      const flags = command.optsWithGlobals<ServerFlags>();
      const rows = SETTING_NAMES.map((name) => ({ name, environment: environmentName(name), ...SETTINGS[name] }));
      print(flags, rows, () =>
        rows
          .map((row) => {
            const unit = row.unit === "" ? "" : ` ${row.unit}`;
            const choices = row.choices ? ` [${row.choices.join("|")}]` : "";
            return `${row.name} = ${row.default === "" ? '""' : row.default}${unit}${choices}\n    ${row.environment}\n    ${row.doc}`;
          })
          .join("\n"),
      );
    });
}
