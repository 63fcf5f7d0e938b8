import { hasCode, type TributaryError } from "@tributary/common/errors";
import type { BlockWriter } from "@tributary/common/format/block";
import { formatSegmentId, type Id } from "@tributary/common/names";
import { joined } from "@tributary/common/object-data";
import { SLICE_STATUS } from "@tributary/common/uplink-protocol";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Container } from "./container.ts";
import { request } from "./testing/bench.ts";
import { block } from "./testing/gateway.ts";
import { PAST_STREAMS, Past, type SavedPast, SEGMENTS, textOf, until } from "./testing/past.ts";
import { seededRandom } from "./testing/simulated-ports.ts";

const [STREAM, OTHER] = PAST_STREAMS as readonly [Id, Id];
const FLUSH_ALWAYS = { flushBytes: 1, flushIntervalMs: 0 };
const tiered = (container: Container) => until(() => container.status().eventsTiered === container.status().eventsDurable);

async function fill(container: Container, from: number, to: number, streamId: Id = STREAM): Promise<void> {
  for (let i = from; i <= to; i++) await container.append(streamId, request([`${i}`]));
}

const texts = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => `${from + i}`);

describe("a log that went back", () => {
  it("behind the lake: all that is in the lake is kept, and the container goes on behind it", async () => {
    const past = new Past(seededRandom(1));
    const first = await past.open(FLUSH_ALWAYS);
    await fill(first, 1, 3);
    await tiered(first);
    const saved = past.save();
    await fill(first, 4, 9);
    await tiered(first);
    past.restoreLogs(saved);
    const next = await past.open();
    expect(next.status()).toMatchObject({ generation: 1, wentBack: { reason: "lake-ahead", streams: 2, streamsWithKnownLoss: 0 } });
    expect(await past.texts(next)).toEqual(texts(1, 9));
    await fill(next, 10, 12);
    expect(await past.texts(next)).toEqual(texts(1, 12));
    const events = await past.read(next, STREAM);
    expect(events.slice(8, 10).map(({ segment, ordinal }) => [segment.slice(0, 2), ordinal])).toEqual([
      ["0.", events[8]?.ordinal],
      ["1.", 0],
    ]);
    // And in the same generation it is opened again.
    await next.close();
    const last = await past.open();
    expect(last.status()).toMatchObject({ generation: 1, epoch: 2 ** 32 + 2 });
    expect(await past.texts(last)).toEqual(texts(1, 12));
  });

  it("behind a take-over: the owner before does not say of anything more that it is in the tier (seed 2872)", async () => {
    const past = new Past(seededRandom(3));
    const failures: TributaryError[] = [];
    const first = await past.open(FLUSH_ALWAYS);
    first.onFailed((error) => failures.push(error));
    await fill(first, 1, 3);
    await tiered(first);
    const saved = past.save();
    const second = await past.open(FLUSH_ALWAYS);
    await fill(second, 4, 6);
    await tiered(second);
    past.restoreLogs(saved);
    const told: number[] = [];
    first.onTiered((id) => told.push(id));
    await first.append(STREAM, request(["7"]));
    await until(() => failures.length > 0 || told.length > 0);
    expect(failures.map(({ code, details }) => [code, details["epoch"]])).toEqual([["CONTAINER_NOT_OWNED", 2]]);
    expect(told).toEqual([]);
    const next = await past.open();
    expect(next.status()).toMatchObject({ generation: 1, wentBack: { reason: "lake-ahead" } });
    expect(await past.texts(next)).toEqual(texts(1, 6));
  });

  it("together with the MetaStore, to different moments, and again in the new generation", async () => {
    const past = new Past(seededRandom(2));
    const first = await past.open(FLUSH_ALWAYS);
    await fill(first, 1, 3);
    await tiered(first);
    const early = past.save();
    await first.close();
    const second = await past.open(FLUSH_ALWAYS);
    await fill(second, 4, 6);
    await tiered(second);
    past.restoreLogs(early);
    past.epoch = 0;
    const third = await past.open(FLUSH_ALWAYS);
    expect(await past.texts(third)).toEqual(texts(1, 6));
    expect(third.status().generation).toBe(1);
    await fill(third, 7, 8);
    await tiered(third);
    past.logs.clear();
    past.epoch = 0;
    const fourth = await past.open();
    expect(fourth.status()).toMatchObject({ generation: 2, wentBack: { reason: "log-lost" } });
    expect(await past.texts(fourth)).toEqual(texts(1, 8));
    await fill(fourth, 9, 9);
    // Neither a lost log nor a lost MetaStore brings an old generation back.
    past.epoch = 2;
    const fifth = await past.open();
    expect(fifth.status().generation).toBe(2);
    expect(await past.texts(fifth)).toEqual(texts(1, 9));
  });

  it("under its owner: what only the owner's memory has is brought into the lake", async () => {
    const past = new Past(seededRandom(3));
    const first = await past.open();
    await fill(first, 1, 2);
    const saved = past.save();
    await fill(first, 3, 9);
    past.restoreLogs(saved);
    const failed = new Promise((resolve) => first.onFailed(resolve));
    await expect(fill(first, 10, 10)).rejects.toMatchObject({ code: "LOG_RESULT_UNKNOWN" });
    expect(await failed).toMatchObject({ code: "STORE_CORRUPT" });
    const next = await past.open();
    expect(await past.texts(next)).toEqual(texts(1, 9));
    expect(next.status().generation).toBe(1);
  });

  it("and was written to since the lake knew nothing of what was lost", async () => {
    const past = new Past(seededRandom(4));
    const first = await past.open();
    await fill(first, 1, 3);
    const saved = past.save();
    await fill(first, 4, 6);
    const lost = await past.read(first, STREAM);
    past.restoreLogs(saved);
    const next = await past.open();
    // Nothing tells that anything was lost but the positions of those who read it.
    expect(next.status().generation).toBe(0);
    await fill(next, 14, 16);
    const now = await past.read(next, STREAM);
    expect(now.map(textOf)).toEqual([...texts(1, 3), ...texts(14, 16)]);
    expect(now[3]?.nonce).not.toBe(lost[3]?.nonce);
  });

  it("together with the MetaStore past a take-over that flushed nothing: its epoch is not used again", async () => {
    const past = new Past(seededRandom(12));
    const first = await past.open();
    await fill(first, 1, 3);
    const saved = past.save();
    const forgotten = await past.open();
    await fill(forgotten, 4, 5);
    past.restoreLogs(saved);
    past.epoch = saved.epoch;
    const next = await past.open();
    // Names of objects and the order of owners rest on it, and the owner that was forgotten is still alive.
    expect(next.status().epoch).toBeGreaterThan(forgotten.status().epoch);
    expect(await past.texts(next)).toEqual(texts(1, 3));
  });

  it("together with the MetaStore under an owner that brings what it has into the lake later: the next owner's events stay there", async () => {
    const past = new Past(seededRandom(16));
    const first = await past.open();
    await fill(first, 1, 3);
    const saved = past.save();
    const forgotten = await past.open();
    await fill(forgotten, 4, 9);
    past.restoreLogs(saved);
    past.epoch = saved.epoch;
    const next = await past.open(FLUSH_ALWAYS);
    await fill(next, 14, 15);
    await tiered(next);
    const failed = new Promise((resolve) => forgotten.onFailed(resolve));
    await expect(fill(forgotten, 10, 10)).rejects.toMatchObject({ code: "LOG_RESULT_UNKNOWN" });
    expect(await failed).toMatchObject({ code: "STORE_CORRUPT" });
    await next.close();
    // In one epoch with the next owner's, the forgotten one's object would be the newest of the lake: it reaches further.
    const last = await past.open();
    expect(last.status().generation).toBe(0);
    expect(await past.texts(last)).toEqual([...texts(1, 3), ...texts(14, 15)]);
  });

  it("does not let a zombie of the old generation add anything", async () => {
    const past = new Past(seededRandom(5));
    const zombie = await past.open(FLUSH_ALWAYS);
    await fill(zombie, 1, 3);
    await tiered(zombie);
    const saved = past.save();
    await fill(zombie, 4, 6);
    await tiered(zombie);
    past.restoreLogs(saved);
    const next = await past.open(FLUSH_ALWAYS);
    await expect(fill(zombie, 7, 7)).rejects.toThrow();
    await fill(next, 8, 9);
    await tiered(next);
    expect(await past.texts(next)).toEqual([...texts(1, 6), ...texts(8, 9)]);
    await next.close();
    expect(await past.texts(await past.open())).toEqual([...texts(1, 6), ...texts(8, 9)]);
  });

  it("gateways go on with the segments that they know, and send again what was lost", async () => {
    const past = new Past(seededRandom(6));
    const writer: BlockWriter = { writer: "b".repeat(32), incarnation: "c".repeat(16), lane: "live" };
    const send = async (container: Container, from: number, to: number) => {
      const events = Array.from({ length: to - from + 1 }, (_, i) => ({ number: from + i, data: `${from + i}` }));
      return (await container.appendBlock(block(writer, [{ streamId: STREAM, previous: from - 1, events }]))).slices[0];
    };
    const levels = (container: Container) =>
      container.levels({ writer: writer.writer, entries: [{ streamId: STREAM, segment: SEGMENTS[0] as never, ...writer }] }).entries[0];
    const first = await past.open(FLUSH_ALWAYS);
    await send(first, 1, 5);
    await tiered(first);
    const log = past.log(0);
    await first.close();
    const second = await past.open();
    await send(second, 6, 9);
    log.restore({ records: [], last: 0 });
    const next = await past.open(FLUSH_ALWAYS);
    expect(next.status().generation).toBe(1);
    expect(levels(next)).toEqual([5, 5]);
    expect(await send(next, 10, 12)).toEqual([SLICE_STATUS.previousNotReached, 5]);
    expect(await send(next, 4, 9)).toEqual([SLICE_STATUS.accepted, 9]);
    expect(await send(next, 10, 12)).toEqual([SLICE_STATUS.accepted, 12]);
    await tiered(next);
    expect(levels(next)).toEqual([12, 12]);
    expect(await past.texts(next)).toEqual(texts(1, 12));
  });
});

