import type { GapSlice } from "@tributary/common/format/block";
import type { AppendRequest } from "@tributary/common/stream-service";
import { SLICE_STATUS } from "@tributary/common/uplink-protocol";
import { describe, expect, it } from "vitest";
import { Bench, pack, request, STREAM, WRITER } from "./testing/bench.ts";
import { block, numbered, SEGMENT } from "./testing/gateway.ts";

const decoder = new TextDecoder();
const OK = SLICE_STATUS.accepted;

describe("blocks of gateways", () => {
  it("are appended once, trimmed where they overlap, and refused behind a gap", async () => {
    const bench = new Bench();
    const container = await bench.open();
    const first = block(WRITER, [{ streamId: STREAM, previous: 0, events: numbered(1, 3) }]);
    expect(await bench.until(container.appendBlock(first))).toEqual({ slices: [[SLICE_STATUS.streamGone, 0]] });
    await bench.stream(container);
    const send = async (previous: number, from: number, to: number, tag = "") =>
      (await bench.until(container.appendBlock(block(WRITER, [{ streamId: STREAM, previous, events: numbered(from, to, tag) }]))))
        .slices[0];
    expect(await send(0, 1, 3)).toEqual([OK, 3]);
    expect(await send(0, 1, 3)).toEqual([OK, 3]);
    expect(await send(0, 1, 3, "x")).toEqual([SLICE_STATUS.forked, 3]);
    expect(await send(4, 5, 6)).toEqual([SLICE_STATUS.previousNotReached, 3]);
    expect(await send(1, 2, 6)).toEqual([OK, 6]);
    expect(await send(1, 2, 7, "x")).toEqual([SLICE_STATUS.forked, 6]);
    expect(await send(6, 9, 9)).toEqual([OK, 9]);
    expect(await bench.texts(container)).toEqual(["1", "2", "3", "4", "5", "6", "9"]);
    const events = await bench.readAll(container);
    expect(events.map((event) => [event.segment, event.ordinal, event.number])).toEqual(
      [1, 2, 3, 4, 5, 6, 9].map((number, i) => ["0.0.0", i, number]),
    );
    expect(bench.failures).toEqual([]);
  });

  it("wait for the parent incarnation, and each lane counts for itself", async () => {
    const bench = new Bench();
    const container = await bench.open();
    await bench.stream(container);
    const send = async (incarnation: string, previous: number, from: number, to: number, parent?: { incarnation: string; last: number }) =>
      (
        await bench.until(
          container.appendBlock(
            block({ ...WRITER, incarnation }, [{ streamId: STREAM, previous, events: numbered(from, to), ...(parent ? { parent } : {}) }]),
          ),
        )
      ).slices[0];
    const [a, b] = ["1".repeat(16), "2".repeat(16)];
    expect(await send(b, 0, 1, 1, { incarnation: a, last: 2 })).toEqual([SLICE_STATUS.parentNotReached, 0]);
    expect(await send(a, 0, 1, 1)).toEqual([OK, 1]);
    expect(await send(b, 0, 1, 1, { incarnation: a, last: 2 })).toEqual([SLICE_STATUS.parentNotReached, 1]);
    expect(await send(a, 1, 2, 2)).toEqual([OK, 2]);
    expect(await send(b, 3, 4, 4)).toEqual([SLICE_STATUS.previousNotReached, 0]);
    expect(await send(b, 0, 1, 1, { incarnation: a, last: 2 })).toEqual([OK, 1]);
    const backlog = block({ ...WRITER, incarnation: b, lane: "backlog" }, [{ streamId: STREAM, previous: 0, events: numbered(1, 1) }]);
    expect((await bench.until(container.appendBlock(backlog))).slices).toEqual([[OK, 1]]);
    expect(await bench.texts(container)).toHaveLength(4);
  });

  it("carry gap records, which advance the number and take one ordinal", async () => {
    const bench = new Bench();
    const container = await bench.open();
    await bench.stream(container);
    const gap = (previous: number, first: number, last: number): GapSlice => ({
      kind: "gap",
      streamId: STREAM,
      segment: SEGMENT,
      previous,
      first,
      last,
      count: last - first + 1,
      reason: "quota",
      timeMinMs: 1,
      timeMaxMs: 2,
    });
    const send = async (value: ReturnType<typeof block>) => (await bench.until(container.appendBlock(value))).slices;
    expect(await send(block(WRITER, [{ streamId: STREAM, previous: 0, events: numbered(1, 2) }], [gap(2, 3, 10)]))).toEqual([
      [OK, 2],
      [OK, 10],
    ]);
    expect(await send(block(WRITER, [], [gap(2, 3, 10)]))).toEqual([[OK, 10]]);
    expect(await send(block(WRITER, [], [gap(2, 3, 12)]))).toEqual([[OK, 12]]);
    // Events that the gap stands for, from before it was written: known, and no fork.
    expect(await send(block(WRITER, [{ streamId: STREAM, previous: 10, events: numbered(11, 12) }]))).toEqual([[OK, 12]]);
    expect(await send(block(WRITER, [{ streamId: STREAM, previous: 10, events: numbered(11, 13) }]))).toEqual([[OK, 13]]);
    expect(await bench.texts(container)).toEqual(["1", "2", "gap 3+8", "gap 11+2", "13"]);
  });

  it("are answered slice by slice", async () => {
    const bench = new Bench();
    const container = await bench.open();
    await bench.stream(container);
    const other = { ...SEGMENT, number: 5 };
    const gone = "d".repeat(32);
    const mixed = block(WRITER, [
      { streamId: STREAM, previous: 0, events: numbered(1, 1) },
      { streamId: STREAM, segment: other, previous: 0, events: numbered(2, 2) },
      { streamId: gone, previous: 0, events: numbered(1, 1) },
      { streamId: STREAM, previous: 1, events: numbered(3, 3) },
    ]);
    expect((await bench.until(container.appendBlock(mixed))).slices).toEqual([
      [OK, 1],
      [SLICE_STATUS.wrongContainer, 0],
      [SLICE_STATUS.streamGone, 0],
      [OK, 3],
    ]);
    await bench.until(container.append(STREAM, { events: undefined, contentType: undefined, close: true }));
    const late = block(WRITER, [{ streamId: STREAM, previous: 3, events: numbered(4, 4) }]);
    expect((await bench.until(container.appendBlock(late))).slices).toEqual([[SLICE_STATUS.sealed, 3]]);
    const known = block(WRITER, [{ streamId: STREAM, previous: 1, events: numbered(3, 3) }]);
    expect((await bench.until(container.appendBlock(known))).slices).toEqual([[OK, 3]]);
  });
});

