import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { sleep, systemClock } from "@tributary/common/clock";
import { openFsObjectStore } from "@tributary/common/engines/fs-object-store";
import { ensureStream, type PubAck, parseAnswer } from "@tributary/common/engines/jetstream-api";
import { JetStreamLog } from "@tributary/common/engines/jetstream-log";
import { connectNats, type NatsLink } from "@tributary/common/engines/nats-connection";
import { hasCode } from "@tributary/common/errors";
import { decodeBlock } from "@tributary/common/format/block";
import { CORE_HEAP_GROWTH_PERCENT, countArraysAsHeap } from "@tributary/common/heap";
import { newId, STREAM_ID_BYTES } from "@tributary/common/names";
import type { Log } from "@tributary/common/ports/log";
import { systemRandom } from "@tributary/common/random";
import type { Container } from "@tributary/core/container/container";
import { createContainer } from "@tributary/core/container/create-container";
import { BlockMaker, placesOf, type WriterStream } from "./block-writer.ts";

/**
 * What the containers' way into their logs costs: blocks handed to containers in this process, at R3, with the lake behind them; and
 * in turns with that frames of the very lengths that came of it, published by nobody but a loop. Everything else a core does is left out of both.
 */
const EVENT_BYTES = 1_000;
const TIMEOUT_MS = 30_000;
const WINDOW_FRAMES = 4;
const BATCH_EVENTS = 256;
/** Both the engine's compiler and the servers find their pace meanwhile. */
const WARM_UP_MEGABYTES = 128;
const OVERLOADED_PAUSE_MS = 5;

export interface WalLoadResult {
  readonly eventsPerSecond: number;
  readonly containersMBPerSecond: number;
  readonly bareMBPerSecond: number;
  readonly frames: number;
  readonly meanFrameBytes: number;
}

/** Keeps how long each record was, for the peer. */
function recording(log: Log, lengths: number[]): Log & { bytes: number } {
  const recorder = {
    bytes: 0,
    get recordBytesMax() {
      return log.recordBytesMax ?? Number.MAX_SAFE_INTEGER;
    },
    state: () => log.state(),
    async append(data: Uint8Array, expectedLast: number) {
      lengths.push(data.length);
      const seq = await log.append(data, expectedLast);
      recorder.bytes += data.length;
      return seq;
    },
    read: (...args: Parameters<Log["read"]>) => log.read(...args),
    truncate: (throughSeq: number) => log.truncate(throughSeq),
    close: () => log.close(),
  };
  return recorder;
}

