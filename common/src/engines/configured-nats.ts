import { readFileSync } from "node:fs";
import type { Config } from "../config.ts";
import { TributaryError } from "../errors.ts";
import type { Logger } from "../logger.ts";
import { connectNats, type NatsLink } from "./nats-connection.ts";

/** Connects as the settings `nats.*` say. @throws as connectNats; CONFIG_INVALID for credentials that cannot be read */
export function connectConfiguredNats(
  config: Config,
  options: { name: string; logger: Logger; startTimeoutMs?: number; signal?: AbortSignal },
): Promise<NatsLink> {
  const { name, logger, startTimeoutMs, signal } = options;
  return connectNats({
    url: config["nats.url"],
    name,
    warn: (message) => logger.warn(message),
    ...(startTimeoutMs === undefined ? {} : { startTimeoutMs }),
    ...(signal === undefined ? {} : { signal }),
    ...(config["nats.user"] === "" ? {} : { user: config["nats.user"], pass: config["nats.password"] }),
    ...(config["nats.credentials"] === "" ? {} : { creds: readCredentials(config["nats.credentials"]) }),
  });
}

function readCredentials(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new TributaryError("CONFIG_INVALID", `nats.credentials: ${path} cannot be read`, {}, { cause: error });
  }
}