describe("a damaged log", () => {
  it("is kept up to the damage, the record is put aside, and what is known to be lost is published", async () => {
    const saved: { past: Past; log: ReturnType<ReturnType<Past["log"]>["save"]> }[] = [];
    const build = async () => {
      const past = new Past(seededRandom(7));
      const first = await past.open();
      await fill(first, 1, 3);
      await first.close();
      const second = await past.open();
      await fill(second, 4, 8);
      return { past, log: past.log(0).save() };
    };
    saved.push(await build());
    const { first, last } = await (saved[0] as (typeof saved)[number]).past.log(0).state();
    for (let seq = first; seq <= last; seq++) {
      for (const how of ["bit", "gone"]) {
        const { past } = await build();
        const [record] = await past.log(0).read(seq, { recordsMax: 1, bytesMax: 1 });
        const damaged = Uint8Array.from(record?.data ?? []);
        damaged[60 % damaged.length] = (damaged[60 % damaged.length] as number) ^ 4;
        past.log(0).damage(seq, how === "bit" ? damaged : undefined);
        const next = await past.open();
        const { generation, wentBack } = next.status();
        const read = await past.texts(next);
        expect(read.length, `record ${seq} ${how}`).toBeGreaterThanOrEqual(3);
        expect(read).toEqual(texts(1, read.length));
        if (how === "gone" && seq === first) {
          // The log begins behind its checkpoint.
          expect(generation).toBe(1);
          continue;
        }
        expect(generation, `record ${seq} ${how}`).toBe(1);
        expect(wentBack?.reason).toBe(seq === first ? "log-lost" : "log-damaged");
        // What the last record held nobody knows once it is gone.
        if (read.length < 7 && !(how === "gone" && seq === last))
          expect(wentBack?.losses, `record ${seq} of ${first} to ${last} ${how}, ${read.length} read`).toMatchObject([
            { streamId: STREAM, from: read.length, to: 8 },
          ]);
        const kept = (await past.objects.list("g0/c00005/quarantine/", { limit: 10 })).length;
        expect(kept).toBe(how === "bit" && seq > first ? 1 : 0);
        await fill(next, 20, 21);
        expect(await past.texts(next)).toEqual([...read, "20", "21"]);
      }
    }
  });

  it("that is replaced by an undamaged copy does not bring the old generation back", async () => {
    const past = new Past(seededRandom(11));
    const first = await past.open();
    await fill(first, 1, 6);
    const undamaged = past.save();
    const { last } = await past.log(0).state();
    past.log(0).damage(last - 2, undefined);
    const second = await past.open();
    expect(second.status().generation).toBe(1);
    const kept = await past.texts(second);
    expect(kept.length).toBeLessThan(6);
    await fill(second, 7, 8);
    // Nothing in this log tells that it ended, and the lake has nothing beyond it; the root alone does.
    past.restoreLogs({ ...undamaged, logs: new Map([...past.save().logs, ...undamaged.logs]) });
    past.epoch = 0;
    const third = await past.open();
    expect(third.status().generation).toBe(1);
    expect(await past.texts(third)).toEqual([...kept, "7", "8"]);
  });

  it("goes on from the lake where a snapshot was stored damaged, which no checkpoint ever named", async () => {
    const past = new Past(seededRandom(12));
    const early = past.save();
    const first = await past.open({ ...FLUSH_ALWAYS, checkpointObjectsMax: 100 });
    for (const number of [1, 2, 3]) {
      await fill(first, number, number);
      await tiered(first);
    }
    const objects = await past.objects.list("g0/c00005/blocks/", { limit: 100 });
    const newest = objects.at(-1)?.name.replace("blocks", "snapshot") ?? "";
    await past.objects.put(newest, new Uint8Array(60));
    past.restoreLogs(early);
    const next = await past.open();
    expect(next.status()).toMatchObject({ generation: 1, wentBack: { reason: "log-lost" } });
    expect(await past.texts(next)).toEqual(texts(1, 3));
  });

  it("does not go on from an object of which a block was stored damaged", async () => {
    const past = new Past(seededRandom(15));
    const first = await past.open(FLUSH_ALWAYS);
    await fill(first, 1, 3);
    await tiered(first);
    const saved = past.save();
    const { put } = past.objects;
    past.objects.put = (name, data) => {
      const stored = joined(data);
      if (name.includes("/blocks/")) stored[60] = 255 - (stored[60] as number);
      return put.call(past.objects, name, stored);
    };
    const failed = new Promise((resolve) => first.onFailed(resolve));
    await fill(first, 4, 4);
    expect(await failed).toMatchObject({ code: "STORE_CORRUPT" });
    past.objects.put = put;
    past.restoreLogs(saved);
    const next = await past.open();
    expect(await past.texts(next)).toEqual(texts(1, 3));
  });

  it("without a lake that knows it is left alone: it may be the wrong lake", async () => {
    const past = new Past(seededRandom(8));
    const first = await past.open(FLUSH_ALWAYS);
    await fill(first, 1, 3);
    await tiered(first);
    for (const { name } of await past.objects.list("", { limit: 1_000 })) await past.objects.delete(name);
    await expect(past.open()).rejects.toMatchObject({ code: "STORE_CORRUPT" });
    expect(await past.objects.list("g1", { limit: 1 })).toEqual([]);
  });
});

