import { systemClock } from "@tributary/common/clock";
import { loadConfig } from "@tributary/common/config";
import { createLogger } from "@tributary/common/logger";
import type { Finding } from "@tributary/core/doctor/findings";
import type { Command } from "commander";
import { EXIT, print, type ServerFlags } from "./io.ts";
import { readOverrides, type SettingFlags } from "./setting-flags.ts";

const MARKS: Readonly<Record<Finding["level"], string>> = { ok: "ok     ", warning: "warning", bad: "BAD    " };

/** `core` is the command that starts a core node. */
export function addDoctorCommand(core: Command, withSettings: (command: Command) => Command): void {
  withSettings(core.command("doctor").description("check the NATS servers, logs and lake that a core node with these settings would use"))
    .addHelpText(
      "after",
      "\nExits with 1 if something is bad. Example:\n  tributary core doctor --nats nats://127.0.0.1:4222 --set nats.monitorUrl=http://127.0.0.1:8222",
    )
    .action(async (_: unknown, command: Command) => {
      const options = command.optsWithGlobals<ServerFlags & SettingFlags>();
      const config = loadConfig({ file: options.config, environment: process.env, overrides: readOverrides(options) });
      const logger = createLogger({ level: "warn", clock: systemClock, write: (line) => process.stderr.write(line) });
      const { examineCluster } = await import("@tributary/core/doctor/examine");
      const findings = await examineCluster(config, logger);
      print(options, { findings }, () => findings.map(describe).join("\n"));
      process.exitCode = findings.some(({ level }) => level === "bad") ? EXIT.failed : EXIT.ok;
    });
}

function describe({ level, what, advice }: Finding): string {
  return `${MARKS[level]}  ${what}${advice === "" ? "" : `\n         → ${advice}`}`;
}
