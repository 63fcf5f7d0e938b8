import { readFileSync } from "node:fs";
import { TributaryError } from "./errors.ts";

/**
 * Every setting: its default, what it means, its environment variable. The table gives the reference page, `tributary config`
 * and the checks. Sources, later ones winning: defaults, `--config FILE` (JSON, flat or nested), environment, `--set name=value`.
 */
export interface Config {
  data: string;
  "edge.name": string;
  "edge.http.host": string;
  "edge.http.port": number;
  "edge.http.token": string;
  "edge.mqtt.host": string;
  "edge.mqtt.port": number;
  "edge.mqtt.user": string;
  "edge.mqtt.password": string;
  "edge.diskBytesMax": number;
  "edge.diskPolicy": string;
  "edge.freeAt": string;
  "edge.sync": string;
  "edge.lingerMsMax": number;
  "edge.vitalsIntervalMs": number;
  "core.http.host": string;
  "core.http.port": number;
  "core.http.token": string;
  "core.containers": number;
  "core.flushBytes": number;
  "core.flushIntervalMs": number;
  "core.name": string;
  "core.url": string;
  "core.lake": string;
  "core.leaseMs": number;
  "core.handoverMs": number;
  "core.drainMs": number;
  "nats.url": string;
  "nats.user": string;
  "nats.password": string;
  "nats.credentials": string;
  "nats.tls.ca": string;
  "nats.tls.cert": string;
  "nats.tls.key": string;
  "nats.inboxPrefix": string;
  "nats.monitorUrl": string;
  "nats.replicas": number;
  "nats.allowUnsafe": boolean;
  cluster: string;
}

export type SettingName = keyof Config;

export interface Setting {
  readonly default: string | number | boolean;
  /** "" for plain text and switches. */
  readonly unit: string;
  readonly doc: string;
  readonly choices?: readonly string[];
  readonly min?: number;
  readonly max?: number;
}

const port = { unit: "port", min: 0, max: 65_535 } as const;