describe("raising a generation", () => {
  async function lostLog(seed: number) {
    const past = new Past(seededRandom(seed));
    const early = past.save();
    const first = await past.open(FLUSH_ALWAYS);
    await fill(first, 1, 3);
    await tiered(first);
    past.restoreLogs(early);
    return past;
  }

  it("takes another name for its root where the store kept something else", async () => {
    const past = await lostLog(13);
    const { put } = past.objects;
    let lies = 2;
    past.objects.put = (name, data) => put.call(past.objects, name, name.includes("/root") && lies-- > 0 ? data.slice(0, 50) : data);
    const next = await past.open();
    expect(next.status().generation).toBe(1);
    expect((await past.objects.list("g1/c00005/root", { limit: 9 })).map(({ name }) => name.slice(10))).toEqual([
      "root",
      "root-2",
      "root-3",
    ]);
    await fill(next, 4, 5);
    const last = await past.open();
    expect(last.status().generation).toBe(1);
    expect(await past.texts(last)).toEqual(texts(1, 5));
  });

  it("does not begin a generation once more whose root was damaged later", async () => {
    const past = await lostLog(14);
    await past.open();
    await past.objects.delete("g1/c00005/root");
    await past.objects.put("g1/c00005/root", new Uint8Array(60));
    past.epoch = 1;
    await expect(past.open()).rejects.toMatchObject({ code: "STORE_CORRUPT" });
    expect(await past.objects.list("g1/c00005/root", { limit: 9 })).toHaveLength(1);
  });

  it("goes on wherever it was interrupted", async () => {
    for (let dies = 1; ; dies++) {
      const past = new Past(seededRandom(9));
      const first = await past.open(FLUSH_ALWAYS);
      await fill(first, 1, 3);
      await tiered(first);
      const saved = past.save();
      await fill(first, 4, 6);
      await tiered(first);
      past.restoreLogs(saved);
      let left = dies;
      // From one write on nothing is written any more: as if the owner had died there.
      const { objects } = past;
      const put = objects.put.bind(objects);
      const log = past.log(0);
      const append = log.append.bind(log);
      const never = new Promise<never>(() => {});
      objects.put = (name, data) => (--left < 0 ? never : put(name, data));
      log.append = (data, last) => (--left < 0 ? never : append(data, last));
      past.epoch++;
      const dying = past.create();
      const died = await Promise.race([dying.open().catch(() => "done"), until(() => left < 0).then(() => "died")]);
      objects.put = put;
      log.append = append;
      const next = await past.open();
      expect(await past.texts(next)).toEqual(texts(1, 6));
      expect(next.status().generation).toBe(1);
      if (died === "done") {
        expect(dies).toBeGreaterThan(2);
        return;
      }
    }
  });
});

