import { crc32c } from "@tributary/common/checksum";
import { TributaryError } from "@tributary/common/errors";
import { type Block, decodeBlock } from "@tributary/common/format/block";
import { joined } from "@tributary/common/object-data";
import { SLICE_STATUS } from "@tributary/common/uplink-protocol";
import { describe, expect, it } from "vitest";
import type { Container } from "./container.ts";
import { FRAME_KIND, WAL_START } from "./counting.ts";
import { Bench, request, STREAM, WRITER } from "./testing/bench.ts";
import { block, numbered, SEGMENT } from "./testing/gateway.ts";
import { encodeFrame } from "./wal-frame.ts";

const FLUSH_ALWAYS = { flushBytes: 1, truncateBytes: 1 };
const numbers = (count: number) => Array.from({ length: count }, (_, i) => String(i + 1));

async function fill(bench: Bench, container: Container, from: number, to: number): Promise<void> {
  for (let number = from; number <= to; number++) {
    const events = numbered(number, number);
    await bench.until(container.appendBlock(block(WRITER, [{ streamId: STREAM, previous: number - 1, events }])));
  }
}

function levels(container: Container): readonly [number, number] | undefined {
  const { incarnation, lane, writer } = WRITER;
  return container.levels({ writer, entries: [{ streamId: STREAM, segment: SEGMENT, incarnation, lane }] }).entries[0];
}

const tieredAll = (container: Container) => () => container.status().eventsTiered === container.status().eventsDurable;

