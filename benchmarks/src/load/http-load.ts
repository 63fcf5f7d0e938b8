import { connect, type Socket } from "node:net";
import { parseArgs } from "node:util";
import { Gathering } from "./gathering.ts";
import { HttpAnswerReader } from "./http-answer.ts";
import { LatencyHistogram } from "./latency-histogram.ts";
import { LoadMeter, type LoadResult } from "./load-result.ts";
import { startPacer } from "./pacer.ts";
import { Telemetry } from "./telemetry.ts";

export interface HttpLoadOptions {
  readonly host: string;
  readonly port: number;
  readonly connections: number;
  /** Events in one request; more than one are sent as lines (`Event-Split: lines`). */
  readonly batch: number;
  /** Events a second over all connections; 0: each answer is followed by the next request. */
  readonly rate: number;
  readonly warmupSeconds: number;
  readonly seconds: number;
  /** "scope/stream"; `{n}` is the connection's number. The streams are created. */
  readonly stream: string;
  /** Routing key, and the name of the device in the payload. */
  readonly key: string;
  readonly token?: string | undefined;
  /** Told of each 2xx: the device's events `seq` … `seq + count - 1` are durable. */
  readonly onAcked?: (device: string, seq: number, count: number) => void;
}

const RECONNECT_MS = 100;
const SETTLE_MS_MAX = 10_000;
const CONTENT_TYPE = "application/octet-stream";

/**
 * Appends telemetry over HTTP with kept-alive connections, one request in flight on each, and measures when it was answered. A request
 * whose connection broke is sent again; one that was refused is counted and its events go on in a new request.
 */
export async function runHttpLoad(options: HttpLoadOptions): Promise<LoadResult> {
  await createStreams(options);
  const run = new HttpLoad(options);
  return run.measure();
}

async function createStreams(options: HttpLoadOptions): Promise<void> {
  const names = new Set(Array.from({ length: options.connections }, (_, n) => options.stream.replace("{n}", String(n))));
  for (const name of names) {
    const url = `http://${options.host}:${options.port}/v1/stream/${name}`;
    const response = await fetch(url, { method: "PUT", headers: { "Content-Type": CONTENT_TYPE, ...authorization(options) } });
    await response.arrayBuffer();
    if (!response.ok) throw new Error(`PUT ${url}: status ${response.status}`);
  }
}

function authorization(options: HttpLoadOptions): Record<string, string> {
  return options.token === undefined ? {} : { Authorization: `Bearer ${options.token}` };
}

class HttpLoad {
  readonly options: HttpLoadOptions;
  readonly meter: LoadMeter = new LoadMeter(new LatencyHistogram());
  readonly gathering: Gathering;
  readonly refusals: Record<string, number> = {};
  reconnects = 0;
  stopping = false;
  readonly #devices: Device[];

  constructor(options: HttpLoadOptions) {
    this.options = options;
    this.gathering = new Gathering(options.connections);
    this.#devices = Array.from({ length: options.connections }, (_, n) => new Device(this, n));
  }

