import { TributaryError } from "@tributary/common/errors";
import { SLICE_STATUS } from "@tributary/common/uplink-protocol";
import { describe, expect, it } from "vitest";
import { Bench, request, STREAM, WRITER } from "./testing/bench.ts";
import { block, numbered } from "./testing/gateway.ts";

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** Of its own for each seed, and not to be compressed. */
function noise(seed: number): string {
  let [x, text] = [seed + 1, ""];
  while (text.length < 2_000) {
    x = (x * 1_103_515_245 + 12_345) % 2_147_483_648;
    text += x.toString(36);
  }
  return text;
}

describe("answers", () => {
  it("wait for the frame that they rest on, those about duplicates too", async () => {
    const bench = new Bench();
    const container = await bench.open();
    await bench.stream(container);
    const order: string[] = [];
    const value = block(WRITER, [{ streamId: STREAM, previous: 0, events: numbered(1, 2) }]);
    const first = container.appendBlock(value).then(() => order.push("first"));
    await turn();
    const sent = bench.world.pending;
    const again = container.appendBlock(value).then(({ slices }) => {
      expect(slices).toEqual([[SLICE_STATUS.accepted, 2]]);
      order.push("again");
    });
    const refused = container.appendBlock(block(WRITER, [{ streamId: STREAM, previous: 7, events: numbered(8, 8) }])).then(({ slices }) => {
      expect(slices).toEqual([[SLICE_STATUS.previousNotReached, 2]]);
      order.push("refused");
    });
    const rejected = container
      .append(STREAM, request(["x"], { producer: { id: "p", epoch: 0, seq: 5 } }))
      .catch((error: TributaryError) => order.push(error.code));
    await turn();
    bench.world.clock.advance(1_000);
    await turn();
    expect(order).toEqual([]);
    expect(bench.world.pending).toBe(sent);
    expect(container.describe(STREAM)?.nextChain).toBe(0);
    await bench.until(Promise.all([first, again, refused, rejected]));
    expect(order).toEqual(["first", "again", "refused", "PRODUCER_SEQUENCE_GAP"]);
  });

  it("of appends of unknown result tell what became of them", async () => {
    const bench = new Bench();
    let fault: "" | "landed" | "lost" = "";
    bench.wrapLog = (log) => ({
      ...log,
      append: async (data, expected) => {
        const now = fault;
        fault = "";
        if (now === "landed") await log.append(data, expected);
        if (now !== "") throw new TributaryError("LOG_RESULT_UNKNOWN", "simulated");
        return log.append(data, expected);
      },
    });
    const container = await bench.open();
    await bench.stream(container);
    fault = "landed";
    expect(await bench.until(container.append(STREAM, request(["landed"])))).toMatchObject({ nextChain: 1 });
    fault = "lost";
    expect(await bench.error(container.append(STREAM, request(["lost"])))).toMatchObject({ code: "OVERLOADED", sideEffects: false });
    expect(container.status().attempt).toBe(3);
    await bench.until(container.append(STREAM, request(["after"])));
    expect(await bench.texts(container)).toEqual(["landed", "after"]);
    expect(bench.failures).toEqual([]);
  });

  it("come within the time limit from a log that hangs, and readers stay", async () => {
    const bench = new Bench();
    let hanging = false;
    bench.wrapLog = (log) => ({
      ...log,
      append: (data, expected) => (hanging ? new Promise(() => {}) : log.append(data, expected)),
      read: (from, bounds) => (hanging ? new Promise(() => {}) : log.read(from, bounds)),
    });
    const container = await bench.open({ appendTimeoutMs: 500 });
    await bench.stream(container);
    await bench.until(container.append(STREAM, request(["before"])));
    const waiting = container.waitForData(STREAM, 1, new AbortController().signal);
    hanging = true;
    expect(await bench.error(container.append(STREAM, request(["never"])))).toMatchObject({
      code: "LOG_RESULT_UNKNOWN",
      sideEffects: true,
    });
    expect((await bench.error(container.append(STREAM, request(["never"])))).code).toBe("OVERLOADED");
    expect(await bench.texts(container)).toEqual(["before"]);
    hanging = false;
    await bench.settle(() => container.status().attempt === 2);
    await bench.until(container.append(STREAM, request(["after"])));
    await bench.until(waiting);
    expect(await bench.texts(container)).toEqual(["before", "after"]);
  });

  it("say that the disk is full while it is, and nothing is lost", async () => {
    const bench = new Bench();
    let full = false;
    bench.wrapLog = (log) => ({
      ...log,
      append: async (data, expected) => {
        if (full) throw new TributaryError("STORAGE_FULL", "simulated");
        return log.append(data, expected);
      },
    });
    const container = await bench.open();
    await bench.stream(container);
    full = true;
    expect((await bench.error(container.append(STREAM, request(["a"])))).retryable).toBe(true);
    expect((await bench.error(container.append(STREAM, request(["b"])))).code).toBe("STORAGE_FULL");
    full = false;
    await bench.settle(() => container.status().attempt > 1);
    await bench.until(container.append(STREAM, request(["c"])));
    expect(await bench.texts(container)).toEqual(["c"]);
  });
});

