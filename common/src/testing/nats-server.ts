import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { freePorts } from "./free-ports.ts";

/**
 * Real nats-servers for tests, on loopback and free ports. The binary comes from scripts/fetch-nats-server.mjs; if there
 * is none, starting fails with its message: a test that needs a server never passes without one.
 */
export interface NatsServerOptions {
  /** Default true: what Tributary demands. False leaves the server's own default, which acknowledges before fsync. */
  readonly syncAlways?: boolean;
  /** Default true. */
  readonly jetstream?: boolean;
  /** What JetStream may store; the server's own default is a part of the disk. */
  readonly storeBytesMax?: number;
  /** Default: a temporary folder, removed by `stop`. */
  readonly storeDir?: string;
  /** Default: a free one, kept over restarts. */
  readonly port?: number;
  /** Default: a free one, kept over restarts. */
  readonly monitoringPort?: number;
  /** Default: the server's own, 1 MiB. */
  readonly maxPayload?: number;
  readonly auth?: { readonly user: string; readonly pass: string };
  /** Default: this machine, on loopback. */
  readonly place?: Place;
  /** Further lines of its configuration. */
  readonly extraConfig?: string;
}

/** A machine of its own for a server. */
export interface Place {
  /** Its address. */
  readonly host: string;
  /** Runs a program there: comes before the program and its arguments. */
  readonly program: readonly string[];
}

const HERE: Place = { host: "127.0.0.1", program: [] };

export interface NatsServer {
  readonly url: string;
  readonly monitoringUrl: string;
  readonly pid: number;
  /** Everything the server has logged since it was last started. */
  log(): string;
  /** Stops it if it runs and removes its temporary folder. */
  stop(): Promise<void>;
  /** SIGKILL; what it stored stays. */
  kill(): Promise<void>;
  /** Kills it if it runs and starts it again on the same port and store. */
  restart(): Promise<void>;
}

export interface NatsCluster {
  readonly servers: readonly NatsServer[];
  /** All of them, as one setting. */
  readonly url: string;
  /**
   * A server is lost for ever, with its disk. An empty one with another name, which is returned, takes its address and joins. The lost
   * one stays a peer until somebody removes it: what has a copy there has one less until then.
   */
  replace(index: number): Promise<string>;
  stop(): Promise<void>;
}

/** Of server number `index` of a cluster. */
export function serverNameOf(index: number): string {
  return `n${index}`;
}

const START_MS_MAX = 20_000;
const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

let binary: Promise<string> | undefined;

/** Path of the binary. */
export function findNatsServer(): Promise<string> {
  binary ??= findBinary();
  return binary;
}

async function findBinary(): Promise<string> {
  const script = fileURLToPath(new URL("../../../scripts/fetch-nats-server.mjs", import.meta.url));
  try {
    const { stdout } = await promisify(execFile)("node", [script]);
    return stdout.trim();
  } catch (error) {
    throw new Error(`This test needs a nats-server. ${(error as { stderr?: string }).stderr ?? String(error)}`);
  }
}

export async function startNatsServer(options: NatsServerOptions = {}): Promise<NatsServer> {
  const folder = await mkdtemp(join(tmpdir(), "tributary-nats-"));
  const server = new ServerProcess(folder, options, "");
  try {
    await server.start();
  } catch (error) {
    await server.stop();
    throw error;
  }
  return server;
}

export interface NatsClusterOptions extends Omit<NatsServerOptions, "storeDir" | "port" | "monitoringPort"> {
  /** One for each server; temporary ones by default. */
  readonly storeDirs?: readonly string[];
  /** For clients, one for each server; free ones by default. */
  readonly ports?: readonly number[];
  readonly monitoringPorts?: readonly number[];
  readonly places?: readonly (Place | undefined)[];
  /** A user of the system account, which then is one of its own; who names no user is a client with JetStream all the same. */
  readonly systemUser?: { readonly user: string; readonly pass: string };
}

/** A JetStream cluster of `size` servers with a leader. */
export async function startNatsCluster(size: number, options: NatsClusterOptions = {}): Promise<NatsCluster> {
  const ports = await freePorts(size);
  const hostOf = (i: number) => (options.places?.[i] ?? HERE).host;
  const routes = ports.map((port, i) => `nats://${hostOf(i)}:${port}`).join(", ");
  const servers: ServerProcess[] = [];
  const clusterConfig = (i: number, name: string) =>
    [
      `server_name: ${name}`,
      `cluster { name: test, no_advertise: true, listen: "${hostOf(i)}:${ports[i]}", routes: [${routes}] }`,
      accountsConfig(options.systemUser),
    ].join("\n");
  for (const i of ports.keys()) {
    const folder = await mkdtemp(join(tmpdir(), "tributary-nats-"));
    const [storeDir, clientPort, monitoringPort] = [options.storeDirs?.[i], options.ports?.[i], options.monitoringPorts?.[i]];
    const place = options.places?.[i];
    const own = {
      ...options,
      ...(place === undefined ? {} : { place }),
      ...(storeDir === undefined ? {} : { storeDir }),
      ...(clientPort === undefined ? {} : { port: clientPort }),
      ...(monitoringPort === undefined ? {} : { monitoringPort }),
    };
    servers.push(new ServerProcess(folder, own, clusterConfig(i, serverNameOf(i))));
  }
  let names = size;
  const replace = async (index: number) => {
    const name = serverNameOf(names++);
    await servers[index]?.startEmpty(clusterConfig(index, name));
    return name;
  };
  const stop = async () => {
    await Promise.all(servers.map((server) => server.stop()));
  };
  try {
    await Promise.all(servers.map((server) => server.start()));
    for (const server of servers) await until(`a JetStream leader seen by ${server.url}`, () => hasLeader(server, size));
  } catch (error) {
    await stop();
    throw error;
  }
  return { servers, url: servers.map((server) => server.url).join(","), replace, stop };
}

