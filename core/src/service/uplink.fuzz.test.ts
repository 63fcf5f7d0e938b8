import { systemClock } from "@tributary/common/clock";
import { createMemoryBus } from "@tributary/common/engines/memory-bus";
import { TributaryError } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { CODEC } from "@tributary/common/format/compression";
import { mendBlock, putTogether, takeApart } from "@tributary/common/format/testing/sample-block";
import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import { fuzzBytes, fuzzValues } from "@tributary/common/testing/fuzz";
import { type AppendAnswer, SLICE_STATUS, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createContainer } from "../container/create-container.ts";
import { block } from "../container/testing/gateway.ts";
import { type Core, openCore } from "../core.ts";
import { seededRandom } from "./testing/fast-clock.ts";
import { gatewayBlock } from "./testing/gateway-block.ts";
import { MemoryLog, MemoryObjectStore } from "./testing/memory-engines.ts";
import { MemoryMetaStore } from "./testing/memory-meta-store.ts";

const beside = import.meta.url;
const CLUSTER = "test";
const WRITER = "0123456789abcdef0123456789abcdef";
const INCARNATION = "0011223344556677";
const NAME = { scope: "plant", stream: "press" };
const STREAM = "11".repeat(16);
const UNTOUCHED = "22".repeat(16);
const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} };
const bus = createMemoryBus();
let core: Core;

const wish = { name: NAME, provisionalId: STREAM, contentType: "text/plain", segments: 2, createdAtMs: 7, create: true };
const CONTROLS = [
  { type: "hello", writer: WRITER, incarnation: INCARNATION, parent: undefined, name: "gw", version: "1" },
  { type: "hello", writer: WRITER, incarnation: INCARNATION, parent: "8899aabbccddeeff", name: "gw", version: "1" },
  { type: "resolve", streams: [wish, { ...wish, create: false }] },
  { type: "fetch", name: NAME, writer: WRITER, offset: "-1", bytesMax: 100_000 },
  { type: "fetch", name: NAME, writer: WRITER, offset: "c1_0000000000000001_11111111", bytesMax: 1 },
];
const LEVELS = {
  writer: WRITER,
  entries: [{ streamId: STREAM, segment: { generation: 0, epoch: 0, number: 1 }, incarnation: INCARNATION, lane: "live" }],
};
const BLOCKS = [
  block({ writer: WRITER, incarnation: INCARNATION, lane: "live" }, [
    {
      streamId: STREAM,
      previous: 0,
      events: [
        { number: 1, data: "one" },
        { number: 3, data: "three", key: "k" },
      ],
    },
    { streamId: STREAM, segment: { generation: 0, epoch: 0, number: 1 }, previous: 0, events: [{ number: 2, data: "two" }] },
  ]).bytes,
  block({ writer: WRITER, incarnation: "8899aabbccddeeff", lane: "backlog" }, [
    { streamId: STREAM, previous: 0, parent: { incarnation: INCARNATION, last: 3 }, events: [{ number: 1, data: "child" }] },
  ]).bytes,
];

beforeAll(async () => {
  const logs = new Map<number, MemoryLog>();
  const objects = new MemoryObjectStore();
  const random = seededRandom(7);
  core = await openCore({
    meta: new MemoryMetaStore(),
    bus,
    objects,
    clock: systemClock,
    random,
    logger: SILENT,
    options: { cluster: CLUSTER, name: "aa", containers: 1, shared: undefined },
    containerFactory: (id, epoch) => {
      const log = logs.get(id) ?? new MemoryLog();
      logs.set(id, log);
      return createContainer({ id, epoch, log, objects, clock: systemClock, random, options: { flushIntervalMs: 20 } });
    },
  });
  await request(UPLINK_SUBJECTS.control(CLUSTER), encodeCbor({ type: "resolve", streams: [wish] }));
});
afterAll(() => core.close());

