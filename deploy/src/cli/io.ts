import { TributaryError, toTributaryError } from "@tributary/common/errors";
import { TributaryClient } from "@tributary/common/sdk/client";

/** Exit codes of the command line; documented in the README. */
export const EXIT = { ok: 0, failed: 1, usage: 2, violated: 3 } as const;

export const GATEWAY_URL = "http://127.0.0.1:8070";
export const CORE_URL = "http://127.0.0.1:8080";

export interface ServerFlags {
  readonly server?: string;
  readonly token?: string;
  readonly json?: boolean;
}

/** The client of a command; TRIBUTARY_SERVER and TRIBUTARY_TOKEN stand in for flags that are not given. */
export function clientFor(flags: ServerFlags, fallback: string): TributaryClient {
  const server = flags.server ?? process.env["TRIBUTARY_SERVER"] ?? fallback;
  if (!URL.canParse(server) || !/^https?:$/.test(new URL(server).protocol)) {
    throw new TributaryError("USAGE", `--server '${server}' is not an http:// or https:// address`);
  }
  return new TributaryClient({ server, token: flags.token ?? process.env["TRIBUTARY_TOKEN"] });
}

/** Prints one value: as JSON, or as the given text. */
export function print(flags: ServerFlags, value: unknown, text: () => string): void {
  process.stdout.write(flags.json ? `${JSON.stringify(value)}\n` : `${text()}\n`);
}

/** Ends the process without a word when the reader of its output has gone (`| head`). */
export function endQuietlyWithoutReader(): void {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(EXIT.ok);
    throw error;
  });
}

/** A server goes on when those who watched it have gone. */
export function goOnWithoutReader(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.removeAllListeners("error");
    stream.on("error", () => {});
  }
}

/** Writes to stdout and waits while the reader is slow. */
export function writeOut(bytes: Uint8Array | string): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(bytes, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

export function reportError(thrown: unknown, json: boolean): number {
  const error = toTributaryError(thrown);
  if (json) process.stderr.write(`${JSON.stringify({ ...error.details, code: error.code, message: error.message, hint: error.hint })}\n`);
  else {
    process.stderr.write(`tributary: ${error.code}: ${error.message}\n${error.hint}\n`);
    if (error.code === "INTERNAL" && error.cause instanceof Error) process.stderr.write(`${error.cause.stack}\n`);
  }
  return error.code === "USAGE" || error.code === "CONFIG_INVALID" ? EXIT.usage : EXIT.failed;
}

/** Aborts at SIGINT and SIGTERM. */
export function untilStopped(): AbortSignal {
  const controller = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => controller.abort());
  return controller.signal;
}