describe("owners that raise a generation at once", () => {
  it("begin from the same root", async () => {
    for (let seed = 10; seed < 30; seed++) {
      const past = new Past(seededRandom(seed));
      const first = await past.open(FLUSH_ALWAYS);
      await fill(first, 1, 3);
      await tiered(first);
      const saved = past.save();
      await fill(first, 4, 6);
      await tiered(first);
      past.restoreLogs(saved);
      const rivals = Array.from({ length: 3 }, () => {
        past.epoch++;
        return past.create();
      });
      const opened = await Promise.allSettled(rivals.map((rival) => rival.open()));
      // None of them serves the old generation, whoever was first.
      for (const result of opened) expect(result).toMatchObject({ status: "rejected", reason: { code: "CONTAINER_NOT_OWNED" } });
      const next = await past.open();
      expect(await past.texts(next)).toEqual(texts(1, 6));
      expect(next.status().generation).toBe(1);
    }
  });
});

/** What a client was told, and where in the past. */
interface Acked {
  readonly streamId: Id;
  readonly text: string;
  readonly generation: number;
  readonly seq: number;
  tiered: boolean;
  /** The moment at which it was acknowledged was taken back. */
  excused: boolean;
}

type Act =
  | { readonly do: "own"; readonly stream: number; readonly count: number }
  | { readonly do: "block"; readonly writer: number; readonly count: number }
  | { readonly do: "take over" | "restart"; readonly flush: boolean }
  | { readonly do: "save" | "wait for tier" | "zombie" }
  | { readonly do: "logs back" | "meta back" | "both back"; readonly to: number };