describe("own appends", () => {
  it("with much in their keys fit into blocks", async () => {
    const bench = new Bench();
    const container = await bench.open();
    await bench.stream(container);
    // Keys that do not compress, three bytes a character, in a request that is just small enough for a frame.
    const key = () => String.fromCharCode(...Array.from({ length: 85 }, () => 0x4e00 + Math.floor(bench.world.random.float() * 20_000)));
    const keys = Array.from({ length: 28_000 }, key);
    const events = { count: keys.length, payload: new Uint8Array(keys.length), ends: keys.map((_, i) => i + 1), keys, timesMs: undefined };
    await bench.until(container.append(STREAM, { events, contentType: undefined }));
    const page = await bench.until(container.read(STREAM, 27_999, { eventsMax: 1, bytesMax: 1 }));
    expect(page.events[0]?.key).toBe(keys[27_999]);
    expect(bench.failures).toEqual([]);
  });

  it("of many callers share a frame and keep their order", async () => {
    const bench = new Bench();
    const container = await bench.open();
    await bench.stream(container, STREAM, 4);
    const keys = Array.from({ length: 20 }, (_, i) => `key-${i}`);
    const results = await bench.until(
      Promise.all(keys.map((key, i) => container.append(STREAM, { events: pack([`${i}a`, `${i}b`], [key, key]), contentType: undefined }))),
    );
    expect(results.every((result) => !result.duplicate && !result.closed)).toBe(true);
    expect(bench.world.last).toBe(3);
    const events = await bench.readAll(container);
    expect(Math.max(...results.map((result) => result.nextChain))).toBe(40);
    for (const [i, key] of keys.entries()) {
      const own = events.filter((event) => event.key === key);
      expect(own.map((event) => decoder.decode(event.data))).toEqual([`${i}a`, `${i}b`]);
      expect(new Set(own.map((event) => event.segment)).size).toBe(1);
    }
    const lengths = container.describe(STREAM)?.segmentLengths.map((segment) => segment.length) ?? [];
    expect(lengths.reduce((sum, length) => sum + length, 0)).toBe(40);
    expect(lengths.every((length) => length > 0)).toBe(true);
  });

  it("follow the rules of idempotent producers, Stream-Seq and closing, also after a restart", async () => {
    const bench = new Bench();
    let container = await bench.open();
    await bench.stream(container);
    const producer = (seq: number, epoch = 0) => ({ producer: { id: "p", epoch, seq } });
    const append = async (more: Partial<AppendRequest>, texts = ["x"]) => {
      const { ancestry: _, ...result } = await bench.until(container.append(STREAM, request(texts, more)));
      return result;
    };
    const code = (more: Partial<AppendRequest>) => bench.error(container.append(STREAM, request(["never"], more)));
    expect((await code(producer(1))).details).toEqual({ expectedSeq: 0, receivedSeq: 1 });
    expect(await append(producer(0))).toEqual({ duplicate: false, nextChain: 1, closed: false, producerSeq: 0 });
    expect(await append(producer(1), ["y", "z"])).toEqual({ duplicate: false, nextChain: 3, closed: false, producerSeq: 1 });
    for (let round = 0; round < 3; round++) {
      expect(await append(producer(0), ["never"])).toEqual({ duplicate: true, nextChain: 3, closed: false, producerSeq: 1 });
      expect((await code(producer(3))).code).toBe("PRODUCER_SEQUENCE_GAP");
      expect((await code(producer(2, 1))).code).toBe("PRODUCER_HEADERS_INVALID");
      if (round === 0) container = await bench.open();
      if (round === 1) {
        await bench.until(container.close());
        container = await bench.open();
      }
    }
    expect(await append(producer(0, 4))).toMatchObject({ duplicate: false, nextChain: 4 });
    expect((await code(producer(2, 0))).details).toEqual({ producerEpoch: 4 });
    expect(await append({ streamSeq: "b" })).toMatchObject({ nextChain: 5 });
    expect((await code({ streamSeq: "b" })).code).toBe("SEQUENCE_CONFLICT");
    expect((await code({ contentType: "application/json" })).code).toBe("CONTENT_TYPE_MISMATCH");
    expect(await append({ ...producer(1, 4), close: true }, ["last"])).toEqual({
      duplicate: false,
      nextChain: 6,
      closed: true,
      producerSeq: 1,
    });
    container = await bench.open();
    expect(await append({ ...producer(1, 4), close: true }, ["last"])).toEqual({
      duplicate: true,
      nextChain: 6,
      closed: true,
      producerSeq: 1,
    });
    expect(await code(producer(2, 4))).toMatchObject({ code: "STREAM_CLOSED", details: { nextChain: 6 } });
    expect(await bench.until(container.append(STREAM, { events: undefined, contentType: undefined, close: true }))).toMatchObject({
      closed: true,
      nextChain: 6,
    });
    expect(await bench.texts(container)).toEqual(["x", "y", "z", "x", "x", "last"]);
    await bench.until(container.deleteStream(STREAM));
    expect((await code({})).code).toBe("STREAM_UNKNOWN");
    expect(container.describe(STREAM)).toBeUndefined();
    container = await bench.open();
    expect(container.knowsStream(STREAM)).toBe(false);
    expect(bench.failures.map((error) => error.code)).toEqual([]);
  });

  it("come before what closes or deletes their stream in the same frame", async () => {
    const bench = new Bench();
    const container = await bench.open();
    await bench.stream(container);
    const append = container.append(STREAM, request(["last words"]));
    const gone = container.deleteStream(STREAM);
    const late = container.append(STREAM, request(["too late"]));
    expect((await bench.error(late)).code).toBe("STREAM_UNKNOWN");
    expect(await bench.until(append)).toMatchObject({ nextChain: 1 });
    await bench.until(gone);
    expect(bench.world.last).toBe(3);
    expect(bench.failures).toEqual([]);
  });

  it("make no stream out of one whose deletion is decided before it was ever registered", async () => {
    const bench = new Bench();
    const container = await bench.open();
    const deleting = container.deleteStream(STREAM);
    const registering = container.ensureStream({ id: STREAM, segments: [SEGMENT], contentType: "a/b", closed: false });
    expect((await bench.error(registering)).code).toBe("STREAM_GONE");
    await bench.until(deleting);
    expect(container.knowsStream(STREAM)).toBe(false);
  });

  it("that fit in no record of the log are refused, and smaller ones go on", async () => {
    const bench = new Bench();
    bench.wrapLog = (log) => ({ ...log, recordBytesMax: 20_000 });
    const container = await bench.open();
    await bench.stream(container);
    expect((await bench.error(container.append(STREAM, request(["x".repeat(21_000)])))).code).toBe("BATCH_TOO_LARGE");
    const texts = Array.from({ length: 10 }, (_, i) => String(i).repeat(9_000));
    await bench.until(Promise.all(texts.map((text) => container.append(STREAM, request([text])))));
    expect(await bench.texts(container)).toEqual(texts);
    for (const record of bench.world.history) expect(record.length).toBeLessThanOrEqual(20_000);
  });

  it("are split over blocks where they are large", async () => {
    const bench = new Bench();
    const container = await bench.open();
    await bench.stream(container);
    const texts = Array.from({ length: 5 }, (_, i) => String(i).repeat(600_000));
    expect(await bench.until(container.append(STREAM, request(texts)))).toMatchObject({ nextChain: 5 });
    expect(await bench.texts(container)).toEqual(texts);
    expect(bench.world.last).toBe(3);
  });
});