describe("a stop", () => {
  it("comes to an end while the log is away, and what was acknowledged is there at the next start", async () => {
    const bench = new Bench();
    let away = false;
    bench.wrapLog = (log) => ({
      ...log,
      append: (data, expected) => (away ? new Promise(() => {}) : log.append(data, expected)),
      read: (from, bounds) => (away ? new Promise(() => {}) : log.read(from, bounds)),
      truncate: (through) => (away ? new Promise(() => {}) : log.truncate(through)),
    });
    const container = await bench.open();
    await bench.stream(container);
    await bench.until(container.append(STREAM, request(["before"])));
    away = true;
    const lost = container.append(STREAM, request(["never"])).catch((error: TributaryError) => error.code);
    const startedMs = bench.world.clock.monotonicMs();
    await bench.until(container.close());
    expect(bench.world.clock.monotonicMs() - startedMs).toBeLessThan(6_000);
    expect(await lost).toBe("LOG_RESULT_UNKNOWN");
    away = false;
    expect(await bench.texts(await bench.open())).toEqual(["before"]);
  });
});

describe("an attempt", () => {
  it("ends before the number of its frames does", async () => {
    const bench = new Bench();
    const container = await bench.open({ attemptFramesMax: 4 });
    await bench.stream(container);
    const texts = Array.from({ length: 9 }, (_, i) => `${i}`);
    for (const text of texts) await bench.until(container.append(STREAM, request([text])));
    expect(container.status().attempt).toBe(4);
    expect(await bench.texts(container)).toEqual(texts);
    await bench.until(container.close());
    expect(await bench.texts(await bench.open())).toEqual(texts);
    expect(bench.failures).toEqual([]);
  });
});

describe("appends that are held", () => {
  it("are refused with their attempt, and the patience with them ends there", async () => {
    const bench = new Bench();
    let log: "takes" | "hangs" | "fails" = "takes";
    bench.wrapLog = (real) => ({
      ...real,
      append: (data, expectedLast) => {
        if (log === "hangs") return new Promise(() => {});
        if (log === "fails") return Promise.reject(new TributaryError("LOG_RESULT_UNKNOWN", "simulated"));
        return real.append(data, expectedLast);
      },
    });
    const small = { unflushedBytesMax: 4_000, frameBytesTarget: 1_000, appendTimeoutMs: 1_000, holdMsMax: 5_000 };
    const container = await bench.open({ flushBytes: 1, truncateBytes: 1, ...small });
    await bench.stream(container);
    await bench.settle(() => container.status().walFirst > 1);
    log = "hangs";
    const outcomes: string[] = [];
    for (let i = 0; i < 8; i++) {
      const append = container.append(STREAM, request([noise(i)]));
      append.then(
        () => outcomes.push("taken"),
        (error: TributaryError) => outcomes.push(error.code),
      );
    }
    await turn();
    bench.world.clock.advance(500);
    log = "fails";
    await bench.settle(() => outcomes.length === 8);
    log = "takes";
    await bench.until(new Promise<void>((resolve) => bench.world.clock.setTimer(60_000, resolve)));
    await bench.until(container.append(STREAM, request(["later"])));
  });
});