describe("a flush", () => {
  it("brings events and state into the tier, then lets go of memory and WAL", async () => {
    const bench = new Bench();
    const container = await bench.open({ ...FLUSH_ALWAYS, checkpointObjectsMax: 2 });
    const told: number[] = [];
    container.onTiered((id) => told.push(id));
    await bench.stream(container);
    expect(levels(container)).toEqual([0, 0]);
    for (let round = 0; round < 6; round++) {
      await fill(bench, container, round * 5 + 1, round * 5 + 5);
      expect(levels(container)?.[0]).toBe(round * 5 + 5);
      await bench.settle(tieredAll(container));
      expect(levels(container)).toEqual([round * 5 + 5, round * 5 + 5]);
      expect(await bench.texts(container)).toEqual(numbers(round * 5 + 5));
    }
    expect(told.length).toBeGreaterThan(5);
    expect(new Set(told)).toEqual(new Set([3]));
    expect(container.status().bytesInMemory).toBeLessThan(1_000);
    expect(bench.world.first).toBeGreaterThan(20);
    expect(bench.lake.every((name) => /^g0\/c00003\/(blocks|snapshot)\/\d{10}-\d{10}-\d{16}\.trib$/.test(name))).toBe(true);
    const next = await bench.open(FLUSH_ALWAYS);
    expect(levels(next)).toEqual([30, 30]);
    expect(next.status()).toMatchObject({ eventsDurable: 30, eventsTiered: 30 });
    expect(await bench.texts(next)).toEqual(numbers(30));
    await fill(bench, next, 30, 31);
    expect(await bench.texts(next)).toEqual(numbers(31));
  });

  it("on closing leaves nothing to replay", async () => {
    const bench = new Bench();
    const container = await bench.open();
    await bench.stream(container);
    await fill(bench, container, 1, 3);
    expect(bench.lake).toEqual([]);
    await bench.until(container.close());
    expect(bench.lake).toHaveLength(1);
    expect(bench.world.last - bench.world.first).toBe(0);
    expect((await bench.error(container.append(STREAM, request(["x"])))).code).toBe("SHUTTING_DOWN");
    expect(await bench.texts(await bench.open())).toEqual(numbers(3));
  });

  it("is carried through although the store fails or leaves its results unknown", async () => {
    const bench = new Bench();
    const container = await bench.open(FLUSH_ALWAYS);
    await bench.stream(container);
    bench.world.faults = { landed: 0, lost: 0, late: 0, object: 0.7 };
    await fill(bench, container, 1, 8);
    await bench.settle(tieredAll(container));
    bench.world.faults = { landed: 0, lost: 0, late: 0, object: 0 };
    expect(await bench.texts(container)).toEqual(numbers(8));
    expect(bench.failures).toEqual([]);
  });

  it("truncates nothing when the store gives back other bytes than it took", async () => {
    for (const damage of [
      (data: Uint8Array) => data.subarray(1),
      (data: Uint8Array) => data.map((byte, i) => (i === 40 ? byte ^ 1 : byte)),
    ]) {
      const bench = new Bench();
      bench.wrapStore = (store) => ({ ...store, put: (name, data) => store.put(name, damage(joined(data))) });
      const container = await bench.open(FLUSH_ALWAYS);
      const stream = bench.stream(container).catch(() => {});
      await bench.settle(() => bench.failures.length > 0);
      await stream;
      expect(bench.failures[0]?.code).toBe("STORE_CORRUPT");
      expect(bench.world.first).toBe(1);
      expect((await bench.error(container.append(STREAM, request(["x"])))).code).toBe("CONTAINER_NOT_OWNED");
      bench.wrapStore = (store) => store;
      const next = await bench.open(FLUSH_ALWAYS);
      await bench.stream(next);
      await fill(bench, next, 1, 2);
      await bench.settle(tieredAll(next));
      expect(await bench.texts(await bench.open())).toEqual(numbers(2));
    }
  });

  it("raises levels only for what it carried, and does not bring back what was deleted meanwhile", async () => {
    const other = "9".repeat(32);
    const bench = new Bench();
    let puts = 0;
    let released = 0;
    bench.wrapStore = (store) => ({
      ...store,
      put: async (name, data) => {
        if (name.includes("/epochs/")) return store.put(name, data);
        const turn = ++puts;
        while (turn > released) await new Promise<void>((resolve) => bench.world.clock.setTimer(1, resolve));
        return store.put(name, data);
      },
    });
    const container = await bench.open({ flushBytes: 3_000 });
    await bench.stream(container);
    await bench.stream(container, other);
    await bench.until(container.append(other, request(["old life"])));
    await fill(bench, container, 1, 2);
    await bench.settle(() => puts === 1);
    await fill(bench, container, 3, 4);
    await bench.until(container.deleteStream(other));
    released = 1;
    const seen: unknown[] = [];
    container.onTiered(() => seen.push(levels(container)));
    await bench.settle(() => seen.length > 0);
    expect([
      [4, 1],
      [4, 2],
    ]).toContainEqual(seen[0]);
    expect(container.knowsStream(other)).toBe(false);
    released = 100;
    await bench.until(container.close());
    const next = await bench.open();
    expect(levels(next)).toEqual([4, 4]);
    expect(next.knowsStream(other)).toBe(false);
    expect(await bench.texts(next)).toEqual(numbers(4));
    // Nor does a registration that comes late, known or not when it was deleted.
    const late = "8".repeat(32);
    await bench.until(next.deleteStream(late));
    for (const id of [other, late]) {
      const register = (container: Container) =>
        bench.error(container.ensureStream({ id, segments: [SEGMENT], contentType: "a/b", closed: false }));
      expect((await register(next)).code).toBe("STREAM_GONE");
      const after = await bench.open();
      expect((await register(after)).code).toBe("STREAM_GONE");
      await bench.until(after.close());
      expect((await register(await bench.open())).code).toBe("STREAM_GONE");
    }
  });

  it("begins before appends are held back, however late it was asked for", async () => {
    const bench = new Bench();
    const container = await bench.open({ flushBytes: 1_000_000_000, flushIntervalMs: 3_600_000, unflushedBytesMax: 20_000 });
    await bench.stream(container);
    for (let i = 0; i < 40; i++) {
      await bench.until(container.append(STREAM, request(["x".repeat(1_000)])));
      await bench.settle(() => container.status().bytesInMemory < 15_000);
    }
    expect(await bench.texts(container)).toHaveLength(40);
  });

  it("truncates the WAL with so many bytes or so late, and at the end", async () => {
    const bench = new Bench();
    const container = await bench.open({ flushBytes: 1, truncateBytes: 1_000_000, truncateIntervalMs: 10_000_000 });
    await bench.stream(container);
    await fill(bench, container, 1, 1);
    await bench.settle(tieredAll(container));
    const { walFirst } = container.status();
    await fill(bench, container, 2, 9);
    await bench.settle(tieredAll(container));
    expect(container.status()).toMatchObject({ walFirst, eventsTiered: 9 });
    bench.world.clock.advance(10_000_000);
    await fill(bench, container, 10, 10);
    await bench.settle(() => container.status().walFirst > walFirst);
    const late = container.status().walFirst;
    await fill(bench, container, 11, 12);
    await bench.until(container.close());
    expect(container.status().walFirst).toBeGreaterThan(late);
  });

  it("truncates nothing of a WAL that went back and was filled again meanwhile", async () => {
    const bench = new Bench();
    let truncated = 0;
    let replaced = false;
    bench.wrapLog = (log) => ({
      ...log,
      read: async (fromSeq, bounds) =>
        (await log.read(fromSeq, bounds)).map(({ seq, data }) => ({ seq, data: replaced ? Uint8Array.from(data).fill(7, 60, 64) : data })),
      truncate: async (through) => {
        truncated++;
        return log.truncate(through);
      },
    });
    const container = await bench.open({ flushBytes: 1, truncateIntervalMs: 5_000 });
    await bench.stream(container);
    await bench.settle(() => truncated > 0);
    await fill(bench, container, 1, 5);
    await bench.settle(tieredAll(container));
    const before = truncated;
    replaced = true;
    await bench.until(new Promise<void>((resolve) => bench.world.clock.setTimer(60_000, resolve)));
    expect(truncated).toBe(before);
  });

  it("truncates the WAL of a container that is idle, also where it failed once", async () => {
    const bench = new Bench();
    let failures = 1;
    bench.wrapLog = (log) => ({
      ...log,
      truncate: (through) =>
        failures-- > 0 ? Promise.reject(new TributaryError("LOG_RESULT_UNKNOWN", "simulated")) : log.truncate(through),
    });
    const container = await bench.open({ flushBytes: 1, truncateIntervalMs: 5_000 });
    await bench.stream(container);
    await fill(bench, container, 1, 5);
    await bench.settle(tieredAll(container));
    const { walFirst } = container.status();
    await bench.settle(() => container.status().walFirst > walFirst);
    expect(failures).toBeLessThan(0);
    expect(container.status().walFirst).toBeGreaterThan(container.status().walLast - 2);
  });

  it("that falls behind makes appends wait, and nobody is refused", async () => {
    const bench = new Bench();
    let putsHeld: (() => void)[] | undefined = [];
    bench.wrapStore = (store) => ({
      ...store,
      put: async (name, data) => {
        if (putsHeld && name.includes("/blocks/")) await new Promise<void>((resolve) => putsHeld?.push(resolve));
        return store.put(name, data);
      },
    });
    const container = await bench.open({ ...FLUSH_ALWAYS, unflushedBytesMax: 4_000, frameBytesTarget: 4_000 });
    await bench.stream(container);
    let answered = 0;
    const appends = Array.from({ length: 60 }, () => container.append(STREAM, request(["x".repeat(1_000)])).then(() => answered++));
    await bench.settle(() => answered > 0 && (putsHeld?.length ?? 0) > 0);
    expect(answered).toBeLessThan(60);
    const held = putsHeld ?? [];
    putsHeld = undefined;
    for (const release of held) release();
    await bench.until(Promise.all(appends));
    expect(await bench.texts(container)).toHaveLength(60);
  });

  it("that cannot go on holds appends back until it can", async () => {
    const bench = new Bench();
    let broken = true;
    bench.wrapStore = (store) => ({
      ...store,
      put: async (name, data) => {
        if (broken) throw new TributaryError("STORAGE_FULL", "simulated");
        return store.put(name, data);
      },
    });
    const container = await bench.open({ ...FLUSH_ALWAYS, unflushedBytesMax: 20_000 });
    await bench.stream(container);
    let taken = 0;
    for (let refused = false; !refused; ) {
      try {
        await bench.until(container.append(STREAM, request(["x".repeat(1_000)])));
        taken++;
      } catch (error) {
        expect((error as TributaryError).code).toBe("OVERLOADED");
        refused = true;
      }
      expect(taken).toBeLessThan(100);
    }
    expect(taken).toBeGreaterThan(5);
    expect(await bench.texts(container)).toHaveLength(taken);
    expect(container.status().tierProblem).toEqual({ step: "upload", code: "STORAGE_FULL" });
    broken = false;
    await bench.settle(tieredAll(container));
    expect(container.status().tierProblem).toBeUndefined();
    await bench.until(container.append(STREAM, request(["again"])));
    expect(await bench.texts(container)).toHaveLength(taken + 1);
  });
});

