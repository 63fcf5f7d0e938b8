import { connect, type Socket } from "node:net";
import { parseArgs } from "node:util";
import { Gathering } from "./gathering.ts";
import { LatencyHistogram } from "./latency-histogram.ts";
import { LoadMeter, type LoadResult } from "./load-result.ts";
import { startPacer } from "./pacer.ts";
import { Telemetry } from "./telemetry.ts";

export interface MqttLoadOptions {
  readonly host: string;
  readonly port: number;
  readonly connections: number;
  /** Publishes in flight on each connection. */
  readonly depth: number;
  readonly qos: 1 | 2;
  /** Events a second over all connections; 0: each acknowledgement is followed by the next publish. */
  readonly rate: number;
  /** Time before measuring begins, once all connections are there. */
  readonly warmupSeconds: number;
  readonly seconds: number;
  /** `{n}` is the connection's number: "bench/load" for one stream, "bench/s{n}" for one stream a device. */
  readonly topic: string;
  /** Also the name of the device in the payload. */
  readonly clientId: string;
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  /** Told of each acknowledgement (PUBACK, PUBCOMP): the device's event `seq` is durable. */
  readonly onAcked?: (device: string, seq: number) => void;
}

const RECONNECT_MS = 100;
const SETTLE_MS_MAX = 10_000;

/**
 * Publishes telemetry over MQTT and measures when it was acknowledged. Raw sockets with one shared read buffer and one write for each
 * burst: a client library would cost more CPU than the gateway under test. A connection that breaks comes back and sends again what was
 * not acknowledged, as a device does.
 */
export async function runMqttLoad(options: MqttLoadOptions): Promise<LoadResult> {
  const run = new MqttLoad(options);
  return run.measure();
}

class MqttLoad {
  readonly options: MqttLoadOptions;
  readonly meter: LoadMeter = new LoadMeter(new LatencyHistogram());
  readonly gathering: Gathering;
  readonly refusals: Record<string, number> = {};
  reconnects = 0;
  stopping = false;
  readonly #devices: Device[];