describe("a log that was closed, or closed itself after a failed fsync", () => {
  it("ends the container, for its host to open both anew", async () => {
    const bench = new Bench();
    let closed = false;
    bench.wrapLog = (log) => ({
      ...log,
      append: async (data, expected) => {
        if (closed) throw new TributaryError("LOG_CLOSED", "simulated");
        return log.append(data, expected);
      },
    });
    const container = await bench.open();
    await bench.stream(container);
    const waiting = container.waitForData(STREAM, 0, new AbortController().signal);
    closed = true;
    expect((await bench.error(container.append(STREAM, request(["a"])))).code).toBe("LOG_RESULT_UNKNOWN");
    await waiting;
    expect(bench.failures.map((error) => error.code)).toEqual(["LOG_CLOSED"]);
    expect((await bench.error(container.append(STREAM, request(["b"])))).code).toBe("CONTAINER_NOT_OWNED");
    await bench.until(container.close());
  });
});

describe("a deposed owner", () => {
  it("acknowledges nothing, though its frames still match their predicted sequences", async () => {
    const bench = new Bench();
    const zombie = await bench.open();
    await bench.stream(zombie);
    const outcomes: Promise<string>[] = [];
    const write = async (text: string) => {
      const outcome = zombie.append(STREAM, request([text])).then(
        () => text,
        (error: TributaryError) => error.code,
      );
      outcomes.push(outcome);
      await turn();
    };
    for (const text of ["one", "two", "three"]) await write(text);
    const owner = await bench.open();
    await bench.until(owner.append(STREAM, request(["mine"])));
    await write("late");
    const acknowledged = await bench.until(Promise.all(outcomes));
    expect(acknowledged[3]).not.toBe("late");
    expect(bench.failures[0]?.code).toBe("CONTAINER_NOT_OWNED");
    const texts = await bench.texts(owner);
    expect(texts.filter((text) => text !== "mine")).toEqual(acknowledged.filter((text) => ["one", "two", "three"].includes(text)));
    expect((await bench.error(zombie.append(STREAM, request(["x"])))).code).toBe("CONTAINER_NOT_OWNED");
    expect((await bench.error(zombie.read(STREAM, 0, { eventsMax: 1, bytesMax: 1 }))).code).toBe("CONTAINER_NOT_OWNED");
  });

  it("cannot open behind a later epoch", async () => {
    const bench = new Bench();
    const early = bench.create();
    await bench.open();
    expect((await bench.error(early.open())).code).toBe("CONTAINER_NOT_OWNED");
  });
});

describe("tail readers", () => {
  it("are woken by events, by closing and deleting, and by their own signal", async () => {
    const bench = new Bench();
    const container = await bench.open();
    await bench.stream(container);
    const woken: string[] = [];
    const wait = (name: string, chain: number, signal = new AbortController().signal) =>
      container.waitForData(STREAM, chain, signal).then(() => woken.push(name));
    const stop = new AbortController();
    const waits = [wait("one", 0), wait("two", 1), wait("stopped", 1, stop.signal)];
    await turn();
    expect(woken).toEqual([]);
    await bench.until(container.append(STREAM, request(["a"])));
    await turn();
    expect(woken).toEqual(["one"]);
    await wait("at once", 0);
    stop.abort();
    await waits[2];
    await bench.until(container.append(STREAM, { events: undefined, contentType: undefined, close: true }));
    await Promise.all(waits);
    expect(woken).toEqual(["one", "at once", "stopped", "two"]);
    await wait("closed", 1);
    await bench.until(container.deleteStream(STREAM));
    await wait("deleted", 1);
  });

  it("are let go when the container closes", async () => {
    const bench = new Bench();
    const container = await bench.open();
    await bench.stream(container);
    const waiting = container.waitForData(STREAM, 0, new AbortController().signal);
    await bench.until(container.close());
    await waiting;
  });
});
