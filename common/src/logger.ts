import type { Clock } from "./clock.ts";

export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Facts that go with a line; plain values only. */
export type LogFields = Readonly<Record<string, string | number | boolean | undefined>>;

export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
}

/** One line an entry: time, level, message, then `name=value`. Values with blanks are quoted as JSON. */
export function createLogger(options: { level: LogLevel; clock: Clock; write: (line: string) => void }): Logger {
  const from = LOG_LEVELS.indexOf(options.level);
  const at =
    (level: LogLevel) =>
    (message: string, fields: LogFields = {}): void => {
      if (LOG_LEVELS.indexOf(level) < from) return;
      const facts = Object.entries(fields).flatMap(([name, value]) => (value === undefined ? [] : [` ${name}=${format(value)}`]));
      options.write(`${new Date(options.clock.nowMs()).toISOString()} ${level.padEnd(5)} ${message}${facts.join("")}\n`);
    };
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

function format(value: string | number | boolean): string {
  return typeof value === "string" && /[\s"=]/.test(value) ? JSON.stringify(value) : String(value);
}
