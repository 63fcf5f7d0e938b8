import { beforeEach, describe, expect, it } from "vitest";
import { type Copy, EdgeLogs } from "./edge-logs.ts";
import { type PlainRecord, runOf, type Submission } from "./plain.ts";
import { checkSubmissions, type Excuse, type ReadRecord, type StreamRead } from "./submissions.ts";
import {
  commitRecord,
  deleteRecord,
  dropRecord,
  freedRecord,
  incarnationOf,
  mapRecord,
  STREAM_ID,
  startRecord,
  WRITER,
} from "./testing/hand-made-log.ts";

const DISK = "disk";
/** The core's stream to which the gateway's is mapped, and the gateway's next one of the name. */
const CORE_ID = "c".repeat(32);
const NEXT_ID = "d".repeat(32);
const NEXT_CORE_ID = "e".repeat(32);
/** Where the log says to what its streams are mapped. */
const MAPPED_SEQ = 100;
/** Of two segments it goes into another one than the key of the other events. */
const OTHER_HALF = "l";
const NONE: Excuse = { missing: false, doubled: false };
const WHOLE = { id: "0.0.0", range: { from: 0, to: 2 ** 32 } };

/** Event `id`, sent at 10 × id and acknowledged 5 later. */
function sent(id: number, changes: Partial<Submission> = {}): Submission {
  const firstMs = 10 * id;
  const told = { firstMs, lastMs: firstMs, ackMs: firstMs + 5, attempts: 1, refused: false };
  return { id, client: "c", writer: DISK, stream: "s", key: "k", promise: "exactly-once", ...told, ...changes };
}