export const SETTINGS: Readonly<Record<SettingName, Setting>> = {
  data: { default: "./data", unit: "path", doc: "Folder that holds everything this process keeps." },
  "edge.name": { default: "", unit: "", doc: "What operators call this gateway; the host name if empty." },
  "edge.http.host": {
    default: "127.0.0.1",
    unit: "",
    doc: "Address of the gateway's HTTP listener. Other than loopback needs edge.http.token.",
  },
  "edge.http.port": { default: 8070, ...port, doc: "Port of the gateway's HTTP listener; 0 picks a free one." },
  "edge.http.token": { default: "", unit: "", doc: "Bearer token that HTTP clients of the gateway must send." },
  "edge.mqtt.host": {
    default: "127.0.0.1",
    unit: "",
    doc: "Address of the MQTT listener. Other than loopback needs edge.mqtt.user and edge.mqtt.password.",
  },
  "edge.mqtt.port": { default: 1883, ...port, doc: "Port of the MQTT listener; 0 picks a free one." },
  "edge.mqtt.user": { default: "", unit: "", doc: "User name that MQTT clients must send." },
  "edge.mqtt.password": { default: "", unit: "", doc: "Password that MQTT clients must send." },
  "edge.diskBytesMax": {
    default: 8_589_934_592,
    unit: "bytes",
    min: 16_777_216,
    doc: "Most bytes that the edge log may take on its disk, all its files counted.",
  },
  "edge.diskPolicy": {
    default: "reject",
    unit: "",
    choices: ["reject", "drop-oldest"],
    doc: "What happens at edge.diskBytesMax: refuse new events, or drop the oldest and leave gap records.",
  },
  "edge.freeAt": {
    default: "tiered",
    unit: "",
    choices: ["committed", "tiered"],
    doc: "The level that the core must confirm before the gateway forgets an event.",
  },
  "edge.sync": {
    default: "full",
    unit: "",
    choices: ["full", "off"],
    doc: "'off' acknowledges before the disk has the events: a power cut loses acknowledged data. For experiments only.",
  },
  "edge.lingerMsMax": { default: 5, unit: "ms", min: 0, max: 1_000, doc: "Longest wait for more events before an idle gateway commits." },
  "edge.vitalsIntervalMs": {
    default: 1_000,
    unit: "ms",
    min: 0,
    max: 3_600_000,
    doc: "How often the gateway measures itself into gateway/vitals; 0 turns it off.",
  },
  "core.http.host": {
    default: "127.0.0.1",
    unit: "",
    doc: "Address of the core's HTTP listener. Other than loopback needs core.http.token.",
  },
  "core.http.port": { default: 8080, ...port, doc: "Port of the core's HTTP listener; 0 picks a free one." },
  "core.http.token": { default: "", unit: "", doc: "Bearer token that HTTP clients of the core must send." },
  "core.containers": {
    default: 1,
    unit: "containers",
    min: 1,
    max: 1_024,
    doc: "Containers of a new cluster: units of work, each with its own write-ahead log.",
  },
  "core.flushBytes": {
    default: 8_388_608,
    unit: "bytes",
    min: 65_536,
    max: 268_435_456,
    doc: "Bytes of blocks at which a container writes an object to the tier.",
  },
  "core.flushIntervalMs": { default: 2_000, unit: "ms", min: 10, max: 3_600_000, doc: "Longest time that events wait for the tier." },
  "core.name": { default: "", unit: "", doc: "What operators call this core node; the host name if empty." },
  "core.url": {
    default: "",
    unit: "url",
    doc: "Where clients and other core nodes reach this node's HTTP listener; its own address if empty.",
  },
  "core.lake": {
    default: "",
    unit: "path",
    doc: "Folder of the lake, the same one for all core nodes of a cluster; core/lake in the data folder if empty.",
  },
  "core.leaseMs": {
    default: 1_500,
    unit: "ms",
    min: 300,
    max: 60_000,
    doc: "A core node that could not renew its lease for so long serves nothing, and others soon take over. More where machines stall.",
  },
  "core.handoverMs": {
    default: 5_000,
    unit: "ms",
    min: 900,
    max: 300_000,
    doc: "A container that its owner does not release is taken from it after so long; at least three times core.leaseMs.",
  },
  "core.drainMs": {
    default: 10_000,
    unit: "ms",
    min: 0,
    max: 3_600_000,
    doc: "Longest time that a stopping core node waits for others to take its containers.",
  },
  "nats.url": {
    default: "",
    unit: "url",
    doc: "NATS server, such as nats://127.0.0.1:4222; all servers of a cluster, joined by commas. Empty: everything runs embedded in one process.",
  },
  "nats.user": { default: "", unit: "", doc: "NATS user." },
  "nats.password": { default: "", unit: "", doc: "NATS password." },
  "nats.credentials": { default: "", unit: "path", doc: "NATS credentials file (JWT and seed)." },
  "nats.tls.ca": {
    default: "",
    unit: "path",
    doc: "Certificates (PEM) of those who sign the NATS servers' certificates. Empty: those that the system trusts.",
  },
  "nats.tls.cert": { default: "", unit: "path", doc: "Certificate (PEM) that this process shows to NATS; read anew at each connection." },
  "nats.tls.key": { default: "", unit: "path", doc: "Private key (PEM) of nats.tls.cert." },
  "nats.inboxPrefix": {
    default: "_INBOX",
    unit: "",
    doc: "Subjects on which answers arrive. One of its own for each user keeps users from reading each other's answers.",
  },
  "nats.monitorUrl": {
    default: "",
    unit: "url",
    doc: "Monitoring address of the NATS server (http://…:8222), from which the core reads sync_interval.",
  },
  "nats.replicas": { default: 1, unit: "copies", min: 1, max: 5, doc: "Copies of each JetStream stream; 3 in a cluster." },
  "nats.allowUnsafe": {
    default: false,
    unit: "",
    doc: "Development only: accept a NATS server that acknowledges before it has fsynced. A power cut loses acknowledged data.",
  },
  cluster: { default: "local", unit: "", doc: "Name of the cluster; part of NATS subjects and object names." },
};

export const SETTING_NAMES = Object.keys(SETTINGS) as readonly SettingName[];

/** TRIBUTARY_EDGE_HTTP_PORT for "edge.http.port". */
export function environmentName(name: SettingName): string {
  return `TRIBUTARY_${name
    .replace(/([a-z])([A-Z])/g, "$1_$2")
    .replaceAll(".", "_")
    .toUpperCase()}`;
}

export interface ConfigSources {
  readonly file?: string | undefined;
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** Values of `--set name=value` and of flags that stand for a setting. */
  readonly overrides?: Readonly<Record<string, string>>;
}

