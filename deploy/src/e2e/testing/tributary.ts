import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The entry file of the command line. */
export const TRIBUTARY: string = fileURLToPath(new URL("../../../bin/tributary.mjs", import.meta.url));

const WAIT_MS_MAX = 30_000;
const POLL_MS = 20;

const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

export interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs one command to its end. */
export async function tributary(
  args: readonly string[],
  options: { input?: string | Uint8Array; env?: Readonly<Record<string, string>>; program?: readonly string[] } = {},
): Promise<Finished> {
  const command = launch(args, options.program, options.env);
  command.child.stdin?.end(options.input ?? "");
  await command.closed;
  return { code: command.child.exitCode, stdout: command.stdout(), stderr: command.stderr() };
}

/** The error that a command with --json reports; undefined if it reported none. */
export function reported(finished: Finished): { code: string; message: string; hint: string } | undefined {
  const line = finished.stderr
    .split("\n")
    .reverse()
    .find((text) => text.startsWith("{"));
  return line === undefined ? undefined : (JSON.parse(line) as { code: string; message: string; hint: string });
}

/** A server as a real process, started with --json: it tells its addresses once it listens. */
export interface Server {
  readonly gatewayHttp: string;
  readonly mqttPort: number;
  readonly coreHttp: string;
  readonly pid: number;
  /** Standard error so far. */
  log(): string;
  /** SIGTERM; resolves with the exit code. */
  stop(): Promise<number | null>;
  /** SIGKILL. */
  kill(): Promise<void>;
}

/** Ports are picked by the system unless the arguments name them. */
export async function startServer(
  command: "up" | "edge" | "core",
  args: readonly string[],
  options: { program?: readonly string[] } = {},
): Promise<Server> {
  const ports = { up: ["--http-port", "--mqtt-port", "--core-port"], edge: ["--http-port", "--mqtt-port"], core: ["--http-port"] }[command];
  const free = ports.filter((flag) => !args.includes(flag)).flatMap((flag) => [flag, "0"]);
  const server = launch([command, "--json", ...free, ...args], options.program, undefined);
  const { child } = server;
  await until(`${command} to tell its addresses`, () => {
    if (child.exitCode !== null) throw new Error(`'${command}' ended with ${child.exitCode}: ${server.stderr()}`);
    return server.stdout().includes("\n");
  });
  const [line] = server.stdout().split("\n") as [string];
  const { gatewayHttp = "", gatewayMqtt, coreHttp = "" } = JSON.parse(line) as Record<string, string>;
  await until(`${command} to be ready`, async () => {
    const answers = await Promise.all([coreHttp, gatewayHttp].filter((url) => url !== "").map((url) => fetch(`${url}/ready`)));
    for (const answer of answers) await answer.arrayBuffer();
    return answers.every((answer) => answer.ok);
  });
  return {
    gatewayHttp,
    coreHttp,
    mqttPort: gatewayMqtt === undefined ? 0 : Number(new URL(gatewayMqtt).port),
    pid: child.pid as number,
    log: server.stderr,
    async stop() {
      child.kill("SIGTERM");
      await server.closed;
      return child.exitCode;
    },
    async kill() {
      child.kill("SIGKILL");
      await server.closed;
    },
  };
}

interface Launched {
  readonly child: ChildProcess;
  readonly closed: Promise<unknown>;
  readonly stdout: () => string;
  readonly stderr: () => string;
}

/** Starts a command whose output is collected. `program` runs the entry file; the Node that runs this by default. */
export function launch(
  args: readonly string[],
  program: readonly string[] = [process.execPath],
  env: Readonly<Record<string, string>> = {},
): Launched {
  const [file, ...leading] = program as [string, ...string[]];
  const child = spawn(file, [...leading, TRIBUTARY, ...args], { env: { ...process.env, ...env } });
  running.add(child);
  child.once("close", () => running.delete(child));
  let [stdout, stderr] = ["", ""];
  // latin1 keeps one character a byte, whatever the bytes are.
  child.stdout.setEncoding("latin1").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  child.stdin.on("error", () => {});
  return { child, closed: once(child, "close"), stdout: () => stdout, stderr: () => stderr };
}

export async function until(what: string, condition: () => Promise<boolean> | boolean): Promise<void> {
  const end = performance.now() + WAIT_MS_MAX;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`Waited ${WAIT_MS_MAX} ms in vain for ${what}.`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** A folder for one test file, and what removes it. */
export async function newFolder(): Promise<{ folder: string; remove: () => Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), "tributary-e2e-"));
  return { folder, remove: () => rm(folder, { recursive: true, force: true, maxRetries: 5 }) };
}

/** `/status` of a server, without what it says of itself. */
export async function statusOf<T>(url: string): Promise<T> {
  return ((await (await fetch(`${url}/status`)).json()) as { status: T }).status;
}

/** What a gateway says of itself, as far as these tests look at it. */
export interface GatewayFacts {
  readonly writer: string;
  readonly incarnation: string;
  readonly overQuota: boolean;
  readonly eventsDropped: number;
  readonly trouble: string;
  readonly usage: { readonly eventsHeld: number; readonly eventsUnsent: number; readonly diskBytes: number };
  readonly counters: { readonly eventsDurable: number };
  readonly uplink?: { readonly state: string; readonly counters: { readonly siblings: number; readonly eventsFreed: number } };
  readonly recovery: { readonly recordsRead: number; readonly recordsQuarantined: number; readonly quarantinePath: string };
}