const act: fc.Arbitrary<Act> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant("own" as const), stream: fc.nat(1), count: fc.integer({ min: 1, max: 3 }) }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant("block" as const), writer: fc.nat(1), count: fc.integer({ min: 1, max: 4 }) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom("take over" as const, "restart" as const), flush: fc.boolean() }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom("save" as const, "wait for tier" as const, "zombie" as const) }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constantFrom("logs back" as const, "meta back" as const, "both back" as const), to: fc.nat(5) }),
  },
);

class Tale {
  readonly past: Past;
  readonly #acked: Acked[] = [];
  readonly #saved: SavedPast[];
  readonly #sent = [0, 0];
  readonly #zombies: Container[] = [];
  #container: Container | undefined;
  #flushing = false;
  #count = 0;

  constructor(seed: number) {
    this.past = new Past(seededRandom(seed));
    this.#saved = [this.past.save()];
  }

  async begin(): Promise<void> {
    this.#container = await this.past.open();
  }

  /** Attempts that end because of a zombie's record, and owners that fail, are nothing special: the client comes again. */
  async do(step: Act): Promise<void> {
    for (let tries = 0; ; tries++) {
      try {
        return await this.#do(step);
      } catch (error) {
        if (!hasCode(error, "OVERLOADED", "LOG_RESULT_UNKNOWN", "CONTAINER_NOT_OWNED") || tries > 5) throw error;
        if (error.code === "CONTAINER_NOT_OWNED") await this.#open(this.#flushing);
        if (error.code === "LOG_RESULT_UNKNOWN" && step.do === "own") return;
      }
    }
  }