/** @throws CONFIG_INVALID with the name of the setting and what is expected */
export function loadConfig(sources: ConfigSources): Config {
  const raw = new Map<SettingName, unknown>();
  if (sources.file !== undefined) for (const [name, value] of readConfigFile(sources.file)) raw.set(known(name, sources.file), value);
  for (const name of SETTING_NAMES) {
    const value = sources.environment?.[environmentName(name)];
    if (value !== undefined) raw.set(name, value);
  }
  for (const [name, value] of Object.entries(sources.overrides ?? {})) raw.set(known(name, "--set"), value);
  const config: Partial<Record<SettingName, string | number | boolean>> = {};
  for (const name of SETTING_NAMES) {
    config[name] = raw.has(name) ? parseSetting(name, raw.get(name)) : SETTINGS[name].default;
  }
  const complete = config as unknown as Config;
  checkRelations(complete);
  return complete;
}

function known(name: string, where: string): SettingName {
  if (Object.hasOwn(SETTINGS, name)) return name as SettingName;
  throw new TributaryError("CONFIG_INVALID", `${where}: there is no setting '${name}'; 'tributary config' lists them`);
}

/** No name of a setting has as many parts. */
const NESTING_MAX = 8;

function readConfigFile(path: string): [string, unknown][] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new TributaryError("CONFIG_INVALID", `${path} cannot be read as JSON: ${error instanceof Error ? error.message : error}`);
  }
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw new TributaryError("CONFIG_INVALID", `${path} holds no JSON object with settings`);
  }
  const flat: [string, unknown][] = [];
  const walk = (value: unknown, prefix: string, depth: number) => {
    if (typeof value !== "object" || value === null || Array.isArray(value) || depth === NESTING_MAX) flat.push([prefix, value]);
    else for (const [key, inner] of Object.entries(value)) walk(inner, prefix === "" ? key : `${prefix}.${key}`, depth + 1);
  };
  walk(parsed, "", 0);
  return flat;
}

function parseSetting(name: SettingName, value: unknown): string | number | boolean {
  const setting = SETTINGS[name];
  // A list may be nested too deep to be written out.
  const given = typeof value === "object" ? "no single value" : `'${String(value)}'`;
  const invalid = (expected: string) => new TributaryError("CONFIG_INVALID", `${name} is ${given}; ${expected}`);
  if (typeof setting.default === "number") {
    const number = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
    if (typeof number !== "number" || !Number.isSafeInteger(number)) throw invalid(`expected a whole number (${setting.unit})`);
    if (setting.min !== undefined && number < setting.min) throw invalid(`expected at least ${setting.min} ${setting.unit}`);
    if (setting.max !== undefined && number > setting.max) throw invalid(`expected at most ${setting.max} ${setting.unit}`);
    return number;
  }
  if (typeof setting.default === "boolean") {
    if (value === true || value === "true") return true;
    if (value === false || value === "false") return false;
    throw invalid("expected true or false");
  }
  if (typeof value !== "string") throw invalid("expected text");
  if (setting.choices && !setting.choices.includes(value)) throw invalid(`expected one of ${setting.choices.join(", ")}`);
  return value;
}

const LOOPBACK = new Set(["127.0.0.1", "::1", "localhost"]);

/** Nothing listens beyond loopback without credentials. */
function checkRelations(config: Config): void {
  const open = (host: "edge.http.host" | "edge.mqtt.host" | "core.http.host", credentials: string, names: string) => {
    if (!LOOPBACK.has(config[host]) && credentials === "") {
      throw new TributaryError("CONFIG_INVALID", `${host} is not a loopback address; set ${names} first`);
    }
  };
  open("edge.http.host", config["edge.http.token"], "edge.http.token");
  open("core.http.host", config["core.http.token"], "core.http.token");
  open("edge.mqtt.host", config["edge.mqtt.user"] && config["edge.mqtt.password"], "edge.mqtt.user and edge.mqtt.password");
  if (config["core.handoverMs"] < 3 * config["core.leaseMs"]) {
    throw new TributaryError("CONFIG_INVALID", "core.handoverMs must be at least three times core.leaseMs");
  }
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(config.cluster))
    throw new TributaryError("CONFIG_INVALID", "cluster: expected 1 to 64 of A-Z a-z 0-9 _ -");
}