  constructor(options: MqttLoadOptions) {
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
        : startPacer(options.rate, (events) => {
            const dueMs = performance.now();
            for (let i = 0; i < events; i++) (this.#devices[next++ % this.#devices.length] as Device).due(dueMs);
          });
    await wait(options.warmupSeconds * 1000);
    this.meter.start();
    await wait(options.seconds * 1000);
    const measured = this.meter.stop();
    stopPacer();
    const eventsLate = this.#devices.reduce((sum, device) => sum + device.late, 0);
    await this.#settle();
    return {
      kind: "mqtt",
      connections: options.connections,
      depth: options.depth,
      eventsPerRequest: 1,
      rateAsked: options.rate,
      ...measured,
      payloadBytesPerEvent: this.#devices[0]?.payloadBytes ?? 0,
      connectMs,
      reconnects: this.reconnects,
      refusals: this.refusals,
      eventsLate,
    };
  }

  /** Sends nothing new, waits for what is in flight, and leaves. */
  async #settle(): Promise<void> {
    this.stopping = true;
    const untilMs = performance.now() + SETTLE_MS_MAX;
    while (this.#devices.some((device) => device.inFlight > 0) && performance.now() < untilMs) await wait(10);
    for (const device of this.#devices) device.leave();
  }
}

const FREE = 0;
const PUBLISHED = 1;
const RELEASED = 2;

/** One device on its connection. Slot `i` holds the publish in flight under packet id `i + 1`. */
class Device {
  readonly payloadBytes: number;
  readonly #load: MqttLoad;
  readonly #name: string;
  readonly #telemetry: Telemetry;
  /** A whole PUBLISH; packet id and payload are written over for each event. */
  readonly #packet: Buffer;
  readonly #packetIdAt: number;
  readonly #connect: Buffer;
  readonly #state: Uint8Array;
  readonly #seq: Float64Array;
  readonly #timeMs: Float64Array;
  readonly #dueMs: Float64Array;
  readonly #free: number[] = [];
  /** Due times of events that wait for a free slot. */
  readonly #backlog: number[] = [];
  #backlogAt = 0;
  #nextSeq = 0;
  #socket: Socket | undefined;
  #session = false;
  #begun = false;
  #everAccepted = false;
  #left = false;
  /** Bytes of an answer that has not fully arrived. */
  #rest: Buffer = Buffer.alloc(0);

  constructor(load: MqttLoad, n: number) {
    const { options } = load;
    this.#load = load;
    this.#name = options.clientId.replace("{n}", String(n));
    this.#telemetry = new Telemetry(this.#name);
    this.payloadBytes = this.#telemetry.bytes.length;
    const topic = Buffer.from(options.topic.replace("{n}", String(n)));
    const head = Buffer.from([0x30 | (options.qos << 1), ...remainingLength(2 + topic.length + 2 + this.payloadBytes)]);
    this.#packetIdAt = head.length + 2 + topic.length;
    this.#packet = Buffer.concat([head, lengthPrefixed(topic), Buffer.alloc(2), this.#telemetry.bytes]);
    this.#connect = connectPacket(this.#name, options);
    this.#state = new Uint8Array(options.depth);
    this.#seq = new Float64Array(options.depth);
    this.#timeMs = new Float64Array(options.depth);
    this.#dueMs = new Float64Array(options.depth);
    for (let slot = options.depth - 1; slot >= 0; slot--) this.#free.push(slot);
  }

  get inFlight(): number {
    return this.#state.length - this.#free.length;
  }

  get late(): number {
    return this.#backlog.length - this.#backlogAt;
  }

  open(): void {
    const { host, port } = this.#load.options;
    this.#rest = Buffer.alloc(0);
    this.#session = false;
    const socket = connect({
      host,
      port,
      noDelay: true,
      onread: {
        // Shared by all sockets: what was read is used up before the callback returns.
        buffer: READ_BUFFER,
        callback: (bytes) => {
          this.#receive(READ_BUFFER.subarray(0, bytes));
          return true;
        },
      },
    });
    this.#socket = socket;
    socket.on("connect", () => socket.write(this.#connect));
    socket.on("error", () => {});
    socket.on("close", () => {
      this.#session = false;
      if (this.#left || (this.#load.stopping && this.inFlight === 0)) return;
      if (this.#everAccepted) this.#load.reconnects++;
      setTimeout(() => {
        if (!this.#left) this.open();
      }, RECONNECT_MS);
    });
  }

  /** All connections are there. */
  begin(): void {
    this.#begun = true;
    if (this.#load.options.rate === 0) this.#fill();
  }

  due(dueMs: number): void {
    this.#backlog.push(dueMs);
    if (this.#free.length > 0) this.#fill();
  }

  leave(): void {
    this.#left = true;
    this.#socket?.end(Buffer.from([0xe0, 0]));
  }

  #receive(chunk: Buffer): void {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    let at = 0;
    // Every answer that a publisher gets has 4 bytes.
    for (; at + 4 <= bytes.length; at += 4) this.#answered(bytes[at] as number, bytes.readUInt16BE(at + 2));
    this.#rest = at === bytes.length ? NOTHING : Buffer.from(bytes.subarray(at));
    if (this.#session && this.#begun) this.#fill();
  }

  #answered(head: number, value: number): void {
    const slot = value - 1;
    if (head === 0x20) this.#connack(value & 0xff);
    else if (head === 0x50) {
      this.#state[slot] = RELEASED;
      this.#socket?.write(Buffer.from([0x62, 2, value >> 8, value & 0xff]));
    } else if (head === 0x40 || head === 0x70) {
      // An answer may come twice where a publish was sent twice.
      if (this.#state[slot] === FREE) return;
      this.#state[slot] = FREE;
      this.#free.push(slot);
      this.#load.meter.acked(1, performance.now() - (this.#dueMs[slot] as number));
      this.#load.options.onAcked?.(this.#name, this.#seq[slot] as number);
    }
  }

  #connack(code: number): void {
    if (code !== 0) {
      this.#load.refusals[`connack-${code}`] = (this.#load.refusals[`connack-${code}`] ?? 0) + 1;
      return;
    }
    this.#session = true;
    this.#resend();
    if (this.#everAccepted) return;
    this.#everAccepted = true;
    this.#load.gathering.arrived();
  }

  /** What was not acknowledged, in its order, as duplicates [MQTT-4.4.0-1]. */
  #resend(): void {
    const slots = [...this.#state.keys()].filter((slot) => this.#state[slot] !== FREE);
    slots.sort((a, b) => (this.#seq[a] as number) - (this.#seq[b] as number));
    const packets = slots.map((slot) => {
      if (this.#state[slot] === RELEASED) return Buffer.from([0x62, 2, (slot + 1) >> 8, (slot + 1) & 0xff]);
      this.#write(slot);
      const packet = Buffer.from(this.#packet);
      packet[0] = (packet[0] as number) | 8;
      return packet;
    });
    if (packets.length > 0) this.#socket?.write(Buffer.concat(packets));
  }

  /** Publishes into all free slots, in one write. */
  #fill(): void {
    if (!this.#session || this.#load.stopping) return;
    const closedLoop = this.#load.options.rate === 0;
    const count = closedLoop ? this.#free.length : Math.min(this.#free.length, this.late);
    if (count === 0) return;
    const now = performance.now();
    const timeMs = Date.now();
    const burst = Buffer.allocUnsafe(count * this.#packet.length);
    for (let i = 0; i < count; i++) {
      const slot = this.#free.pop() as number;
      this.#state[slot] = PUBLISHED;
      this.#seq[slot] = this.#nextSeq++;
      this.#timeMs[slot] = timeMs;
      this.#dueMs[slot] = closedLoop ? now : (this.#backlog[this.#backlogAt++] as number);
      this.#write(slot);
      burst.set(this.#packet, i * this.#packet.length);
    }
    if (this.#backlogAt === this.#backlog.length) {
      this.#backlog.length = 0;
      this.#backlogAt = 0;
    }
    this.#socket?.write(burst);
  }

  /** The slot's event into #packet. */
  #write(slot: number): void {
    this.#telemetry.write(this.#seq[slot] as number, this.#timeMs[slot] as number);
    this.#packet.writeUInt16BE(slot + 1, this.#packetIdAt);
    this.#packet.set(this.#telemetry.bytes, this.#packetIdAt + 2);
  }
}

const READ_BUFFER = Buffer.alloc(65_536);
const NOTHING = Buffer.alloc(0);

function connectPacket(clientId: string, options: MqttLoadOptions): Buffer {
  const { username, password, qos } = options;
  const cleanSession = qos === 1 ? 2 : 0;
  const flags = cleanSession | (username === undefined ? 0 : 128) | (password === undefined ? 0 : 64);
  const fields = [clientId, username, password].filter((field) => field !== undefined).map((field) => lengthPrefixed(Buffer.from(field)));
  const body = Buffer.concat([lengthPrefixed(Buffer.from("MQTT")), Buffer.from([4, flags, 0, 0]), ...fields]);
  return Buffer.concat([Buffer.from([0x10, ...remainingLength(body.length)]), body]);
}

function lengthPrefixed(bytes: Buffer): Buffer {
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 0xff]), bytes]);
}

function remainingLength(length: number): number[] {
  const bytes: number[] = [];
  for (let rest = length; ; rest >>= 7) {
    if (rest < 128) return [...bytes, rest];
    bytes.push((rest & 127) | 128);
  }
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

const USAGE = `Publishes telemetry over MQTT and prints one line of JSON.
  --host H           default 127.0.0.1
  --port N           default 1883
  --connections N    default 100
  --depth N          publishes in flight on each connection; default 1
  --qos 1|2          default 1
  --rate N           events/s in all; default 0: as fast as the answers come
  --warmup S         default 1
  --seconds S        default 10
  --topic T          {n} is the connection's number; default bench/load
  --client-id ID     default load-{n}
  --username U --password P`;

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      host: { type: "string", default: "127.0.0.1" },
      port: { type: "string", default: "1883" },
      connections: { type: "string", default: "100" },
      depth: { type: "string", default: "1" },
      qos: { type: "string", default: "1" },
      rate: { type: "string", default: "0" },
      warmup: { type: "string", default: "1" },
      seconds: { type: "string", default: "10" },
      topic: { type: "string", default: "bench/load" },
      "client-id": { type: "string", default: "load-{n}" },
      username: { type: "string" },
      password: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(USAGE);
  } else {
    const result = await runMqttLoad({
      host: values.host,
      port: Number(values.port),
      connections: Number(values.connections),
      depth: Number(values.depth),
      qos: values.qos === "2" ? 2 : 1,
      rate: Number(values.rate),
      warmupSeconds: Number(values.warmup),
      seconds: Number(values.seconds),
      topic: values.topic,
      clientId: values["client-id"],
      username: values.username,
      password: values.password,
    });
    console.log(JSON.stringify(result));
  }
}