function accountsConfig(systemUser: NatsClusterOptions["systemUser"]): string {
  if (!systemUser) return "";
  const system = `users: [{ user: "${systemUser.user}", password: "${systemUser.pass}" }]`;
  const clients = 'jetstream: enabled, users: [{ user: "client", password: "client" }]';
  return `accounts { SYS { ${system} }, CLIENTS { ${clients} } }\nsystem_account: SYS\nno_auth_user: client`;
}

class ServerProcess implements NatsServer {
  readonly #folder: string;
  readonly #options: NatsServerOptions;
  #clusterConfig: string;
  #child: ChildProcess | undefined;
  #log = "";
  #port: number;
  #monitoringPort = -1;

  constructor(folder: string, options: NatsServerOptions, clusterConfig: string) {
    this.#folder = folder;
    this.#options = options;
    this.#clusterConfig = clusterConfig;
    this.#port = options.port ?? -1;
    this.#monitoringPort = options.monitoringPort ?? -1;
  }

  get #place(): Place {
    return this.#options.place ?? HERE;
  }

  get url(): string {
    return `nats://${this.#place.host}:${this.#port}`;
  }

  get monitoringUrl(): string {
    return `http://${this.#place.host}:${this.#monitoringPort}`;
  }

  get pid(): number {
    const pid = this.#child?.pid;
    if (pid === undefined) throw new Error("The server does not run.");
    return pid;
  }

  log(): string {
    return this.#log;
  }

  async start(): Promise<void> {
    const path = await findNatsServer();
    await writeFile(join(this.#folder, "server.conf"), this.#config());
    this.#log = "";
    const [program = path, ...args] = [...this.#place.program, path, "-c", join(this.#folder, "server.conf")];
    const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
    this.#child = child;
    running.add(child);
    child.once("close", () => running.delete(child));
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#log += text;
    });
    await until("nats-server to be ready", async () => {
      if (child.exitCode !== null) throw new Error(`nats-server ended with ${child.exitCode}:\n${this.#log}`);
      return this.#log.includes("Server is ready") && (await this.#readPorts(child.pid));
    });
  }

  #config(): string {
    const { auth, jetstream = true, maxPayload, storeDir, syncAlways = true, storeBytesMax, extraConfig = "" } = this.#options;
    const room = storeBytesMax === undefined ? "" : `, max_file_store: ${storeBytesMax}`;
    return [
      `listen: "${this.#place.host}:${this.#port}"`,
      `http: "${this.#place.host}:${this.#monitoringPort}"`,
      `ports_file_dir: "${this.#folder}"`,
      jetstream ? `jetstream { store_dir: "${storeDir ?? this.#folder}"${syncAlways ? ", sync_interval: always" : ""}${room} }` : "",
      maxPayload === undefined ? "" : `max_payload: ${maxPayload}`,
      auth ? `authorization { user: "${auth.user}", password: "${auth.pass}" }` : "",
      this.#clusterConfig,
      extraConfig,
    ].join("\n");
  }

  /** The server tells its free ports in a file; from then on it keeps them. */
  async #readPorts(pid: number | undefined): Promise<boolean> {
    const name = (await readdir(this.#folder)).find((file) => file.endsWith(`_${pid}.ports`));
    if (!name) return false;
    const text = await readFile(join(this.#folder, name), "utf8");
    if (text === "") return false;
    const ports = JSON.parse(text) as { nats: string[]; monitoring: string[] };
    this.#port = Number(new URL(ports.nats[0] ?? "").port);
    this.#monitoringPort = Number(new URL(ports.monitoring[0] ?? "").port);
    return true;
  }

  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  async restart(): Promise<void> {
    await this.#end("SIGKILL");
    await this.start();
  }

  /** Kills it and starts it on the same ports with nothing stored. */
  async startEmpty(clusterConfig: string): Promise<void> {
    await this.#end("SIGKILL");
    await rm(join(this.#options.storeDir ?? this.#folder, "jetstream"), { recursive: true, force: true, maxRetries: 3 });
    this.#clusterConfig = clusterConfig;
    await this.start();
  }

  async stop(): Promise<void> {
    await this.#end("SIGTERM");
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 3 });
  }

  async #end(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const closed = once(child, "close");
    child.kill(signal);
    // A server that a test has paused cannot hear SIGTERM.
    if (signal === "SIGTERM") child.kill("SIGCONT");
    await closed;
  }
}

async function hasLeader(server: NatsServer, size: number): Promise<boolean> {
  try {
    const health = await fetch(`${server.monitoringUrl}/healthz`);
    const state = (await (await fetch(`${server.monitoringUrl}/jsz`)).json()) as {
      meta_cluster?: { leader?: string; cluster_size?: number };
    };
    return health.ok && Boolean(state.meta_cluster?.leader) && state.meta_cluster?.cluster_size === size;
  } catch {
    return false;
  }
}

async function until(what: string, condition: () => Promise<boolean> | boolean): Promise<void> {
  const end = performance.now() + START_MS_MAX;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`Waited ${START_MS_MAX} ms in vain for ${what}.`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
