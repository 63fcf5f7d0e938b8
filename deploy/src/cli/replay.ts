import { createReadStream, type Stats, statSync } from "node:fs";
import { basename } from "node:path";
import { TributaryError } from "@tributary/common/errors";
import { parseStreamName } from "@tributary/common/names";
import type { Command } from "commander";
import { createColumnReader } from "../replay/columns.ts";
import { connectMqttPublisher } from "../replay/mqtt-publisher.ts";
import { byteLines } from "./byte-lines.ts";
import { clientFor, GATEWAY_URL, print, type ServerFlags, untilStopped } from "./io.ts";
import { createProgress } from "./progress.ts";
import { BatchWriter, createIfMissing } from "./write.ts";

interface ReplayOptions extends ServerFlags {
  readonly stream: string;
  readonly format?: string;
  readonly delimiter: string;
  readonly header: string;
  readonly keyColumn?: string;
  readonly key?: string;
  readonly timeColumn?: string;
  readonly timeFormat: string;
  readonly timeZone: string;
  readonly timeStart: string;
  readonly rate: string;
  readonly via: string;
  readonly mqtt: string;
}

export function addReplayCommand(program: Command): void {
  program
    .command("replay <file>")
    .description("send a recording, one event a line, terminators included; the stream is created if it does not exist")
    .requiredOption("--stream <stream>", "stream to write to")
    .option("--format <format>", "delimited or ndjson; from the file's name if not given")
    .option("--delimiter <character>", "what separates columns", ",")
    .option("--header <mode>", "the first line of a delimited file: send (as an event), skip, or none (it is data)", "send")
    .option("--key-column <column>", "name, or position from 1, of the column with the routing key")
    .option("--key <key>", "one routing key for all; the file's name if not given")
    .option("--time-column <column>", "name, or position from 1, of the column with the event time")
    .option(
      "--time-format <format>",
      "iso, epoch-s, epoch-ms, seconds (since --time-start), or a pattern such as dd/MM/yyyy HH:mm:ss",
      "iso",
    )
    .option("--time-zone <zone>", "zone of times that name none, such as Europe/Berlin", "UTC")
    .option("--time-start <time>", "start of a recording whose times are seconds (RFC 3339)", "1970-01-01T00:00:00Z")
    .option("--rate <rate>", "max, events per second (100/s), or the recording's own pace times a factor (1x, 60x)", "max")
    .option("--via <protocol>", "http or mqtt; over MQTT the event time is the time of arrival", "http")
    .option(
      "--mqtt <address>",
      "MQTT listener for --via mqtt; its user and password from TRIBUTARY_EDGE_MQTT_USER and TRIBUTARY_EDGE_MQTT_PASSWORD",
      "127.0.0.1:1883",
    )
    .addHelpText(
      "after",
      "\nExamples:\n  tributary replay drive.csv --stream cars/engine --key car-1\n" +
        "  tributary replay machine.csv --stream factory/temperature --time-column timestamp --time-zone America/Chicago --rate 3600x",
    )
    .action(async (file: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<ReplayOptions>();
      const result = await replay(file, options);
      print(
        options,
        result,
        () =>
          `${result.events} events (${result.bytes} bytes) in ${(result.tookMs / 1_000).toFixed(1)} s, ${result.withoutTime} without a readable time`,
      );
    });
}

interface ReplayResult {
  readonly events: number;
  readonly bytes: number;
  readonly tookMs: number;
  /** Lines whose time column could not be read: they get the time of arrival. */
  readonly withoutTime: number;
}

