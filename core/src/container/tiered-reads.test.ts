import { describe, expect, it } from "vitest";
import type { Container } from "./container.ts";
import { FRAME_KIND } from "./counting.ts";
import { Bench, pack, request, STREAM } from "./testing/bench.ts";
import { peekFrameKind } from "./wal-frame.ts";

const PAGE = { eventsMax: 100, bytesMax: 1_000_000 };
const NO_SIGNAL = new AbortController().signal;
const CLOSE = { events: undefined, contentType: undefined, close: true };
const decoder = new TextDecoder();
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** Holds what passes it until it is told to let it through. */
class Gate {
  #held: (() => void)[] = [];

  pass(): Promise<void> {
    return new Promise((resolve) => this.#held.push(resolve));
  }

  get holds(): boolean {
    return this.#held.length > 0;
  }

  open(): void {
    for (const go of this.#held.splice(0)) go();
  }
}

/** A container whose objects of events come into the lake through the gate. */
async function behindGate(bench: Bench, gate: Gate): Promise<Container> {
  bench.wrapStore = (store) => ({
    ...store,
    put: async (name, data) => {
      if (name.includes("/blocks/")) await gate.pass();
      return store.put(name, data);
    },
  });
  const container = await bench.open({ flushBytes: 1 });
  await bench.stream(container);
  await bench.settle(() => gate.holds);
  return container;
}

async function tiered(bench: Bench, container: Container, chain = 0): Promise<string[]> {
  const { events } = await bench.until(container.read(STREAM, chain, PAGE, "tiered"));
  return events.map((event) => decoder.decode(event.data));
}

describe("readers at level tiered", () => {
  it("see what is in the lake, wait for more of it, and hear of a close once it is there", async () => {
    const bench = new Bench();
    const gate = new Gate();
    const container = await behindGate(bench, gate);
    await bench.until(container.append(STREAM, request(["a", "b"])));
    gate.open();
    await bench.settle(() => gate.holds);
    expect(await tiered(bench, container)).toEqual([]);
    expect(container.endOf(STREAM, "tiered")).toEqual({ chain: 0, closed: false });
    let woken = false;
    const waiting = container.waitForData(STREAM, 0, NO_SIGNAL, "tiered").then(() => {
      woken = true;
    });
    // What is only committed wakes nobody here.
    await bench.until(container.append(STREAM, { ...CLOSE, events: pack(["c"]) }));
    await turn();
    expect(woken).toBe(false);
    gate.open();
    await bench.until(waiting);
    await bench.settle(() => gate.holds);
    expect(await tiered(bench, container)).toEqual(["a", "b"]);
    expect(await bench.texts(container)).toEqual(["a", "b", "c"]);
    expect(container.endOf(STREAM, "tiered")).toEqual({ chain: 2, closed: false });
    expect(container.endOf(STREAM, "committed")).toEqual({ chain: 3, closed: true });
    const closing = container.waitForData(STREAM, 3, NO_SIGNAL, "tiered");
    gate.open();
    await bench.until(closing);
    expect(await tiered(bench, container)).toEqual(["a", "b", "c"]);
    expect(container.endOf(STREAM, "tiered")).toEqual({ chain: 3, closed: true });
  });

  it("see it only once the WAL has the checkpoint: until then a lost WAL may take it back", async () => {
    const bench = new Bench();
    const gate = new Gate();
    bench.wrapLog = (log) => ({
      ...log,
      append: async (data, expectedLast) => {
        if (peekFrameKind(data) === FRAME_KIND.checkpoint) await gate.pass();
        return log.append(data, expectedLast);
      },
    });
    const container = await bench.open({ flushBytes: 1, appendTimeoutMs: 1e12 });
    await bench.stream(container);
    await bench.settle(() => gate.holds);
    gate.open();
    await bench.until(container.append(STREAM, request(["a"])));
    await bench.settle(() => gate.holds);
    expect(bench.lake).toHaveLength(2);
    expect(await tiered(bench, container)).toEqual([]);
    const waiting = container.waitForData(STREAM, 0, NO_SIGNAL, "tiered");
    gate.open();
    await bench.until(waiting);
    expect(await tiered(bench, container)).toEqual(["a"]);
  });

  it("hear of a close without events, too, and of a stream that is registered closed", async () => {
    const bench = new Bench();
    const gate = new Gate();
    const container = await behindGate(bench, gate);
    const other = "9".repeat(32);
    await bench.until(container.append(STREAM, CLOSE));
    await bench.until(container.ensureStream({ id: other, segments: [], contentType: "text/plain", closed: true }));
    gate.open();
    await bench.settle(() => gate.holds);
    const ends = (of: Container) => [STREAM, other].map((id) => of.endOf(id, "tiered")?.closed);
    expect(ends(container)).toEqual([false, false]);
    const waiting = [STREAM, other].map((id) => container.waitForData(id, 0, NO_SIGNAL, "tiered"));
    gate.open();
    await bench.until(Promise.all(waiting));
    expect(ends(container)).toEqual([true, true]);
    // And an owner that has it from the lake knows it.
    bench.wrapStore = (store) => store;
    expect(ends(await bench.open())).toEqual([true, true]);
  });

  it("are let go when the stream is deleted and when the container ends", async () => {
    const bench = new Bench();
    const container = await bench.open();
    const other = "9".repeat(32);
    for (const id of [STREAM, other]) await bench.stream(container, id);
    const waiting = container.waitForData(STREAM, 0, NO_SIGNAL, "tiered");
    await bench.until(container.append(STREAM, request(["a"])));
    await bench.until(container.deleteStream(STREAM));
    await bench.until(waiting);
    expect(container.endOf(STREAM, "tiered")).toBeUndefined();
    const last = container.waitForData(other, 0, NO_SIGNAL, "tiered");
    await bench.until(container.close());
    await last;
  });

  it("of the next owner see what its checkpoint covers; a position behind that stays where it is", async () => {
    const bench = new Bench();
    const container = await bench.open({ flushBytes: 1 });
    await bench.stream(container);
    await bench.until(container.append(STREAM, request(["a"])));
    await bench.settle(() => container.endOf(STREAM, "tiered")?.chain === 1);
    const second = await bench.open();
    await bench.until(second.append(STREAM, request(["b", "c"])));
    const next = await bench.open();
    expect(await bench.texts(next)).toEqual(["a", "b", "c"]);
    expect(await tiered(bench, next)).toEqual(["a"]);
    expect(await bench.until(next.read(STREAM, 2, PAGE, "tiered"))).toEqual({ events: [], nextChain: 2 });
    const waiting = next.waitForData(STREAM, 2, NO_SIGNAL, "tiered");
    await bench.until(next.close());
    await waiting;
    expect(await tiered(bench, await bench.open())).toEqual(["a", "b", "c"]);
  });
});