describe("a flush that is held up", () => {
  it("by a store that does not answer shows, and no longer once it does", async () => {
    const bench = new Bench();
    let release: (() => void) | undefined;
    bench.wrapStore = (store) => ({
      ...store,
      put: async (name, data) => {
        if (name.includes("/blocks/") && !release) await new Promise<void>((resolve) => (release = resolve));
        return store.put(name, data);
      },
    });
    const container = await bench.open({ ...FLUSH_ALWAYS, flushStepMsMax: 10_000 });
    await bench.stream(container);
    await bench.settle(() => release !== undefined);
    expect(container.status().tierProblem).toBeUndefined();
    bench.world.clock.advance(10_000);
    expect(container.status().tierProblem).toEqual({ step: "upload", code: "BUS_TIMEOUT" });
    release?.();
    await bench.settle(() => container.status().bytesTiered > 0);
    expect(container.status().tierProblem).toBeUndefined();
  });

  it("by the log says at which step", async () => {
    const bench = new Bench();
    let broken = false;
    bench.wrapLog = (log) => ({
      ...log,
      append: async (data, expectedLast) => {
        if (broken) throw new TributaryError("STORAGE_FULL", "simulated");
        return log.append(data, expectedLast);
      },
    });
    const container = await bench.open({ flushBytes: 10_000_000, flushIntervalMs: 1_000 });
    await bench.stream(container);
    broken = true;
    await bench.settle(() => container.status().tierProblem !== undefined);
    expect(container.status().tierProblem?.step).toBe("checkpoint");
    expect(container.status().logProblem).toBe("STORAGE_FULL");
    broken = false;
    await bench.settle(() => container.status().bytesTiered > 0);
    expect(container.status().tierProblem).toBeUndefined();
  });
});

