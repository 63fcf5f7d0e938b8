import { createMemoryBus } from "@tributary/common/engines/memory-bus";
import { TributaryError } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { type FetchAnswer, type FetchRequest, type ResolveRequest, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CoreHistory } from "./core-history.ts";
import { StreamTable } from "./stream-table.ts";

const WRITER = "ee".repeat(16);
const ID = "aa".repeat(16);
const [stream] = new StreamTable({
  streams: [
    {
      id: ID,
      name: { scope: "default", stream: "s" },
      contentType: "text/plain",
      segments: 1,
      createdAtMs: 0,
      closed: false,
      deleted: false,
      nextOrdinal: 100,
      firstOrdinal: 0,
      streamSeq: "",
      mapping: { id: ID, segments: 1, containers: [0] },
    },
  ],
  producers: [],
  packetIds: [],
}).sorted();
if (!stream) throw new Error("there is one stream");

interface Held {
  readonly incarnation: string;
  readonly number: number;
}

/** A core that holds these events in this order, and answers pages of `pageEvents`. */
async function history(held: readonly Held[], pageEvents: number, idAtCore = ID) {
  const bus = createMemoryBus();
  let requests = 0;
  await bus.serve(UPLINK_SUBJECTS.control("c"), {}, async (payload) => {
    const request = decodeCbor(payload) as FetchRequest | ResolveRequest;
    if (request.type === "resolve") {
      expect(request.streams).toMatchObject([{ name: { scope: "default", stream: "s" }, create: false }]);
      return encodeCbor({ streams: [{ id: idAtCore, contentType: "text/plain", segments: 1, containers: [0], problem: "" }] });
    }
    requests++;
    expect(request).toMatchObject({ type: "fetch", writer: WRITER, name: { scope: "default", stream: "s" } });
    const from = request.offset === "-1" ? 0 : Number(request.offset);
    const page = held.slice(from, from + pageEvents);
    const answer: FetchAnswer = {
      events: page.map(({ incarnation, number }) => ({
        key: "k",
        timeMs: 1,
        incarnation,
        lane: "live",
        number,
        data: new TextEncoder().encode(`${incarnation}-${number}`),
      })),
      nextOffset: String(from + page.length),
      upToDate: from + page.length >= held.length,
    };
    return encodeCbor(answer);
  });
  const core = new CoreHistory(bus, "c", 1_000);
  const read = async (from: number, end: number, bytesMax = 1_000) => {
    const page = await core.read(stream as NonNullable<typeof stream>, WRITER, from, end, bytesMax);
    return page && { ...page, events: page.events.map((event) => [event.ordinal, new TextDecoder().decode(event.data)]) };
  };
  return { read, requests: () => requests };
}

const run = (incarnation: string, first: number, last: number): Held[] =>
  Array.from({ length: last - first + 1 }, (_, i) => ({ incarnation, number: first + i }));

describe("events read back from the core", () => {
  test("ordinals go on over incarnations", async () => {
    const { read } = await history([...run("x", 1, 3), ...run("y", 1, 2)], 10);
    expect(await read(0, 5)).toEqual({
      events: [
        [0, "x-1"],
        [1, "x-2"],
        [2, "x-3"],
        [3, "y-1"],
        [4, "y-2"],
      ],
      nextOrdinal: 5,
    });
    expect(await read(4, 5)).toEqual({ events: [[4, "y-2"]], nextOrdinal: 5 });
    expect((await read(1, 3))?.events).toEqual([
      [1, "x-2"],
      [2, "x-3"],
    ]);
  });

  test("a reader who goes on does not begin anew", async () => {
    const { read, requests } = await history(run("x", 1, 50), 5);
    let pages = 0;
    for (let ordinal = 0; ordinal < 50; pages++) ordinal = (await read(ordinal, 50, 1))?.nextOrdinal ?? 50;
    expect(pages).toBe(10);
    expect(requests()).toBe(10);
  });

  test("another stream of that name at the core is left alone", async () => {
    const { read, requests } = await history(run("x", 1, 3), 10, "bb".repeat(16));
    expect(await read(0, 3)).toBeUndefined();
    expect(requests()).toBe(0);
  });

  test("what was given up is skipped", async () => {
    const { read } = await history([...run("x", 1, 2), ...run("x", 6, 7)], 10);
    expect((await read(0, 7))?.events.map(([ordinal]) => ordinal)).toEqual([0, 1]);
    expect((await read(2, 7))?.events.map(([ordinal]) => ordinal)).toEqual([5, 6]);
  });

  test("nothing where the core has nothing, or not yet", async () => {
    const { read } = await history(run("x", 1, 2), 10);
    expect(await read(2, 5)).toBeUndefined();
    const empty = await history([], 10);
    expect(await empty.read(0, 5)).toBeUndefined();
  });

  test("an absent core is an error", async () => {
    const core = new CoreHistory(createMemoryBus(), "c", 1_000);
    await expect(core.read(stream, WRITER, 0, 5, 100)).rejects.toBeInstanceOf(TributaryError);
  });

  // Segments interleave: the numbers of a writer come a little out of order. Whatever the pages and the order of the reads, each
  // event comes once under its own ordinal.
  test("out of order, in pages of any size, from anywhere", async () => {
    const lengths = fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(
        lengths,
        fc.integer({ min: 1, max: 9 }),
        fc.infiniteStream(fc.nat(3)),
        fc.array(fc.nat(47), { maxLength: 6 }),
        async (lengths, page, swaps, starts) => {
          const truth: Held[] = lengths.flatMap((length, i) => run(`i${i}`, 1, length));
          const held = lengths.flatMap((length, i) => {
            const events = run(`i${i}`, 1, length);
            // Two segments of one block: the even numbers first, now and then.
            return swaps.next().value === 0
              ? [...events.filter((e) => e.number % 2 === 0), ...events.filter((e) => e.number % 2 === 1)]
              : events;
          });
          const { read } = await history(held, page);
          for (const start of [...starts, 0]) {
            let ordinal = Math.min(start, truth.length);
            while (ordinal < truth.length) {
              const found = await read(ordinal, truth.length);
              for (const [at, text] of found?.events ?? []) {
                expect(at).toBe(ordinal++);
                const event = truth[Number(at)];
                expect(text).toBe(`${event?.incarnation}-${event?.number}`);
              }
              expect(found?.nextOrdinal).toBe(ordinal);
            }
          }
        },
      ),
      { numRuns: 200 },
    );
  });
});