  async measure(): Promise<LoadResult> {
    const { options } = this;
    const connectMs = await this.gathering
      .of(() => {
        for (const device of this.#devices) device.open();
      })
      .catch((error: unknown) => {
        for (const device of this.#devices) device.leave();
        throw error;
      });
    for (const device of this.#devices) device.begin();
    let next = 0;
    const stopPacer =
      options.rate === 0
        ? () => {}
        : startPacer(options.rate / options.batch, (requests) => {
            const dueMs = performance.now();
            for (let i = 0; i < requests; i++) (this.#devices[next++ % this.#devices.length] as Device).due(dueMs);
          });
    await wait(options.warmupSeconds * 1000);
    this.meter.start();
    await wait(options.seconds * 1000);
    const measured = this.meter.stop();
    stopPacer();
    const eventsLate = this.#devices.reduce((sum, device) => sum + device.late, 0) * options.batch;
    await this.#settle();
    return {
      kind: "http",
      connections: options.connections,
      depth: 1,
      eventsPerRequest: options.batch,
      rateAsked: options.rate,
      ...measured,
      payloadBytesPerEvent: this.#devices[0]?.payloadBytes ?? 0,
      connectMs,
      reconnects: this.reconnects,
      refusals: this.refusals,
      eventsLate,
    };
  }

  async #settle(): Promise<void> {
    this.stopping = true;
    const untilMs = performance.now() + SETTLE_MS_MAX;
    while (this.#devices.some((device) => device.waiting) && performance.now() < untilMs) await wait(10);
    for (const device of this.#devices) device.leave();
  }
}

/** One device on its connection. */
class Device {
  readonly payloadBytes: number;
  readonly #load: HttpLoad;
  readonly #key: string;
  readonly #telemetry: Telemetry;
  /** A whole request; the events are written over for each. Its length never changes. */
  readonly #request: Buffer;
  readonly #bodyAt: number;
  readonly #eventBytes: number;
  readonly #reader = new HttpAnswerReader((status) => this.#answered(status));
  readonly #backlog: number[] = [];
  #backlogAt = 0;
  #firstSeq = 0;
  #dueMs = 0;
  #socket: Socket | undefined;
  #connected = false;
  #begun = false;
  #everOpen = false;
  #left = false;
  #inFlight = false;

  constructor(load: HttpLoad, n: number) {
    const { options } = load;
    this.#load = load;
    this.#key = options.key.replace("{n}", String(n));
    this.#telemetry = new Telemetry(this.#key);
    // Lines keep their terminator: it is part of the event.
    this.#eventBytes = this.#telemetry.bytes.length + (options.batch > 1 ? 1 : 0);
    this.payloadBytes = this.#eventBytes;
    const head = requestHead(options, n, this.#key, this.#eventBytes * options.batch);
    this.#bodyAt = head.length;
    this.#request = Buffer.concat([head, Buffer.alloc(this.#eventBytes * options.batch, "\n")]);
  }

  get waiting(): boolean {
    return this.#inFlight;
  }

  get late(): number {
    return this.#backlog.length - this.#backlogAt;
  }

  open(): void {
    const { host, port } = this.#load.options;
    this.#reader.reset();
    const socket = connect({
      host,
      port,
      noDelay: true,
      onread: {
        // Shared by all sockets: what was read is used up before the callback returns.
        buffer: READ_BUFFER,
        callback: (bytes) => {
          this.#reader.push(READ_BUFFER.subarray(0, bytes));
          return true;
        },
      },
    });
    this.#socket = socket;
    socket.on("connect", () => {
      this.#connected = true;
      if (this.#inFlight) this.#socket?.write(Buffer.from(this.#request));
      else this.#next();
      if (this.#everOpen) return;
      this.#everOpen = true;
      this.#load.gathering.arrived();
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      this.#connected = false;
      if (this.#left || (this.#load.stopping && !this.#inFlight)) return;
      if (this.#everOpen) this.#load.reconnects++;
      setTimeout(() => {
        if (!this.#left) this.open();
      }, RECONNECT_MS);
    });
  }

  begin(): void {
    this.#begun = true;
    this.#next();
  }

  due(dueMs: number): void {
    this.#backlog.push(dueMs);
    this.#next();
  }

  leave(): void {
    this.#left = true;
    this.#socket?.destroy();
  }

  #answered(status: number): void {
    if (!this.#inFlight) return;
    this.#inFlight = false;
    const { meter, options, refusals } = this.#load;
    if (status >= 200 && status < 300) {
      meter.acked(options.batch, performance.now() - this.#dueMs);
      options.onAcked?.(this.#key, this.#firstSeq, options.batch);
      this.#firstSeq += options.batch;
    } else refusals[status] = (refusals[status] ?? 0) + 1;
    this.#next();
  }

  #next(): void {
    const { options, stopping } = this.#load;
    if (!this.#connected || !this.#begun || this.#inFlight || stopping) return;
    if (options.rate === 0) {
      this.#dueMs = performance.now();
    } else {
      if (this.late === 0) return;
      this.#dueMs = this.#backlog[this.#backlogAt++] as number;
      if (this.#backlogAt === this.#backlog.length) {
        this.#backlog.length = 0;
        this.#backlogAt = 0;
      }
    }
    const timeMs = Date.now();
    for (let i = 0; i < options.batch; i++) {
      this.#telemetry.write(this.#firstSeq + i, timeMs);
      this.#request.set(this.#telemetry.bytes, this.#bodyAt + i * this.#eventBytes);
    }
    this.#inFlight = true;
    // A copy, since a socket may keep what it could not send at once.
    this.#socket?.write(Buffer.from(this.#request));
  }
}

const READ_BUFFER = Buffer.alloc(65_536);

function requestHead(options: HttpLoadOptions, n: number, key: string, bodyBytes: number): Buffer {
  const headers = {
    Host: `${options.host}:${options.port}`,
    "Content-Type": CONTENT_TYPE,
    "Content-Length": bodyBytes,
    "Routing-Key": key,
    ...(options.batch > 1 ? { "Event-Split": "lines" } : {}),
    ...authorization(options),
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.from(`POST /v1/stream/${options.stream.replace("{n}", String(n))} HTTP/1.1\r\n${lines.join("")}\r\n`);
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

const USAGE = `Appends telemetry over HTTP and prints one line of JSON.
  --host H           default 127.0.0.1
  --port N           default 8070
  --connections N    default 100
  --batch N          events in one request; default 1
  --rate N           events/s in all; default 0: as fast as the answers come
  --warmup S         default 1
  --seconds S        default 10
  --stream S/N       {n} is the connection's number; default bench/load
  --key K            default load-{n}
  --token T`;

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      host: { type: "string", default: "127.0.0.1" },
      port: { type: "string", default: "8070" },
      connections: { type: "string", default: "100" },
      batch: { type: "string", default: "1" },
      rate: { type: "string", default: "0" },
      warmup: { type: "string", default: "1" },
      seconds: { type: "string", default: "10" },
      stream: { type: "string", default: "bench/load" },
      key: { type: "string", default: "load-{n}" },
      token: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(USAGE);
  } else {
    const result = await runHttpLoad({
      host: values.host,
      port: Number(values.port),
      connections: Number(values.connections),
      batch: Number(values.batch),
      rate: Number(values.rate),
      warmupSeconds: Number(values.warmup),
      seconds: Number(values.seconds),
      stream: values.stream,
      key: values.key,
      token: values.token,
    });
    console.log(JSON.stringify(result));
  }
}