async function replay(file: string, options: ReplayOptions): Promise<ReplayResult> {
  const stream = parseStreamName(options.stream);
  const pace = parseRate(options.rate);
  const format = options.format ?? (/\.(ndjson|jsonl|json)$/.test(file) ? "ndjson" : "delimited");
  if (format !== "delimited" && format !== "ndjson")
    throw new TributaryError("USAGE", `--format '${format}' is neither delimited nor ndjson`);
  if (!["send", "skip", "none"].includes(options.header))
    throw new TributaryError("USAGE", `--header '${options.header}' is none of send, skip, none`);
  if (options.via !== "http" && options.via !== "mqtt")
    throw new TributaryError("USAGE", `--via '${options.via}' is neither http nor mqtt`);
  const timeStartMs = Date.parse(options.timeStart);
  if (!Number.isFinite(timeStartMs)) throw new TributaryError("USAGE", `--time-start '${options.timeStart}' is not an RFC 3339 time`);
  const reader = createColumnReader({
    format,
    delimiter: options.delimiter,
    keyColumn: options.keyColumn,
    key: options.key ?? basename(file),
    timeColumn: options.timeColumn,
    timeFormat: options.timeFormat,
    timeZone: options.timeZone,
    timeStartMs,
  });
  const fileBytes = fileSize(file);
  const sink = options.via === "http" ? await httpSink(options, stream) : await mqttSink(options, stream);
  const progress = createProgress(`replay ${basename(file)}`, fileBytes, options.json === true);
  const signal = untilStopped();
  const startedAt = performance.now();
  let [events, bytes, withoutTime] = [0, 0, 0];
  let firstTimeMs: number | undefined;
  let headerPending = format === "delimited" && options.header !== "none";
  try {
    for await (const line of byteLines(createReadStream(file))) {
      if (signal.aborted) break;
      progress.advance(line.length);
      let facts = { key: options.key ?? basename(file), timeMs: undefined as number | undefined };
      if (headerPending) {
        headerPending = false;
        reader.header(Buffer.from(line).toString("utf8"));
        if (options.header === "skip") continue;
      } else {
        facts = reader.facts(Buffer.from(line).toString("utf8"));
        if (options.timeColumn !== undefined && facts.timeMs === undefined) withoutTime++;
      }
      firstTimeMs ??= facts.timeMs;
      const dueMs =
        pace.kind === "events"
          ? (events * 1_000) / pace.perSecond
          : pace.kind === "factor"
            ? ((facts.timeMs ?? 0) - (firstTimeMs ?? facts.timeMs ?? 0)) / pace.factor
            : 0;
      const waitMs = startedAt + dueMs - performance.now();
      if (waitMs > 2) {
        await sink.flush();
        await pause(waitMs, signal);
      }
      await sink.add({ key: facts.key, time: facts.timeMs, data: line });
      events++;
      bytes += line.length;
    }
    await sink.flush();
  } finally {
    progress.stop();
    sink.close();
  }
  return { events, bytes, tookMs: Math.round(performance.now() - startedAt), withoutTime };
}

interface Sink {
  add(event: { key: string; time: number | undefined; data: Uint8Array }): Promise<void>;
  /** Resolves once everything added is acknowledged. */
  flush(): Promise<void>;
  close(): void;
}

async function httpSink(options: ReplayOptions, stream: ReturnType<typeof parseStreamName>): Promise<Sink> {
  const client = clientFor(options, GATEWAY_URL);
  await createIfMissing(client, stream);
  const writer = new BatchWriter(client, stream);
  return { add: (event) => writer.add(event), flush: () => writer.flush(), close: () => {} };
}

async function mqttSink(options: ReplayOptions, stream: ReturnType<typeof parseStreamName>): Promise<Sink> {
  const match = /^(?:mqtt:\/\/)?([^:/]+|\[[^\]]+\])(?::(\d+))?\/?$/.exec(options.mqtt);
  if (!match) throw new TributaryError("USAGE", `--mqtt '${options.mqtt}' is not HOST:PORT`);
  const publisher = await connectMqttPublisher({
    host: (match[1] as string).replace(/^\[|\]$/g, ""),
    port: Number(match[2] ?? 1883),
    user: process.env["TRIBUTARY_EDGE_MQTT_USER"],
    password: process.env["TRIBUTARY_EDGE_MQTT_PASSWORD"],
  });
  return {
    async add(event) {
      // A key ends the topic: what MQTT forbids there would cost the connection.
      if (!/^[^#+/\0]+(?:\/[^#+/\0]+)*$/.test(event.key)) {
        throw new TributaryError("INVALID_REQUEST", `the key '${event.key}' cannot be part of an MQTT topic; send it with --via http`);
      }
      await publisher.publish(`${stream.scope}/${stream.stream}/${event.key}`, event.data);
    },
    flush: () => publisher.drain(),
    close: () => publisher.close(),
  };
}

type Pace = { kind: "max" } | { kind: "events"; perSecond: number } | { kind: "factor"; factor: number };

/** @throws USAGE */
function parseRate(text: string): Pace {
  if (text === "max") return { kind: "max" };
  const match = /^(\d+(?:\.\d+)?)(\/s|x)$/.exec(text);
  const value = Number(match?.[1]);
  if (!match || value <= 0) throw new TributaryError("USAGE", `--rate '${text}' is none of max, N/s, Nx`);
  return match[2] === "x" ? { kind: "factor", factor: value } : { kind: "events", perSecond: value };
}

function fileSize(file: string): number {
  let facts: Stats;
  try {
    facts = statSync(file);
  } catch (error) {
    throw new TributaryError("USAGE", `${file} cannot be read: ${error instanceof Error ? error.message : error}`);
  }
  if (facts.isDirectory()) throw new TributaryError("USAGE", `${file} is a folder`);
  return facts.size;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}