describe("damage", () => {
  const flipped = (bytes: Uint8Array, at: number) => bytes.map((byte, i) => (i === at ? byte ^ 0x10 : byte));

  async function tieredAndNot(): Promise<{ bench: Bench; container: Container }> {
    const bench = new Bench();
    const container = await bench.open({ flushBytes: 4_000 });
    await bench.stream(container);
    await fill(bench, container, 1, 12);
    await bench.until(container.close());
    const next = await bench.open();
    await fill(bench, next, 13, 16);
    return { bench, container: next };
  }

  it("of an object of the tier is an error that names it, never other data", async () => {
    const { bench } = await tieredAndNot();
    for (const name of bench.lake) {
      const object = bench.world.objects.get(name) as Uint8Array;
      for (let at = 8; at < object.length; at += 29) {
        bench.world.objects.set(name, flipped(object, at));
        const next = bench.create();
        let error: TributaryError | undefined;
        try {
          await bench.until(next.open());
          expect((await bench.texts(next)).slice(0, 16)).toEqual(numbers(16));
        } catch (caught) {
          error = caught as TributaryError;
        }
        expect(error, `byte ${at}`).toMatchObject({ code: "STORE_CORRUPT", details: { object: name } });
      }
      bench.world.objects.delete(name);
      expect((await bench.error(bench.create().open())).code).toBe("STORE_CORRUPT");
      bench.world.objects.set(name, object);
    }
    expect(await bench.texts(await bench.open())).toEqual(numbers(16));
  });

  it("a checkpoint of a deposed owner is not believed", async () => {
    const { bench } = await tieredAndNot();
    const position = { ...WAL_START, seq: bench.world.last, epoch: 2, attempt: 1, hash: "ab".repeat(16) };
    const head = { kind: FRAME_KIND.checkpoint, container: 3, epoch: 1, attempt: 1, number: 99, previousHash: position.hash };
    const { bytes } = encodeFrame(head, [{ type: "tiered", checkpoint: { position, snapshot: undefined, objects: [] } }]);
    bench.world.records.set(++bench.world.last, bytes);
    expect(await bench.texts(await bench.open())).toEqual(numbers(16));
  });

  it("of a WAL that changed or took back records is noticed", async () => {
    const { bench } = await tieredAndNot();
    const { last } = bench.world;
    const record = (seq: number) => bench.world.records.get(seq) as Uint8Array;
    const good = new Map(bench.world.records);
    const [a, b] = [record(last), record(last - 1)];
    for (const [first, second] of [
      [a, b],
      [b, b],
    ] as const) {
      bench.world.records.set(last - 1, first);
      bench.world.records.set(last, second);
      const error = await bench.error(bench.create().open());
      expect(error).toMatchObject({ code: "CONTAINER_NOT_OWNED", details: { epoch: 2 ** 32 } });
      expect(
        bench.lake.filter(
          (name) => name === "g1/c00003/root" || name.startsWith(`g0/c00003/quarantine/${String(last - 1).padStart(16, "0")}-`),
        ),
      ).toHaveLength(2);
      for (const name of bench.lake) if (name.startsWith("g1/")) bench.world.objects.delete(name);
      bench.world.records.clear();
      for (const [seq, data] of good) bench.world.records.set(seq, data);
      bench.world.last = last;
    }
    const container = await bench.open();
    bench.world.last -= 3;
    const append = bench.error(container.append(STREAM, request(["lost"])));
    expect((await append).code).toBe("LOG_RESULT_UNKNOWN");
    await bench.settle(() => bench.failures.length > 0);
    expect(bench.failures.map((error) => error.code)).toEqual(["STORE_CORRUPT"]);
  });

  it("that its writer packed into a block is read as gap records and bars nothing", async () => {
    const bench = new Bench();
    const container = await bench.open();
    await bench.stream(container);
    const good = block(WRITER, [{ streamId: STREAM, previous: 0, events: numbered(1, 3) }]);
    const bytes = Uint8Array.from(good.bytes);
    bytes[good.chunks[0]?.offset ?? 0] = 0xff;
    new DataView(bytes.buffer).setUint32(bytes.length - 4, crc32c(bytes.subarray(0, -4)), true);
    const poison: Block = decodeBlock(bytes);
    expect((await bench.until(container.appendBlock(poison))).slices).toEqual([[SLICE_STATUS.accepted, 3]]);
    await fill(bench, container, 4, 4);
    expect(await bench.texts(container)).toEqual(["gap 1+1", "gap 2+1", "gap 3+1", "4"]);
    await bench.until(container.close());
    const next = await bench.open();
    expect(await bench.texts(next)).toEqual(["gap 1+1", "gap 2+1", "gap 3+1", "4"]);
    // Where it would have to be trimmed, it is refused.
    const later = block(WRITER, [{ streamId: STREAM, previous: 3, events: numbered(4, 6) }]);
    const broken = Uint8Array.from(later.bytes);
    broken[later.chunks[0]?.offset ?? 0] = 0xff;
    new DataView(broken.buffer).setUint32(broken.length - 4, crc32c(broken.subarray(0, -4)), true);
    expect((await bench.error(next.appendBlock(decodeBlock(broken)))).code).toBe("BLOCK_CORRUPT");
    expect((await bench.until(next.appendBlock(later))).slices).toEqual([[SLICE_STATUS.accepted, 6]]);
  });
});
