import { writeSync } from "node:fs";
import { systemClock } from "@tributary/common/clock";
import { type Config, loadConfig } from "@tributary/common/config";
import { createMemoryBus } from "@tributary/common/engines/memory-bus";
import { TributaryError } from "@tributary/common/errors";
import { CORE_HEAP_GROWTH_PERCENT, countArraysAsHeap } from "@tributary/common/heap";
import { createLogger, LOG_LEVELS, type Logger, type LogLevel } from "@tributary/common/logger";
import type { PhaseListener } from "@tributary/common/phases";
import { systemRandom } from "@tributary/common/random";
import type { CoreServer } from "@tributary/core/server";
import type { GatewayServer } from "@tributary/edge/server";
import type { Command } from "commander";
import { addDoctorCommand } from "./doctor.ts";
import { goOnWithoutReader, print, type ServerFlags } from "./io.ts";
import { startLiveLine, writeLogLine } from "./live-line.ts";
import { readOverrides, type SettingFlags } from "./setting-flags.ts";

interface ServerOptions extends Pick<ServerFlags, "json">, SettingFlags {
  readonly logLevel: string;
}

const VERSION = "0.1.0";
/** A stop that takes longer, beside the time in which others take a core node's containers, is cut off: everything acknowledged is durable anyway. */
const STOP_MS_MAX = 20_000;

export function addServerCommands(program: Command): void {
  const settings = (command: Command) =>
    command
      .option("--data <folder>", "folder for everything that is kept (default ./data)")
      .option("--nats <url>", "NATS server, such as nats://127.0.0.1:4222")
      .option("--config <file>", "settings as JSON")
      .option("--set <name=value>", "one setting; may be repeated; 'tributary config' lists them", (value: string, all: string[] = []) => [
        ...all,
        value,
      ]);
  const shared = (command: Command) => settings(command).option("--log-level <level>", LOG_LEVELS.join(", "), "info");

  shared(program.command("up").description("start a whole appliance: gateway and core in one process, embedded unless --nats is given"))
    .option("--http-port <port>", "HTTP port of the gateway (default 8070)")
    .option("--mqtt-port <port>", "MQTT port of the gateway (default 1883)")
    .option("--core-port <port>", "HTTP port of the core (default 8080)")
    .addHelpText("after", "\nExample:\n  tributary up --data /var/lib/tributary --set edge.diskBytesMax=1000000000")
    .action((_: unknown, command: Command) => up(command.optsWithGlobals<ServerOptions>()));

  shared(program.command("edge").description("start a gateway alone; without --nats it keeps everything itself"))
    .option("--http-port <port>", "HTTP port (default 8070)")
    .option("--mqtt-port <port>", "MQTT port (default 1883)")
    .addHelpText("after", "\nExample:\n  tributary edge --data /var/lib/tributary --nats nats://core.example:4222")
    .action((_: unknown, command: Command) => edge(command.optsWithGlobals<ServerOptions>()));

  const coreCommand = shared(program.command("core").description("start a core alone; --nats is needed for gateways to reach it"));
  addDoctorCommand(coreCommand, settings);
  coreCommand
    .option("--http-port <port>", "HTTP port (default 8080)")
    .addHelpText(
      "after",
      "\nExample:\n  tributary core --data /var/lib/tributary --nats nats://127.0.0.1:4222 --set nats.monitorUrl=http://127.0.0.1:8222",
    )
    .action((_: unknown, command: Command) => {
      const options = command.optsWithGlobals<ServerOptions>();
      return core({ ...options, ...(options.httpPort === undefined ? {} : { corePort: options.httpPort }) });
    });
}

async function up(options: ServerOptions): Promise<void> {
  const { config, logger } = prepare(options);
  const [{ startCoreServer }, { startGatewayServer }] = await Promise.all([
    import("@tributary/core/server"),
    import("@tributary/edge/server"),
  ]);
  const common = { config, clock: systemClock, random: systemRandom, logger, phases: phaseListener() };
  const bus = config["nats.url"] === "" ? createMemoryBus() : undefined;
  const core = await startCoreServer({ ...common, version: VERSION, bus });
  let gateway: GatewayServer;
  try {
    gateway = await startGatewayServer({ ...common, bus, version: VERSION });
  } catch (error) {
    await core.close();
    throw error;
  }
  announce({ gateway, core }, config, options);
  // The gateway first: what it still holds the core can take until its own end.
  const closers = [() => gateway.close(), () => core.close(), () => bus?.close()];
  await runUntilStopped(logger, liveLine({ gateway, core }, options), closers, config["core.drainMs"]);
}

