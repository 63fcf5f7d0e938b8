import { randomBytes } from "node:crypto";
import { parseArgs } from "node:util";
import { systemClock } from "@tributary/common/clock";
import { NatsBus } from "@tributary/common/engines/nats-bus";
import { connectNats } from "@tributary/common/engines/nats-connection";
import { hasCode } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { countArraysAsHeap } from "@tributary/common/heap";
import { LIMITS } from "@tributary/common/limits";
import { newId, STREAM_ID_BYTES } from "@tributary/common/names";
import { systemRandom } from "@tributary/common/random";
import { type AppendAnswer, type ResolveAnswer, SLICE_STATUS, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import { BlockMaker, placesOf, type WriterStream } from "./block-writer.ts";
import { LatencyHistogram } from "./latency-histogram.ts";
import { LoadMeter, type LoadResult } from "./load-result.ts";
import { startPacer } from "./pacer.ts";

export interface WriterLoadOptions {
  readonly nats: string;
  readonly cluster: string;
  readonly streams: number;
  /** Of each stream. */
  readonly segments: number;
  readonly writers: number;
  /** Events a second over all writers; 0: each writer has always `window` requests under way. */
  readonly rate: number;
  readonly eventBytes: number;
  /** Most payload bytes of one writer's batch. */
  readonly batchBytesMax: number;
  /** A writer's batch waits this long for more events. */
  readonly lingerMs: number;
  readonly window: number;
  readonly warmupSeconds: number;
  readonly seconds: number;
}

const TIMEOUT_MS = 30_000;
const REFUSED_PAUSE_MS = 20;
/** Keys are many for each segment, as devices are. */
const KEYS_PER_SEGMENT = 4;
const KEYS_MIN = 10_000;

/** Blocks of numbered events straight into the containers, as gateways send them. */
export async function runWriterLoad(options: WriterLoadOptions): Promise<LoadResult> {
  const startedMs = performance.now();
  const link = await connectNats({ url: options.nats, name: "writer-load" });
  const bus = new NatsBus(link);
  try {
    const streams = await resolveStreams(bus, options);
    const keyCount = Math.max(KEYS_MIN, KEYS_PER_SEGMENT * options.segments * options.streams);
    const keys = Array.from({ length: keyCount }, (_, i) => `device-${i}`);
    const payload = randomBytes(4 * 1024 * 1024);
    const load = { streams, keys, places: placesOf(streams, keys), payload, eventBytes: options.eventBytes };
    const meter = new LoadMeter(new LatencyHistogram());
    const writers = Array.from({ length: options.writers }, (_, n) => {
      const maker = new BlockMaker(load, Math.floor((n * keyCount) / options.writers));
      return new Writer(maker, bus, options, meter);
    });
    const connectMs = performance.now() - startedMs;
    let next = 0;
    const stopPacer =
      options.rate === 0
        ? () => {}
        : startPacer(options.rate, (events) => {
            const dueMs = performance.now();
            for (let i = 0; i < events; i++) (writers[next++ % writers.length] as Writer).due(dueMs);
          });
    for (const writer of writers) writer.begin();
    await wait(options.warmupSeconds * 1000);
    meter.start();
    await wait(options.seconds * 1000);
    const measured = meter.stop();
    stopPacer();
    const eventsLate = writers.reduce((sum, writer) => sum + writer.late, 0);
    await Promise.all(writers.map((writer) => writer.end()));
    const refusals: Record<string, number> = {};
    for (const writer of writers) for (const [why, count] of writer.refusals) refusals[why] = (refusals[why] ?? 0) + count;
    return {
      kind: "writer",
      connections: options.writers,
      depth: options.window,
      eventsPerRequest: Math.floor(options.batchBytesMax / options.eventBytes),
      rateAsked: options.rate,
      ...measured,
      payloadBytesPerEvent: options.eventBytes,
      connectMs,
      reconnects: 0,
      refusals,
      eventsLate,
    };
  } finally {
    await bus.close();
    await link.close();
  }
}

async function resolveStreams(bus: NatsBus, { cluster, streams, segments }: WriterLoadOptions): Promise<WriterStream[]> {
  const run = newId(systemRandom, 4);
  const found: WriterStream[] = [];
  for (let at = 0; at < streams; at += LIMITS.resolveStreamsMax) {
    const wishes = Array.from({ length: Math.min(LIMITS.resolveStreamsMax, streams - at) }, (_, i) => ({
      name: { scope: "bench", stream: `writers-${run}-${at + i}` },
      provisionalId: newId(systemRandom, STREAM_ID_BYTES),
      contentType: "application/octet-stream",
      segments,
      createdAtMs: systemClock.nowMs(),
      create: true,
    }));
    const request = encodeCbor({ type: "resolve", streams: wishes });
    const answer = decodeCbor(await bus.request(UPLINK_SUBJECTS.control(cluster), request, { timeoutMs: TIMEOUT_MS })) as ResolveAnswer;
    for (const { id, containers, problem } of answer.streams) {
      if (id === undefined || containers[0] === undefined) throw new Error(`a stream could not be created: ${problem}`);
      found.push({ id, segments, container: containers[0] });
    }
  }
  return found;
}

class Writer {
  readonly refusals = new Map<string, number>();
  readonly #maker: BlockMaker;
  readonly #bus: NatsBus;
  readonly #options: WriterLoadOptions;
  readonly #meter: LoadMeter;
  readonly #eventsMax: number;
  /** When the events that wait became due. */
  #due: number[] = [];
  #inFlight = 0;
  #timer: NodeJS.Timeout | undefined;
  #ended = false;
  #idle: (() => void) | undefined;

  constructor(maker: BlockMaker, bus: NatsBus, options: WriterLoadOptions, meter: LoadMeter) {
    this.#maker = maker;
    this.#bus = bus;
    this.#options = options;
    this.#meter = meter;
    this.#eventsMax = Math.max(1, Math.floor(options.batchBytesMax / options.eventBytes));
  }

  get late(): number {
    return this.#due.length;
  }

  begin(): void {
    if (this.#options.rate > 0) return;
    while (this.#inFlight < this.#options.window && !this.#ended) this.#send(this.#eventsMax, performance.now(), undefined);
  }

  due(dueMs: number): void {
    this.#due.push(dueMs);
    if (this.#due.length >= this.#eventsMax) this.#flush();
    else this.#timer ??= setTimeout(() => this.#flush(), this.#options.lingerMs);
  }

  end(): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#timer);
    if (this.#inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#idle = resolve;
    });
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    while (this.#due.length > 0 && this.#inFlight < this.#options.window && !this.#ended) {
      const dues = this.#due.splice(0, this.#eventsMax);
      this.#send(dues.length, dues[0] as number, dues);
    }
  }

  /** False: it is to be sent again, as a gateway does where the core has no room, or had none for the block before it. */
  async #isTaken(container: number, bytes: Uint8Array): Promise<boolean> {
    let answer: Uint8Array;
    try {
      answer = await this.#bus.request(UPLINK_SUBJECTS.append(this.#options.cluster, container), bytes, { timeoutMs: TIMEOUT_MS });
    } catch (error) {
      if (!hasCode(error, "OVERLOADED") || this.#ended) throw error;
      this.#noteRefusal("OVERLOADED, sent again");
      return false;
    }
    const refused = (decodeCbor(answer) as AppendAnswer).slices.find(([status]) => status !== SLICE_STATUS.accepted);
    if (refused && (this.#ended || refused[0] !== SLICE_STATUS.previousNotReached)) throw new Error(`slice status ${refused[0]}`);
    return !refused;
  }

  #noteRefusal(why: string, count = 1): void {
    this.refusals.set(why, (this.refusals.get(why) ?? 0) + count);
  }

  #send(events: number, dueMs: number, dues: readonly number[] | undefined): void {
    this.#inFlight++;
    const blocks = this.#maker.make(events, Date.now());
    const sendings = blocks.map(async ({ container, bytes }) => {
      while (!(await this.#isTaken(container, bytes))) await wait(REFUSED_PAUSE_MS);
    });
    Promise.all(sendings)
      .then(
        () => {
          const nowMs = performance.now();
          if (dues) for (const due of dues) this.#meter.acked(1, nowMs - due);
          else this.#meter.acked(events, nowMs - dueMs);
        },
        (error: unknown) => {
          // Numbers are missing from now on: this writer is of no use any more.
          const why = error instanceof Error ? error.message : String(error);
          this.#noteRefusal(why, events);
          this.#ended = true;
        },
      )
      .finally(() => {
        this.#inFlight--;
        if (this.#ended) {
          if (this.#inFlight === 0) this.#idle?.();
        } else if (this.#options.rate > 0) this.#flush();
        else this.begin();
      });
  }
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

const USAGE = `Sends blocks to the core over NATS, as gateways do, and prints one line of JSON.
  --nats URL  --cluster NAME (local)  --streams N (10)  --segments N of each (1)  --writers N (10)
  --rate EVENTS/S (0: as fast as the answers come)  --bytes N of an event (1000)  --batch-bytes N (65536)
  --linger MS (5)  --window REQUESTS of each writer (2)  --warmup S (2)  --seconds S (8)`;

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      nats: { type: "string", default: "nats://127.0.0.1:4222" },
      cluster: { type: "string", default: "local" },
      streams: { type: "string", default: "10" },
      segments: { type: "string", default: "1" },
      writers: { type: "string", default: "10" },
      rate: { type: "string", default: "0" },
      bytes: { type: "string", default: "1000" },
      "batch-bytes": { type: "string", default: "65536" },
      linger: { type: "string", default: "5" },
      window: { type: "string", default: "2" },
      warmup: { type: "string", default: "2" },
      seconds: { type: "string", default: "8" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) console.log(USAGE);
  else {
    countArraysAsHeap();
    const result = await runWriterLoad({
      nats: values.nats,
      cluster: values.cluster,
      streams: Number(values.streams),
      segments: Number(values.segments),
      writers: Number(values.writers),
      rate: Number(values.rate),
      eventBytes: Number(values.bytes),
      batchBytesMax: Number(values["batch-bytes"]),
      lingerMs: Number(values.linger),
      window: Number(values.window),
      warmupSeconds: Number(values.warmup),
      seconds: Number(values.seconds),
    });
    console.log(JSON.stringify(result));
  }
}
