import type { SettingName } from "@tributary/common/config";
import { TributaryError } from "@tributary/common/errors";

/** Flags that stand for settings, as commander gives them. */
export interface SettingFlags {
  readonly data?: string;
  readonly nats?: string;
  readonly httpPort?: string;
  readonly mqttPort?: string;
  readonly corePort?: string;
  readonly config?: string;
  readonly set?: readonly string[];
}

/** The settings that flags name; those with a flag of their own win. @throws USAGE */
export function readOverrides(flags: SettingFlags): Record<string, string> {
  const overrides: Record<string, string> = {};
  for (const assignment of flags.set ?? []) {
    const at = assignment.indexOf("=");
    if (at < 1) throw new TributaryError("USAGE", `--set '${assignment}' is not name=value`);
    overrides[assignment.slice(0, at)] = assignment.slice(at + 1);
  }
  const named: readonly [SettingName, string | undefined][] = [
    ["data", flags.data],
    ["nats.url", flags.nats],
    ["edge.http.port", flags.httpPort],
    ["edge.mqtt.port", flags.mqttPort],
    ["core.http.port", flags.corePort],
  ];
  for (const [name, value] of named) if (value !== undefined) overrides[name] = value;
  return overrides;
}