async function measure(link: NatsLink, options: { containers: number; writers: number; megabytes: number }): Promise<WalLoadResult> {
  const folder = mkdtempSync(join(tmpdir(), "tributary-wal-load-"));
  const run = newId(systemRandom, 4);
  const objects = await openFsObjectStore(folder);
  const lengths: number[] = [];
  const containers: Container[] = [];
  const logs: (Log & { bytes: number })[] = [];
  try {
    for (let id = 0; id < options.containers; id++) {
      const log = recording(await JetStreamLog.open(link, { name: `wal-load-${run}-${id}`, replicas: 3 }), lengths);
      logs.push(log);
      const container = createContainer({ id, epoch: 1, log, objects, clock: systemClock, random: systemRandom });
      await container.open();
      containers.push(container);
    }
    const streams = containers.map(({ id }): WriterStream => ({ id: newId(systemRandom, STREAM_ID_BYTES), segments: 10, container: id }));
    for (const [i, stream] of streams.entries()) {
      const segments = Array.from({ length: stream.segments }, (_, number) => ({ generation: 0, epoch: 0, number }));
      await containers[i]?.ensureStream({ id: stream.id, segments, contentType: "application/octet-stream", closed: false });
    }
    const keys = Array.from({ length: 10_000 }, (_, i) => `device-${i}`);
    const payload = randomBytes(4 * 1024 * 1024);
    const load = { streams, keys, places: placesOf(streams, keys), payload, eventBytes: EVENT_BYTES };
    // Made before the measurement, as they come from gateways.
    const writers = Array.from({ length: options.writers }, (_, n) => new BlockMaker(load, n * 997));
    const prepare = (megabytes: number) => {
      const batches = Math.max(1, Math.round((megabytes * 1e6) / (options.writers * BATCH_EVENTS * EVENT_BYTES)));
      return writers.map((maker) => Array.from({ length: batches }, () => maker.make(BATCH_EVENTS, Date.now())));
    };
    let events = 0;
    const append = (prepared: ReturnType<typeof prepare>) =>
      Promise.all(
        prepared.map(async (rounds) => {
          for (const blocks of rounds) {
            await Promise.all(
              blocks.map(async ({ container, events: count, bytes }) => {
                await appendTo(containers[container] as Container, bytes);
                events += count;
              }),
            );
          }
        }),
      );
    const [warmUp, prepared] = [prepare(WARM_UP_MEGABYTES), prepare(options.megabytes)];
    await append(warmUp);
    const before = { bytes: sum(logs), events, frames: lengths.length };
    const startedMs = performance.now();
    await append(prepared);
    const took = (performance.now() - startedMs) / 1_000;
    const bytes = sum(logs) - before.bytes;
    lengths.splice(0, before.frames);
    await Promise.all(containers.map((container) => container.close()));
    const bare = await publish(link, `bare-load-${run}`, options.containers, lengths);
    return {
      eventsPerSecond: Math.round((events - before.events) / took),
      containersMBPerSecond: bytes / took / 1e6,
      bareMBPerSecond: bare / 1e6,
      frames: lengths.length,
      meanFrameBytes: Math.round(lengths.reduce((total, length) => total + length, 0) / Math.max(1, lengths.length)),
    };
  } finally {
    await objects.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A container whose memory is full is asked again, as gateways do. */
async function appendTo(container: Container, bytes: Uint8Array): Promise<void> {
  for (;;) {
    try {
      await container.appendBlock(decodeBlock(bytes));
      return;
    } catch (error) {
      if (!hasCode(error, "OVERLOADED")) throw error;
    }
    await sleep(systemClock, OVERLOADED_PAUSE_MS);
  }
}

/** Bytes a second. */
async function publish(link: NatsLink, prefix: string, streams: number, lengths: readonly number[]): Promise<number> {
  const names = Array.from({ length: streams }, (_, i) => `${prefix}-${i}`);
  for (const name of names) {
    const config = { name, subjects: [name], storage: "file", num_replicas: 3, retention: "limits", discard: "new", allow_direct: false };
    await ensureStream(link, config, TIMEOUT_MS);
  }
  const content = randomBytes(Math.max(...lengths));
  let [bytes, next] = [0, 0];
  const lane = async (subject: string) => {
    while (next < lengths.length) {
      const frame = content.subarray(0, lengths[next++]);
      parseAnswer<PubAck>(await link.inbox.request(subject, frame, { timeoutMs: TIMEOUT_MS }));
      bytes += frame.length;
    }
  };
  const startedMs = performance.now();
  await Promise.all(names.flatMap((name) => Array.from({ length: WINDOW_FRAMES }, () => lane(name))));
  return bytes / ((performance.now() - startedMs) / 1_000);
}

const sum = (logs: readonly { readonly bytes: number }[]): number => logs.reduce((total, { bytes }) => total + bytes, 0);

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      nats: { type: "string", default: "nats://127.0.0.1:4222" },
      containers: { type: "string", default: "4" },
      writers: { type: "string", default: "64" },
      megabytes: { type: "string", default: "512" },
    },
  });
  // As in a core's process.
  countArraysAsHeap(CORE_HEAP_GROWTH_PERCENT);
  const link = await connectNats({ url: values.nats, name: "wal-load" });
  try {
    const { containers, writers, megabytes } = values;
    const options = { containers: Number(containers), writers: Number(writers), megabytes: Number(megabytes) };
    console.log(JSON.stringify(await measure(link, options)));
  } finally {
    await link.close();
  }
}