/** The answer; undefined for an error that a peer can act upon. INTERNAL, or none in time, is what this looks for. */
async function request(subject: string, payload: Uint8Array): Promise<unknown> {
  try {
    return decodeCbor(await bus.request(subject, payload, { timeoutMs: 10_000 }));
  } catch (error) {
    expect(error).toBeInstanceOf(TributaryError);
    const { code, message, cause } = error as TributaryError;
    if (code === "INTERNAL" || code === "BUS_TIMEOUT") throw new Error(`${code}: ${message}`, { cause: cause ?? error });
    return undefined;
  }
}

/** A gateway that sends what it should is served all the same. */
let sent = 0;
async function expectServed(): Promise<void> {
  const streams = [{ ...wish, name: { scope: "plant", stream: "untouched" }, provisionalId: UNTOUCHED }];
  await request(UPLINK_SUBJECTS.control(CLUSTER), encodeCbor({ type: "resolve", streams }));
  const good = gatewayBlock("ff".repeat(16), INCARNATION, [{ streamId: UNTOUCHED, first: ++sent, texts: ["good"] }]);
  const answer = (await request(UPLINK_SUBJECTS.append(CLUSTER, 0), good)) as AppendAnswer;
  expect(answer.slices).toEqual([[SLICE_STATUS.accepted, sent]]);
}

it("mutated control requests get an answer or a typed error", async () => {
  const subject = UPLINK_SUBJECTS.control(CLUSTER);
  await fuzzBytes({ name: "control-bytes", beside, seeds: CONTROLS.map(encodeCbor), run: (bytes) => request(subject, bytes) });
  await fuzzValues({ name: "control", beside, seeds: CONTROLS, run: (value) => request(subject, encodeCbor(value)) });
  await expectServed();
});

it("every stream that was created can be described", async () => {
  const late = { ...wish, name: { scope: "plant", stream: "late" }, provisionalId: "33".repeat(16), createdAtMs: Number.MAX_SAFE_INTEGER };
  expect(await request(UPLINK_SUBJECTS.control(CLUSTER), encodeCbor({ type: "resolve", streams: [late] }))).toBeUndefined();
  for (const { createdAtMs } of await core.streams.list({ limit: 10_000 }))
    expect(new Date(createdAtMs).toISOString()).toBeTypeOf("string");
});

it("mutated questions for levels get an answer or a typed error", async () => {
  const subject = UPLINK_SUBJECTS.levels(CLUSTER, 0);
  await fuzzBytes({ name: "levels-bytes", beside, seeds: [encodeCbor(LEVELS)], run: (bytes) => request(subject, bytes) });
  await fuzzValues({ name: "levels", beside, seeds: [LEVELS], run: (value) => request(subject, encodeCbor(value)) });
  await expectServed();
});

it("mutated blocks are appended, refused slice by slice, or get a typed error", async () => {
  const subject = UPLINK_SUBJECTS.append(CLUSTER, 0);
  await fuzzBytes({ name: "append-bytes", beside, seeds: BLOCKS, mend: mendBlock, run: (bytes) => request(subject, bytes) });
  await fuzzValues({
    name: "append",
    beside,
    seeds: BLOCKS.map(takeApart),
    run: async (value) => {
      const { index, chunks } = (value ?? {}) as { index?: unknown; chunks?: unknown };
      const bytes = Array.isArray(chunks) ? chunks.filter((chunk) => chunk instanceof Uint8Array) : [];
      await request(
        subject,
        putTogether({ index, chunks: bytes }, (raw) => ({ codec: CODEC.raw, bytes: raw })),
      );
    },
  });
  await expectServed();
});

it("what was taken can be read, or its reader is told what is wrong with it", async () => {
  let offset = "-1";
  for (let pages = 0; pages < 100; pages++) {
    try {
      const page = await core.streams.read(NAME, { offset, eventsMax: 1_000, bytesMax: LIMITS.readPageBytesMax });
      offset = page.nextOffset;
      if (page.upToDate) break;
    } catch (error) {
      expect(error).toMatchObject({ code: "BLOCK_CORRUPT" });
      break;
    }
  }
});
