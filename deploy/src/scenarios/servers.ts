import { join } from "node:path";
import type { NatsServer } from "@tributary/common/testing/nats-server";
import { type ServerOptions, ServerProcess } from "./server-process.ts";

/** What a frame of the write-ahead log needs; as in the README's nats.conf. */
export const NATS_MAX_PAYLOAD = 8_388_608;

const LOOPBACK = "127.0.0.1";
/** What a core node asks for that others can reach; one on loopback does not care. */
export const CORE_TOKEN = "scenario";

type Extras = Pick<ServerOptions, "runtime" | "env"> & {
  /** What messages and log files call it; its role by default. */
  readonly name?: string;
  /** Further flags. */
  readonly flags?: readonly string[];
};

const WITHOUT_VITALS = ["--set", "edge.vitalsIntervalMs=0"] as const;

/** Gateway and core in one process with the embedded engines; data in `folder/data`. */
export function applianceProcess(
  folder: string,
  ports: { readonly httpPort: number; readonly mqttPort: number; readonly corePort: number },
  { flags = [], ...extras }: Extras,
): ServerProcess {
  const { httpPort, mqttPort, corePort } = ports;
  const listeners = ["--http-port", `${httpPort}`, "--mqtt-port", `${mqttPort}`, "--core-port", `${corePort}`];
  return new ServerProcess({
    name: "appliance",
    args: ["up", "--data", join(folder, "data"), ...listeners, ...WITHOUT_VITALS, ...flags],
    // The gateway is the last to be ready.
    readyUrl: `http://127.0.0.1:${httpPort}/ready`,
    logPath: join(folder, "appliance.log"),
    ...extras,
  });
}

/** A core on NATS; data in `folder/core`. */
export function coreProcess(
  folder: string,
  corePort: number,
  nats: Pick<NatsServer, "url" | "monitoringUrl">,
  { flags = [], name = "core", host = LOOPBACK, ...extras }: Extras & { readonly host?: string } = {},
): ServerProcess {
  const natsFlags = ["--nats", nats.url, "--set", `nats.monitorUrl=${nats.monitoringUrl}`];
  const hostFlags = host === LOOPBACK ? [] : ["--set", `core.http.host=${host}`, "--set", `core.http.token=${CORE_TOKEN}`];
  return new ServerProcess({
    name,
    phases: ["flush", "checkpoint", "truncate"],
    args: ["core", "--data", join(folder, "core"), "--http-port", `${corePort}`, ...hostFlags, ...natsFlags, ...flags],
    readyUrl: `http://${host}:${corePort}/ready`,
    logPath: join(folder, "core.log"),
    ...extras,
  });
}

/** A gateway, on its own unless the flags name a NATS server; data in `folder/edge`. */
export function edgeProcess(
  folder: string,
  ports: { readonly httpPort: number; readonly mqttPort: number },
  { flags = [], name = "edge", ...extras }: Extras,
): ServerProcess {
  const listeners = ["--http-port", `${ports.httpPort}`, "--mqtt-port", `${ports.mqttPort}`];
  return new ServerProcess({
    name,
    phases: ["commit", "uplink"],
    args: ["edge", "--data", join(folder, "edge"), ...listeners, ...WITHOUT_VITALS, ...flags],
    readyUrl: `http://127.0.0.1:${ports.httpPort}/ready`,
    logPath: join(folder, "edge.log"),
    ...extras,
  });
}