describe("submissions and gateways' logs", () => {
  let found: string[];
  let logs: EdgeLogs;
  let submissions: Submission[];
  let records: ReadRecord[];
  beforeEach(() => {
    found = [];
    logs = new EdgeLogs(
      (invariant, kind) => found.push(`${invariant} ${kind}`),
      (data) => Number(Buffer.from(data).toString()),
    );
    logs.landed(DISK, 1, startRecord(1, "a"));
    logs.landed(DISK, MAPPED_SEQ, mapRecord(MAPPED_SEQ, STREAM_ID, CORE_ID));
    submissions = [sent(0), sent(1), sent(2)];
    records = [];
    for (const id of [0, 1, 2]) logs.landed(DISK, 2 + id, commitRecord(2 + id, "a", 1 + id, [id]));
  });

  function read(id: number, number: number, changes: Partial<PlainRecord> = {}): void {
    const at = { segment: "0.0.0", ordinal: records.length, writer: WRITER, incarnation: incarnationOf("a"), lane: "live" };
    records.push({ ...at, id, number, key: "k", ...changes });
  }

  /** Of incarnation "a", under the numbers that they have there. */
  function readIds(...ids: number[]): void {
    for (const id of ids) read(id, id + 1);
  }

  function readGap(first: number, number: number, changes: Partial<PlainRecord> = {}): void {
    read(-1, number, { key: "", gap: { first, count: number - first + 1 }, ...changes });
  }

  type Facts = Parameters<typeof checkSubmissions>[1];

  /** What is found in the records, where they were read in one stream of the core; what was found before stays. */
  function judgeWith(changes: Partial<Facts>, read: Partial<StreamRead> = {}): string[] {
    checkSubmissions([{ id: CORE_ID, stream: "s", segments: [WHOLE], records, ...read }], { ...facts(), ...changes });
    return found;
  }

  function facts(): Facts {
    return {
      submissions,
      logs,
      beganMs: Number.POSITIVE_INFINITY,
      excuse: () => NONE,
      isDeclaredUnread: () => false,
      wasDeleted: () => false,
      wasClosed: () => false,
      cameAgainMs: () => undefined,
      underWayMsMax: 1_000,
      hasEnded: () => false,
      violate: (invariant, kind) => found.push(`${invariant} ${kind}`),
    };
  }

  function judge(excuse: Excuse = NONE, segments: StreamRead["segments"] = [WHOLE]): string[] {
    return judgeWith({ excuse: () => excuse }, { segments });
  }

  it("accepts what was sent, logged and acknowledged", () => {
    readIds(0, 1, 2);
    expect(judge()).toEqual([]);
  });

  it.each<[string, () => void, string]>([
    ["a lost event", () => readIds(0, 2), "1 lost"],
    ["bytes of nobody", () => read(-1, 1), "1 foreign bytes"],
    ["another key", () => read(0, 1, { key: "other" }), "1 foreign key"],
    ["a number that no log gave it", () => read(1, 1), "1 never logged"],
    ["a number of another incarnation", () => read(1, 2, { incarnation: incarnationOf("b") }), "1 never logged"],
    ["another order than the log's", () => readIds(1, 0, 2), "2 reordered"],
  ])("finds %s", (_, make, expected) => {
    make();
    expect(judge()).toContain(expected);
  });

  it("finds an event in a stream of the core to which its own was never mapped", () => {
    logs.landed(DISK, 5, commitRecord(5, "a", 4, [3], NEXT_ID));
    submissions.push(sent(3));
    readIds(0, 1, 2);
    read(3, 4);
    expect(judge().splice(0)).toEqual(["1 never logged"]);
    logs.landed(DISK, 6, mapRecord(6, NEXT_ID, CORE_ID));
    expect(judge()).toEqual([]);
  });

  it("finds a double, but where the device sent it twice and may", () => {
    logs.landed(DISK, 5, commitRecord(5, "a", 4, [2]));
    for (const [id, number] of [
      [0, 1],
      [1, 2],
      [2, 3],
      [2, 4],
    ] as const)
      read(id, number);
    expect(judge().splice(0)).toEqual(["1 doubled"]);
    expect(judge({ ...NONE, doubled: true }).splice(0)).toEqual([]);
    submissions[2] = sent(2, { promise: "at-least-once", attempts: 2 });
    expect(judge()).toEqual([]);
  });

  it("that a closed stream held may stand behind later ones in the next one, where a copy of the log brought them", () => {
    const judgeAfterClose = (...closed: number[]) =>
      judgeWith({ wasClosed: (id, streamId) => streamId === CORE_ID && closed.includes(id) }).splice(0);
    readIds(2, 0, 1);
    expect(judgeAfterClose(0, 1)).toContain("2 reordered");
    logs.copied(DISK, "clone");
    expect(judgeAfterClose(0, 1)).toEqual([]);
    expect(judgeAfterClose(0)).toContain("2 reordered");
    records = [];
    readIds(2, 1, 0);
    expect(judgeAfterClose(0, 1)).toContain("2 reordered");
  });

  it("of a closed stream come behind later ones where a backup brings what the lost disk had freed before it came to the next (seed 67)", () => {
    const judgeNext = (...ids: number[]) => {
      records = [];
      readIds(...ids);
      return judgeWith({ wasClosed: () => true }, { id: NEXT_CORE_ID }).splice(0);
    };
    // It says so before the records go (seed 5369).
    logs.landed(DISK, 101, freedRecord(101, "a", 3));
    logs.landed(DISK, 102, mapRecord(102, STREAM_ID, NEXT_CORE_ID));
    expect(judgeNext(2, 0, 1)).toContain("2 reordered");
    logs.replaced(DISK, 100);
    logs.landed(DISK, 101, mapRecord(101, STREAM_ID, NEXT_CORE_ID));
    expect(judgeNext(2, 0, 1)).toEqual([]);
    // The disk that was lost had freed both, or none of them.
    expect(judgeNext(1, 0, 2)).toContain("2 reordered");
  });

  describe("that the core lost and was given once more", () => {
    const free = (log: string, throughSeq: number, atMs: number) => logs.freeing(log, throughSeq, atMs, () => true);
    /** Events 1 and 2 came to the stream once more at 200; "clone" wrote event 3 meanwhile, the log that it is a copy of event 4. */
    const judgeAgain = (...ids: number[]) => {
      records = [];
      for (const id of ids) read(id, id < 3 ? id + 1 : 1, { incarnation: incarnationOf(["a", "a", "a", "b", "c"][id] as string) });
      return judgeWith({
        excuse: ({ id }) => ({ missing: id > 2, doubled: false }),
        cameAgainMs: (id, streamId) => ((id === 1 || id === 2) && streamId === CORE_ID ? 200 : undefined),
      }).splice(0);
    };
    beforeEach(() => {
      logs.copied(DISK, "clone");
      logs.landed("clone", 5, commitRecord(5, "b", 1, [3]));
      logs.landed(DISK, 5, commitRecord(5, "c", 1, [4]));
      submissions.push(sent(3, { writer: "clone" }), sent(4));
    });

    it("come behind what a log wrote that had freed them, where a copy of it still had them (seed 570)", () => {
      expect(judgeAgain(0, 3, 1, 2)).toEqual(["2 reordered"]);
      free("clone", 3, 100);
      expect(judgeAgain(0, 3, 1, 2)).toEqual(["2 reordered"]);
      free("clone", 4, 100);
      expect(judgeAgain(0, 3, 1, 2)).toEqual([]);
    });

    it("come behind what their own writer was sent since, too", () => {
      expect(judgeAgain(0, 4, 1, 2)).toContain("2 reordered");
      free(DISK, 4, 100);
      expect(judgeAgain(0, 4, 1, 2)).toEqual([]);
    });

    it("are in order where they were freed only when they had come", () => {
      free("clone", 4, 300);
      expect(judgeAgain(0, 3, 1, 2)).toContain("2 reordered");
    });

    it("are in order where nobody had them any more", () => {
      free("clone", 4, 100);
      free(DISK, 4, 150);
      expect(judgeAgain(0, 3, 1, 2)).toContain("2 reordered");
    });

    it("are in order among themselves, and behind what the core did not lose", () => {
      free("clone", 4, 100);
      expect(judgeAgain(0, 3, 2, 1)).toContain("2 reordered");
      expect(judgeAgain(3, 1, 2, 0)).toContain("2 reordered");
    });

    it("are in order where a backup that may still have them took the place of the log that freed them", () => {
      free("clone", 4, 100);
      logs.replaced("clone", 4);
      logs.landed("clone", 5, commitRecord(5, "d", 1, [3]));
      records = [];
      read(0, 1);
      read(3, 1, { incarnation: incarnationOf("d") });
      read(1, 2);
      read(2, 3);
      expect(judgeWith({ cameAgainMs: () => 200 })).toContain("2 reordered");
    });
  });

  it("may be in two streams where that of the log ended before they came to it, and a copy of the log brought them elsewhere (seed 2433)", () => {
    const gone = "f".repeat(32);
    logs.landed(DISK, 101, mapRecord(101, STREAM_ID, NEXT_CORE_ID));
    const judgeBoth = (times: number) => {
      readIds(0, 1, 2);
      const next = { id: NEXT_CORE_ID, stream: "s.quarantine", segments: [WHOLE], records };
      records = [];
      for (let i = 0; i < times; i++) readIds(0, 1, 2);
      checkSubmissions([{ id: CORE_ID, stream: "s", segments: [WHOLE], records }, next], { ...facts(), hasEnded: (id) => id === gone });
      records = [];
      return found.splice(0);
    };
    const doubled = ["1 doubled", "1 doubled", "1 doubled"];
    logs.landed(DISK, 102, mapRecord(102, NEXT_ID, gone));
    logs.copied(DISK, "clone");
    expect(judgeBoth(1)).toEqual(doubled);
    logs.landed(DISK, 103, mapRecord(103, STREAM_ID, gone));
    expect(judgeBoth(1)).toEqual([]);
    expect(judgeBoth(2)).toEqual(expect.arrayContaining(doubled));
  });

  describe("that were in a stream which is deleted", () => {
    const judgeAfterDeletion = (...deleted: number[]) => judgeWith({ wasDeleted: (id) => deleted.includes(id) }).splice(0);

    it("may stand behind later ones, and twice, where a copy of the log brought them", () => {
      readIds(2, 0, 1, 1);
      expect(judgeAfterDeletion(0, 1)).not.toEqual([]);
      logs.copied(DISK, "clone");
      expect(judgeAfterDeletion(0, 1)).toEqual([]);
      expect(judgeAfterDeletion(0)).toContain("2 reordered");
    });

    it("are in order among themselves", () => {
      logs.copied(DISK, "clone");
      readIds(2, 1, 0);
      expect(judgeAfterDeletion(0, 1)).toContain("2 reordered");
    });

    it("may stand behind those that only the log had whose place a backup took", () => {
      logs.landed(DISK, 5, commitRecord(5, "a", 4, [3]));
      submissions.push(sent(3));
      readIds(3, 0, 1, 2);
      expect(judgeAfterDeletion(0, 1, 2, 3)).toContain("2 reordered");
      logs.replaced(DISK, 4);
      expect(judgeAfterDeletion(0, 1, 2, 3)).toEqual([]);
      records = [];
      readIds(3, 1, 0, 2);
      expect(judgeAfterDeletion(0, 1, 2, 3)).toContain("2 reordered");
    });

    it("may stand behind later ones where they were sent again without a log", () => {
      submissions = [sent(3, { attempts: 2 }), sent(4)].map((submission, id) => ({ ...submission, id, writer: "core" }));
      for (const id of [1, 0]) read(id, 1, { writer: "c".repeat(32) });
      const inNoLog = () => {
        logs = new EdgeLogs(() => {}, Number);
        return judgeAfterDeletion(0);
      };
      expect(inNoLog()).toEqual([]);
      submissions[0] = { ...(submissions[0] as Submission), attempts: 1 };
      expect(inNoLog()).toEqual(["2 reordered"]);
    });
  });

  it("that the core lost may stand behind later ones where they were sent to it again, and come only then (seeds 3035, 4090)", () => {
    const sentToCore = (attempts: number) =>
      [sent(3, { attempts, lastMs: 50 }), sent(4)].map((submission, id) => ({ ...submission, id, writer: "core" }));
    for (const id of [1, 0]) read(id, 1, { writer: "c".repeat(32) });
    const judgeAgain = (attempts: number, atMs: number | undefined) => {
      submissions = sentToCore(attempts);
      return judgeWith({ cameAgainMs: (id) => (id === 0 ? atMs : undefined) }).splice(0);
    };
    logs = new EdgeLogs(() => {}, Number);
    expect(judgeAgain(2, 50)).toEqual([]);
    // The later one was sent when the core had the other one again.
    expect(judgeAgain(2, 39)).toEqual(["2 reordered"]);
    expect(judgeAgain(2, undefined)).toEqual(["2 reordered"]);
    // Nobody had sent it again.
    expect(judgeAgain(2, 1_051)).toEqual(["2 reordered"]);
    expect(judgeAgain(1, 50)).toEqual(["2 reordered"]);
  });

  it("finds what was refused and is there", () => {
    submissions[1] = sent(1, { refused: true, ackMs: undefined });
    readIds(0, 1, 2);
    expect(judge()).toEqual(["1 refused but there"]);
  });

  it("knows after which events another incarnation wrote to their stream", () => {
    expect(logs.wasFollowed(0)).toBe(false);
    logs.landed(DISK, 5, commitRecord(5, "b", 1, [3]));
    expect(logs.wasFollowed(0)).toBe(true);
    expect(logs.wasFollowed(3)).toBe(false);
  });

  it("takes gap records of whichever streams the gateway's was mapped to, and of no others (seed 2591)", () => {
    readIds(1, 2);
    const gap = { ordinal: 0, segment: "0.0.0", writer: WRITER, incarnation: incarnationOf("a"), lane: "live", id: -1, number: 1, key: "" };
    const recovered = {
      id: NEXT_CORE_ID,
      stream: "s.recovered-eeeeeeee",
      segments: [WHOLE],
      records: [{ ...gap, gap: { first: 1, count: 1 } }],
    };
    const judgeBoth = () => {
      checkSubmissions([{ id: CORE_ID, stream: "s", segments: [WHOLE], records }, recovered], facts());
      return found.splice(0);
    };
    expect(judgeBoth()).toEqual(["1 lost"]);
    logs.landed(DISK, 101, mapRecord(101, STREAM_ID, NEXT_CORE_ID));
    expect(judgeBoth()).toEqual([]);
  });

  it("knows what an incarnation wrote behind an event into its segment (seed 2470)", () => {
    const behind = () => logs.behind(logs.copiesOf(0)[0] as Copy, CORE_ID).map(({ id }) => id);
    logs.landed(DISK, 5, commitRecord(5, "b", 4, [3]));
    logs.landed(DISK, 6, commitRecord(6, "a", 4, [4], NEXT_ID));
    logs.landed(DISK, 7, commitRecord(7, "a", 4, [5], STREAM_ID, OTHER_HALF));
    logs.landed(DISK, 8, commitRecord(8, "a", 5, [6]));
    expect(behind()).toEqual([1, 2, 5, 6]);
    logs.landed(DISK, 101, mapRecord(101, STREAM_ID, CORE_ID, 2));
    expect(behind()).toEqual([1, 2, 6]);
  });

  it("does not ask for what was never acknowledged", () => {
    submissions[2] = sent(2, { ackMs: undefined });
    readIds(0, 1);
    expect(judge()).toEqual([]);
  });

  it("does not ask for what was acknowledged since the read began (seed 7694)", () => {
    readIds(0, 1);
    expect(judgeWith({ beganMs: 25 })).toEqual([]);
    expect(judgeWith({ beganMs: 26 })).toEqual(["1 lost"]);
  });

  it("finds an acknowledged event that no log ever had", () => {
    submissions.push(sent(3));
    readIds(0, 1, 2);
    expect(judge()).toEqual(["1 lost"]);
  });

  it("finds that the order of acknowledgements is not the log's", () => {
    submissions = [sent(0, { firstMs: 20, lastMs: 20, ackMs: 25 }), sent(1), sent(2, { firstMs: 0, lastMs: 0, ackMs: 2 })];
    readIds(0, 1, 2);
    expect(judge()).toContain("2 reordered");
  });

  describe("gap records", () => {
    it("excuse what they declare, number by number", () => {
      readGap(1, 2);
      read(2, 3);
      expect(judge()).toEqual([]);
    });

    it.each<[string, () => void]>([
      ["other numbers", () => readGap(1, 1)],
      ["another incarnation", () => readGap(1, 2, { incarnation: incarnationOf("b") })],
      ["another writer", () => readGap(1, 2, { writer: "c".repeat(32) })],
      ["another lane", () => readGap(1, 2, { lane: "backlog" })],
    ])("do not excuse by %s", (_, make) => {
      make();
      read(2, 3);
      expect(judge()).toContain("1 lost");
    });

    it("excuse what they declare also where damage keeps them from being read, and of each copy (seed 7533)", () => {
      readIds(1, 2);
      const judgeUnread = (...numbers: number[]) =>
        judgeWith({ isDeclaredUnread: ({ id, number }) => id === 0 && numbers.includes(number) }).splice(0);
      expect(judgeUnread()).toEqual(["1 lost"]);
      expect(judgeUnread(1)).toEqual([]);
      logs.landed(DISK, 5, commitRecord(5, "a", 4, [0]));
      expect(judgeUnread(1)).toEqual(["1 lost"]);
      expect(judgeUnread(1, 4)).toEqual([]);
    });

    it("of some of their numbers tell only of their own segment", () => {
      const segments = [
        { id: "0.0.0", range: { from: 0, to: 1 } },
        { id: "0.0.1", range: { from: 1, to: 2 ** 32 } },
      ];
      readGap(1, 2, { gap: { first: 1, count: 1 } });
      read(2, 3);
      expect(judge(NONE, segments).splice(0)).toEqual(["1 lost", "1 lost"]);
      records = [];
      readGap(1, 2, { segment: "0.0.1", gap: { first: 1, count: 1 } });
      read(2, 3);
      expect(judge(NONE, segments)).toEqual([]);
    });

    it("of an earlier generation tell of what stands in their segment's place (simulation, seed 195)", () => {
      const segments = [
        { id: "1.0.0", range: { from: 0, to: 1 } },
        { id: "1.0.1", range: { from: 1, to: 2 ** 32 } },
      ];
      readGap(1, 2, { segment: "0.0.1", gap: { first: 1, count: 1 } });
      read(2, 3, { segment: "1.0.1" });
      expect(judge(NONE, segments)).toEqual([]);
      records = [];
      readGap(1, 2, { segment: "0.0.0", gap: { first: 1, count: 1 } });
      read(2, 3, { segment: "1.0.1" });
      expect(judge(NONE, segments)).toEqual(["1 lost", "1 lost"]);
    });
  });

  describe("losses", () => {
    it("excuse what was in the records that went, and nothing else", () => {
      logs.damaged(DISK, 3, false);
      readIds(0, 2);
      expect(judge().splice(0)).toEqual([]);
      records = [];
      read(0, 1);
      expect(judge()).toEqual(["1 lost"]);
    });

    it("do not excuse a torn write that was acknowledged", () => {
      logs.damaged(DISK, 4, true);
      readIds(0, 1);
      expect(judge()).toEqual(["1 lost"]);
    });

    it("of a disk take what its backup does not have", () => {
      logs.replaced(DISK, 3);
      // What is written to the records anew is not lost.
      logs.landed(DISK, 4, startRecord(4, "b"));
      logs.landed(DISK, 5, commitRecord(5, "b", 1, [3]));
      submissions.push(sent(3));
      readIds(0, 1);
      expect(judge()).toEqual(["1 lost"]);
      found.splice(0);
      read(3, 1, { incarnation: incarnationOf("b") });
      expect(judge()).toEqual([]);
    });

    it("leave word of a damaged record, and none of one that a backup does not have", () => {
      const run = runOf({ writer: WRITER, incarnation: incarnationOf("a"), lane: "live" });
      const forgotten = () => [1, 2, 3].map((number) => logs.numbered(run, STREAM_ID, number).map(({ record }) => record.forgotten));
      logs.copied(DISK, "clone");
      logs.replaced("clone", 1);
      logs.damaged(DISK, 2, false);
      expect(forgotten()).toEqual([[false], [false], [false]]);
      logs.replaced(DISK, 3);
      expect(forgotten()).toEqual([[false], [false], [true]]);
    });

    it("take what was freed before the disk was replaced, too: other records stand there now", () => {
      logs.freeing(DISK, 4, 0, () => true);
      logs.replaced(DISK, 2);
      logs.landed(DISK, 3, startRecord(3, "b"));
      logs.landed(DISK, 4, commitRecord(4, "b", 1, [3]));
      submissions.push(sent(3));
      readIds(0, 1, 2);
      read(3, 1, { incarnation: incarnationOf("b") });
      expect(judge()).toEqual([]);
    });

    it("leave the order of the lost log among its own events", () => {
      logs.replaced(DISK, 2);
      read(0, 1);
      read(2, 3);
      read(1, 2);
      expect(judge()).toContain("2 reordered");
    });

    it("of a copy excuse nothing that the log itself has", () => {
      logs.copied(DISK, "clone");
      logs.damaged("clone", 3, false);
      readIds(0, 2);
      expect(judge()).toEqual(["1 lost"]);
    });
  });

  it("lets a log and its copy write side by side, each in its own order", () => {
    logs.copied(DISK, "clone");
    logs.landed("clone", 5, startRecord(5, "b"));
    logs.landed("clone", 6, commitRecord(6, "b", 1, [4]));
    logs.landed(DISK, 5, commitRecord(5, "a", 4, [3]));
    submissions.push(sent(3), sent(4, { writer: "clone" }));
    readIds(0, 1, 2);
    read(4, 1, { incarnation: incarnationOf("b") });
    read(3, 4);
    expect(judge()).toEqual([]);
    // What both have comes before what the copy wrote.
    records = [];
    readIds(0, 1);
    read(4, 1, { incarnation: incarnationOf("b") });
    read(2, 3);
    read(3, 4);
    expect(judge()).toContain("2 reordered");
  });

  it("lets what a disk had sent before a backup took its place stand behind what came since, and nothing before it", () => {
    logs.replaced(DISK, 3);
    logs.landed(DISK, 4, startRecord(4, "b"));
    logs.landed(DISK, 5, commitRecord(5, "b", 1, [3]));
    submissions.push(sent(3));
    readIds(0, 1);
    read(3, 1, { incarnation: incarnationOf("b") });
    readIds(2);
    expect(judge().splice(0)).toEqual([]);
    // The backup has it as well.
    records = [];
    readIds(0);
    read(3, 1, { incarnation: incarnationOf("b") });
    readIds(1, 2);
    expect(judge()).toContain("2 reordered");
  });

  describe("of a stream that was deleted at the gateway, and another one of its name", () => {
    beforeEach(() => {
      logs.landed(DISK, 5, deleteRecord(5, STREAM_ID));
      logs.landed(DISK, 6, mapRecord(6, NEXT_ID, CORE_ID));
      logs.landed(DISK, 7, commitRecord(7, "a", 1, [3], NEXT_ID));
      submissions.push(sent(3));
    });

    it("come in any order where a copy of the log brings what the log gave up", () => {
      read(3, 1);
      readIds(0, 1, 2);
      expect(judge().splice(0)).toContain("2 reordered");
      logs.copied(DISK, "clone");
      expect(judge()).toEqual([]);
    });

    it("come in any order where a backup from before the deletion brings them", () => {
      logs.replaced(DISK, 4);
      read(3, 1);
      readIds(0, 1, 2);
      expect(judge().splice(0)).toEqual([]);
      records = [];
      read(3, 1);
      readIds(0, 2, 1);
      expect(judge()).toContain("2 reordered");
    });

    it("come in order, each by itself", () => {
      logs.copied(DISK, "clone");
      logs.landed(DISK, 8, commitRecord(8, "a", 2, [4], NEXT_ID));
      submissions.push(sent(4));
      read(3, 1);
      readIds(0, 2, 1);
      read(4, 2);
      expect(judge().splice(0)).toContain("2 reordered");
      records = [];
      read(4, 2);
      readIds(0, 1, 2);
      read(3, 1);
      expect(judge()).toContain("2 reordered");
    });

    it("are told apart where an event that was sent again has one number in both", () => {
      logs.landed(DISK, 8, mapRecord(8, NEXT_ID, NEXT_CORE_ID));
      logs.landed(DISK, 9, commitRecord(9, "a", 2, [1], NEXT_ID));
      submissions[1] = sent(1, { promise: "at-least-once", attempts: 2, lastMs: 40 });
      read(3, 1);
      read(1, 2);
      const judgeNext = (id: string) => judgeWith({ excuse: () => ({ ...NONE, missing: true }) }, { id }).splice(0);
      expect(judgeNext(NEXT_CORE_ID)).toEqual([]);
      expect(judgeNext(CORE_ID)).toContain("2 reordered");
    });
  });

  it("lets the second copy of an event stand where it was sent again, if the first is gone", () => {
    logs.landed(DISK, 5, commitRecord(5, "a", 4, [0]));
    submissions[0] = sent(0, { promise: "at-least-once", attempts: 2, lastMs: 30 });
    readGap(1, 1);
    readIds(1, 2);
    read(0, 4);
    expect(judge()).toEqual([]);
  });

  describe("freeing", () => {
    const free = (throughSeq: number, ...safe: number[]) => {
      logs.freeing(DISK, throughSeq, 0, ({ id }) => safe.includes(id));
      return found.splice(0);
    };

    it("accepts what is safe", () => {
      expect(free(3, 0, 1)).toEqual([]);
      // What is gone is not asked for again.
      expect(free(4, 2)).toEqual([]);
    });

    it("finds what is not safe", () => {
      expect(free(3, 0)).toEqual(["8 freed early"]);
    });

    it("accepts what the log's own checkpoint gave up, and nothing beside", () => {
      logs.landed(DISK, 5, dropRecord(5, "a", 1, 2));
      expect(free(4)).toEqual(["8 freed early"]);
    });

    it("accepts what a copy of the log gave up of what both hold, and nothing that only one of them holds (seed 2072)", () => {
      logs.copied(DISK, "clone");
      logs.landed("clone", 5, dropRecord(5, "a", 1, 4));
      expect(free(4)).toEqual([]);
      logs.landed(DISK, 5, commitRecord(5, "a", 4, [3]));
      expect(free(5)).toEqual(["8 freed early"]);
    });

    it("takes numbers that were given up of one stream for those of no other", () => {
      logs.landed(DISK, 5, commitRecord(5, "a", 1, [3], NEXT_ID));
      logs.landed(DISK, 6, dropRecord(6, "a", 1, 3));
      expect(free(6)).toEqual(["8 freed early"]);
    });

    it("does not ask for a record that was damaged", () => {
      logs.damaged(DISK, 3, false);
      expect(free(3, 0)).toEqual([]);
    });

    it("accepts what a copy of the log lost and may have declared, and nothing that was not damaged there", () => {
      logs.copied(DISK, "clone");
      logs.damaged("clone", 3, false);
      expect(free(3, 0)).toEqual([]);
      expect(free(4)).toEqual(["8 freed early"]);
    });
  });

  it("finds a record that was written damaged", () => {
    logs.landed(DISK, 9, new Uint8Array(100));
    expect(found).toEqual(["1 no record"]);
  });
});
