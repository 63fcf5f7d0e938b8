import { readFileSync } from "node:fs";
import type { Config } from "../config.ts";
import { TributaryError } from "../errors.ts";
import type { Logger } from "../logger.ts";
import { connectNats, type NatsLink } from "./nats-connection.ts";
import { checkInboxPrefix } from "./nats-inbox.ts";
import { checkTlsFiles, type NatsTlsFiles } from "./nats-tls.ts";

/** Connects as the settings `nats.*` say. @throws as connectNats; CONFIG_INVALID for credentials that cannot be read */
export async function connectConfiguredNats(
  config: Config,
  options: { name: string; logger: Logger; startTimeoutMs?: number; signal?: AbortSignal },
): Promise<NatsLink> {
  const { name, logger, startTimeoutMs, signal } = options;
  checkNatsSettings(config);
  return connectNats({
    url: config["nats.url"],
    name,
    warn: (message) => logger.warn(message),
    ...(startTimeoutMs === undefined ? {} : { startTimeoutMs }),
    ...(signal === undefined ? {} : { signal }),
    ...(config["nats.user"] === "" ? {} : { user: config["nats.user"], pass: config["nats.password"] }),
    inboxPrefix: config["nats.inboxPrefix"],
    ...tlsOf(config),
    ...(config["nats.credentials"] === "" ? {} : { creds: readCredentials(config["nats.credentials"]) }),
  });
}

function tlsOf(config: Config): { tls?: NatsTlsFiles } {
  const { "nats.tls.ca": caFile, "nats.tls.cert": certFile, "nats.tls.key": keyFile } = config;
  if (caFile === "" && certFile === "" && keyFile === "") return {};
  return {
    tls: {
      ...(caFile === "" ? {} : { caFile }),
      ...(certFile === "" ? {} : { certFile }),
      ...(keyFile === "" ? {} : { keyFile }),
    },
  };
}

/** Finds what is wrong with the settings `nats.*` without a server: a gateway must not wait for one to say so. @throws CONFIG_INVALID */
export function checkNatsSettings(config: Config): void {
  const { tls } = tlsOf(config);
  if (tls) checkTlsFiles(tls);
  checkInboxPrefix(config["nats.inboxPrefix"]);
  if (config["nats.credentials"] !== "") readCredentials(config["nats.credentials"]);
}

function readCredentials(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new TributaryError("CONFIG_INVALID", `nats.credentials: ${path} cannot be read`, {}, { cause: error });
  }
}