  async #do(step: Act): Promise<void> {
    const container = this.#container as Container;
    switch (step.do) {
      case "own": {
        const streamId = PAST_STREAMS[step.stream] as Id;
        const all = Array.from({ length: step.count }, () => `own ${this.#count++}`);
        await container.append(streamId, request(all));
        for (const text of all) this.#ack(container, streamId, text);
        return;
      }
      case "block":
        return this.#send(container, step.writer, step.count);
      case "save":
        this.#saved.push(this.past.save());
        return;
      case "wait for tier":
        if (!this.#flushing) return;
        await tiered(container);
        for (const acked of this.#acked) if (!acked.excused) acked.tiered = true;
        return;
      case "zombie":
        // It may be told that it succeeded if nobody wrote since, but nobody else is to see what it wrote after a take-over.
        await Promise.race([
          this.#zombies
            .at(-1)
            ?.append(OTHER, request(["zombie"]))
            .catch(() => {}),
          new Promise((resolve) => setImmediate(resolve)),
        ]);
        return;
      case "restart":
        await container.close();
        for (const acked of this.#acked) if (!acked.excused) acked.tiered = true;
        return this.#open(step.flush);
      case "take over":
        this.#zombies.push(container);
        return this.#open(step.flush);
      default: {
        const saved = this.#saved[Math.max(0, this.#saved.length - 1 - step.to)] as SavedPast;
        // Owners live on, and learn of it or not.
        this.#zombies.push(container);
        if (step.do !== "meta back") {
          this.past.restoreLogs(saved);
          for (const acked of this.#acked) if ((saved.logs.get(acked.generation)?.last ?? 0) < acked.seq) acked.excused = true;
        }
        if (step.do !== "logs back") this.past.epoch = saved.epoch;
        return this.#open(true);
      }
    }
  }

  async #open(flush: boolean): Promise<void> {
    this.#flushing = flush;
    this.#container = await this.past.open(flush ? FLUSH_ALWAYS : {});
    await this.check();
  }

  #ack(container: Container, streamId: Id, text: string): void {
    const { generation, walLast } = container.status();
    this.#acked.push({ streamId, text, generation, seq: walLast, tiered: false, excused: false });
  }

  /** A gateway that holds everything: it resumes where the core says. */
  async #send(container: Container, index: number, count: number): Promise<void> {
    const writer: BlockWriter = { writer: String(index).repeat(32), incarnation: "c".repeat(16), lane: "live" };
    const segment = SEGMENTS[index] as (typeof SEGMENTS)[number];
    const to = (this.#sent[index] as number) + count;
    for (let from = (this.#sent[index] as number) + 1; ; ) {
      const events = Array.from({ length: to - from + 1 }, (_, i) => ({ number: from + i, data: `gateway ${index} ${from + i}` }));
      const { slices } = await container.appendBlock(block(writer, [{ streamId: STREAM, segment, previous: from - 1, events }]));
      const [status, number] = slices[0] as readonly [number, number];
      if (status === SLICE_STATUS.accepted) break;
      expect(status).toBe(SLICE_STATUS.previousNotReached);
      expect(number).toBeLessThan(from);
      from = number + 1;
    }
    for (let number = (this.#sent[index] as number) + 1; number <= to; number++) this.#ack(container, STREAM, `gateway ${index} ${number}`);
    this.#sent[index] = to;
  }

  async check(): Promise<void> {
    const container = this.#container as Container;
    for (const streamId of PAST_STREAMS) {
      const events = await this.past.read(container, streamId);
      const read = new Map<string, number>();
      for (const event of events) read.set(textOf(event), (read.get(textOf(event)) ?? 0) + 1);
      for (const [text, times] of read) if (text !== "zombie") expect(times, text).toBe(1);
      for (const { text, ...acked } of this.#acked) {
        if (acked.streamId !== streamId || read.has(text)) continue;
        expect({ text, tiered: acked.tiered, excused: acked.excused }).toEqual({ text, tiered: false, excused: true });
      }
      for (const [index, segment] of streamId === STREAM ? SEGMENTS.entries() : []) {
        const writer = String(index).repeat(32);
        const own = events.filter((event) => event.writer === writer).map((event) => event.number);
        expect(own).toEqual(own.map((_, i) => i + 1));
        const entry = { streamId, segment, incarnation: "c".repeat(16), lane: "live" } as const;
        expect(container.levels({ writer, entries: [entry] }).entries[0]?.[0]).toBe(own.length);
        expect(events.some((event) => event.writer === writer && !event.segment.endsWith(formatSegmentId(segment).slice(1)))).toBe(false);
      }
    }
  }

  async end(): Promise<void> {
    for (const [writer] of this.#sent.entries()) await this.do({ do: "block", writer, count: 1 });
    await this.check();
    await this.#container?.close();
    await this.#open(true);
    for (const zombie of this.#zombies) await zombie.close({ withinMs: 0 });
    await this.#container?.close();
  }
}

describe("logs and MetaStore set back to any moments", () => {
  it("lose nothing that is tiered or was there then, and never give a place out twice", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer(), fc.array(act, { minLength: 4, maxLength: 40 }), async (seed, acts) => {
        const tale = new Tale(seed);
        await tale.begin();
        for (const step of acts) await tale.do(step);
        await tale.end();
      }),
      { numRuns: 120 },
    );
  }, 120_000);
});