async function edge(options: ServerOptions): Promise<void> {
  const { config, logger } = prepare(options);
  const { startGatewayServer } = await import("@tributary/edge/server");
  const gateway = await startGatewayServer({
    ...{ config, clock: systemClock, random: systemRandom, logger, phases: phaseListener() },
    bus: undefined,
    version: VERSION,
  });
  announce({ gateway }, config, options);
  await runUntilStopped(logger, liveLine({ gateway }, options), [() => gateway.close()]);
}

async function core(options: ServerOptions): Promise<void> {
  countArraysAsHeap(CORE_HEAP_GROWTH_PERCENT);
  const { config, logger } = prepare(options);
  const { startCoreServer } = await import("@tributary/core/server");
  const bus = config["nats.url"] === "" ? createMemoryBus() : undefined;
  const common = { config, clock: systemClock, random: systemRandom, logger, phases: phaseListener() };
  const server = await startCoreServer({ ...common, version: VERSION, bus });
  announce({ core: server }, config, options);
  await runUntilStopped(logger, liveLine({ core: server }, options), [() => server.close(), () => bus?.close()], config["core.drainMs"]);
}

function prepare(options: ServerOptions): { config: Config; logger: Logger } {
  goOnWithoutReader();
  if (!(LOG_LEVELS as readonly string[]).includes(options.logLevel)) {
    throw new TributaryError("USAGE", `--log-level '${options.logLevel}' is none of ${LOG_LEVELS.join(", ")}`);
  }
  const config = loadConfig({ file: options.config, environment: process.env, overrides: readOverrides(options) });
  const level = options.logLevel as LogLevel;
  return { config, logger: createLogger({ level, clock: systemClock, write: writeLogLine }) };
}

/** With TRIBUTARY_PHASES=1 every begin and end of a phase is one line on stderr, written before the phase goes on. */
function phaseListener(): PhaseListener {
  if (process.env["TRIBUTARY_PHASES"] !== "1") return { begin: () => {}, end: () => {} };
  const line = (text: string) => {
    try {
      writeSync(2, text);
    } catch {
      // Whoever watched has gone.
    }
  };
  return { begin: (phase) => line(`phase ${phase} begin\n`), end: (phase) => line(`phase ${phase} end\n`) };
}

interface Servers {
  readonly gateway?: GatewayServer;
  readonly core?: CoreServer;
}

function announce({ gateway, core }: Servers, config: Config, options: ServerOptions): void {
  const addresses = { gatewayHttp: gateway?.httpUrl, gatewayMqtt: gateway?.mqttUrl, coreHttp: core?.url };
  print(options, { version: VERSION, data: config.data, ...addresses }, () => {
    const lines = [`Tributary ${VERSION}, data in ${config.data}`];
    if (gateway) lines.push(`  gateway HTTP  ${gateway.httpUrl}`, `  gateway MQTT  ${gateway.mqttUrl}`);
    if (core) lines.push(`  core HTTP     ${core.url}`);
    lines.push("Ctrl-C stops it.");
    return lines.join("\n");
  });
}

/** Counts are for people; programs ask for /status. */
function liveLine(servers: Servers, options: ServerOptions): () => void {
  return options.json ? () => {} : startLiveLine(servers);
}

/** Resolves once everything is stopped, in order. A second signal, or a stop that hangs, ends the process at once. */
async function runUntilStopped(
  logger: Logger,
  stopLiveLine: () => void,
  closers: readonly (() => Promise<void> | undefined)[],
  drainMs = 0,
): Promise<void> {
  const signal = await new Promise<string>((resolve) => {
    for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => resolve(name));
  });
  stopLiveLine();
  logger.info("stopping", { signal });
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => process.exit(1));
  const timer = setTimeout(() => {
    logger.error("the stop takes too long and is cut off; nothing acknowledged is lost");
    process.exit(1);
  }, STOP_MS_MAX + drainMs);
  for (const closer of closers) await closer();
  clearTimeout(timer);
  logger.info("stopped");
  // A library's timer must not keep a stopped server alive.
  process.exit(0);
}
