import { createMemoryBus } from "@tributary/common/engines/memory-bus";
import { TributaryError } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { type FetchAnswer, type FetchRequest, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { LocalEvent } from "../store/edge-store.ts";
import type { LocalEra } from "../store/local-eras.ts";
import { CoreHistory } from "./core-history.ts";
import { type StreamState, StreamTable } from "./stream-table.ts";

const WRITER = "ee".repeat(16);
const ID = "aa".repeat(16);

function streamOf(eras: readonly LocalEra[], segments = 1): StreamState {
  const record = {
    id: ID,
    name: { scope: "default", stream: "s" },
    contentType: "text/plain",
    segments: 1,
    createdAtMs: 0,
    closed: false,
    deleted: false,
    nextOrdinal: 100,
    firstOrdinal: 0,
    eras,
    streamSeq: "",
    mapping: { id: ID, segments, containers: [0] },
  };
  const [stream] = new StreamTable({ streams: [record], producers: [], packetIds: [] }).sorted();
  if (!stream) throw new Error("there is one stream");
  return stream;
}

/** The id of an incarnation that a test calls `name`. */
const idOf = (name: string) => Buffer.from(name).toString("hex").padEnd(16, "0");
const era = (name: string, ordinal: number, count: number, first = 1): LocalEra => {
  return { ordinal, count, incarnation: idOf(name), lane: "live", first };
};

interface Held {
  readonly incarnation: string;
  readonly number: number;
  /** Of a gap record: its first number. */
  readonly first?: number;
  /** Of a gap record: how many numbers it stands for. */
  readonly count?: number;
}

/** Eras of a log that wrote exactly this, in the order of incarnation and number. */
function erasOf(held: readonly Held[]): LocalEra[] {
  const eras: LocalEra[] = [];
  for (const incarnation of new Set(held.map((one) => one.incarnation))) {
    const last = Math.max(...held.filter((one) => one.incarnation === incarnation).map(({ number }) => number));
    eras.push(era(incarnation, (eras.at(-1)?.ordinal ?? 0) + (eras.at(-1)?.count ?? 0), last));
  }
  return eras;
}

interface HistoryOptions {
  readonly eras?: readonly LocalEra[];
  readonly segments?: number;
  readonly idAtCore?: string;
}

/** A core that holds these events and gap records in this order, and answers pages of `pageEvents`. */
async function history(held: readonly Held[], pageEvents: number, { eras = erasOf(held), segments, idAtCore = ID }: HistoryOptions = {}) {
  const stream = streamOf(eras, segments);
  const bus = createMemoryBus();
  let requests = 0;
  await bus.serve(UPLINK_SUBJECTS.control("c"), {}, async (payload) => {
    const request = decodeCbor(payload) as FetchRequest;
    requests++;
    expect(request).toMatchObject({ type: "fetch", writer: WRITER, name: { scope: "default", stream: "s" } });
    const from = request.offset === "-1" ? 0 : Number(request.offset);
    const page = held.slice(from, from + pageEvents);
    const answer: FetchAnswer = {
      streamId: idAtCore,
      gaps: page.flatMap(({ incarnation, number, first, count }) =>
        first === undefined
          ? []
          : [
              {
                incarnation: idOf(incarnation),
                lane: "live" as const,
                first,
                last: number,
                count: count ?? number - first + 1,
                reason: "quota" as const,
              },
            ],
      ),
      events: page
        .filter(({ first }) => first === undefined)
        .map(({ incarnation, number }) => ({
          key: "k",
          timeMs: 1,
          incarnation: idOf(incarnation),
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
    const page = await core.read(stream, WRITER, from, end, bytesMax);
    const told = ({ ordinal, gap, data }: LocalEvent) => [
      ordinal,
      gap ? `${gap.count} lost: ${gap.reason}` : new TextDecoder().decode(data),
    ];
    return page && { ...page, events: page.events.map(told) };
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
    const { read } = await history(run("x", 1, 3), 10, { idAtCore: "bb".repeat(16) });
    expect(await read(0, 3)).toBeUndefined();
  });

  test("where the core has nothing, the answer begins with the next that it has", async () => {
    const { read } = await history([...run("x", 1, 2), ...run("x", 6, 7)], 10);
    expect((await read(0, 7))?.events.map(([ordinal]) => ordinal)).toEqual([0, 1]);
    expect((await read(2, 7))?.events.map(([ordinal]) => ordinal)).toEqual([5, 6]);
  });

  test("gap records stand where their events stood (simulation, seeds 7, 9, 42)", async () => {
    const { read } = await history([...run("x", 1, 2), { incarnation: "x", first: 3, number: 5 }, ...run("x", 6, 7)], 10);
    expect((await read(0, 7))?.events).toEqual([
      [0, "x-1"],
      [1, "x-2"],
      [2, "3 lost: quota"],
      [5, "x-6"],
      [6, "x-7"],
    ]);
    expect((await read(3, 4))?.events).toEqual([[3, "1 lost: quota"]]);
    expect((await read(4, 6))?.events).toEqual([
      [4, "1 lost: quota"],
      [5, "x-6"],
    ]);
  });

  test("numbers between those of another segment's gap may still come", async () => {
    const held = [
      ...run("x", 1, 1),
      { incarnation: "x", first: 2, number: 6, count: 3 },
      ...run("x", 3, 3),
      ...run("x", 5, 5),
      ...run("x", 7, 7),
    ];
    const { read } = await history(held, 2, { segments: 2, eras: [era("x", 0, 7)] });
    expect((await read(1, 7))?.events).toEqual([
      [1, "1 lost: quota"],
      [2, "x-3"],
      [3, "1 lost: quota"],
      [4, "x-5"],
      [5, "1 lost: quota"],
      [6, "x-7"],
    ]);
  });

  // Old guess: an incarnation begins behind the last event of the one before it in the core's order.
  test("incarnations that interleave at the core keep their places (simulation, seeds 496, 709)", async () => {
    const held = [...run("x", 1, 2), ...run("y", 1, 2), ...run("x", 3, 4), ...run("y", 3, 3)];
    const { read } = await history(held, 2, { segments: 2, eras: [era("x", 0, 4), era("y", 4, 3)] });
    const events: unknown[] = [];
    for (let at = 0; at < 7; ) {
      const page = await read(at, 7);
      events.push(...(page?.events ?? []));
      at = page?.nextOrdinal ?? 7;
    }
    expect(events).toEqual(["x-1", "x-2", "x-3", "x-4", "y-1", "y-2", "y-3"].map((text, i) => [i, text]));
  });

  test("what a copy of the log or a lost branch of it wrote is not this log's (simulation, seeds 86, 101, 25)", async () => {
    // x went on to 5 in the branch that is lost, and z is its child; here y follows x-3.
    const held = [...run("x", 1, 5), ...run("z", 1, 3), { incarnation: "z", first: 4, number: 9 }, ...run("y", 1, 2)];
    const { read } = await history(held, 4, { eras: [era("x", 0, 3), era("y", 3, 2)] });
    expect((await read(0, 5))?.events.concat((await read(3, 5))?.events ?? [])).toEqual(
      ["x-1", "x-2", "x-3", "y-1", "y-2"].map((text, i) => [i, text]),
    );
  });

  test("what damage left no record of is a gap, and what the log has forgotten is not given", async () => {
    const held = [...run("x", 1, 4), ...run("y", 1, 9), ...run("z", 1, 2)];
    const { read } = await history(held, 20, { eras: [era("x", 2, 2, 3), era("z", 9, 2)] });
    expect((await read(0, 11))?.events).toEqual([
      [2, "x-3"],
      [3, "x-4"],
      [4, "5 lost: corrupt"],
      [9, "z-1"],
      [10, "z-2"],
    ]);
  });

  test("nothing where the core has nothing, or not yet", async () => {
    const { read } = await history(run("x", 1, 2), 10);
    expect(await read(2, 5)).toBeUndefined();
    const empty = await history([], 10);
    expect(await empty.read(0, 5)).toBeUndefined();
    await expect((await history(run("x", 1, 2), 10, { eras: [] })).read(0, 5)).resolves.toBeUndefined();
  });

  test("an absent core is an error", async () => {
    const core = new CoreHistory(createMemoryBus(), "c", 1_000);
    await expect(core.read(streamOf([]), WRITER, 0, 5, 100)).rejects.toBeInstanceOf(TributaryError);
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
          const { read } = await history(held, page, { eras: erasOf(truth) });
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
