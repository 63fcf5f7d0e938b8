import { beforeEach, describe, expect, test } from "vitest";
import { EdgeLogs } from "../check/edge-logs.ts";
import { commitRecord, incarnationOf, mapRecord, STREAM_ID, startRecord, WRITER } from "../check/testing/hand-made-log.ts";
import { type CompleteRead, checkReads } from "./checker.ts";
import { Ledger, type Seen } from "./ledger.ts";

const DISK = "disk";
const CLOSED_ID = "c".repeat(32);
const NEXT_ID = "d".repeat(32);
const NONE = { missing: false, doubled: false };
const WHOLE = { id: "1.0.0", range: { from: 0, to: 2 ** 32 } };

describe("numbers of a gateway's stream that went on in another one of the core", () => {
  let ledger: Ledger;
  let logs: EdgeLogs;
  let last: Seen[];
  let mayBeTaken: boolean;
  /** Records of each stream that were not read, and had landed before the read began, or while it went on. */
  let unread: { before: number; meanwhile: number };
  /** The stream that had a gap record of events 0 and 1, which nobody reads. */
  let declaredIn: string | undefined;
  /** Event 0 was dropped; event 1 went into the stream of the name, which was closed then, and event 2 into a quarantine stream. */
  beforeEach(() => {
    ledger = new Ledger(() => 0);
    logs = new EdgeLogs(ledger.violate, (data) => Number(Buffer.from(data).toString()));
    logs.landed(DISK, 1, startRecord(1, "a"));
    logs.landed(DISK, 2, mapRecord(2, STREAM_ID, CLOSED_ID));
    logs.landed(DISK, 3, commitRecord(3, "a", 1, [0, 1, 2]));
    logs.landed(DISK, 4, mapRecord(4, STREAM_ID, NEXT_ID));
    last = [seen(NEXT_ID, 0, 2, 3)];
    mayBeTaken = false;
    unread = { before: 0, meanwhile: 0 };
    declaredIn = undefined;
  });

  function seen(streamId: string, ordinal: number, id: number, number: number, gap?: Seen["gap"]): Seen {
    const of = { writer: WRITER, incarnation: incarnationOf("a"), lane: "live", key: id < 0 ? "" : "k" };
    return { streamId, stream: "", segment: WHOLE.id, nonce: undefined, ordinal, id, number, digest: 0, gap, ...of };
  }

  function judge(closed: readonly Seen[], forbidden: readonly number[] = []): string[] {
    const read = (id: string, stream: string, records: readonly Seen[]) =>
      ({ info: { id, name: { scope: "plant", stream }, segments: [WHOLE] }, records }) as unknown as CompleteRead;
    const records = new Map([CLOSED_ID, NEXT_ID].map((id, i) => [id, [closed, last][i] as readonly Seen[]]));
    for (const stream of ["plant/s", "plant/s", "plant/s"])
      ledger.submit({ client: "c", writer: DISK, stream, key: "k", promise: "exactly-once", fromSeq: 2 });
    for (const submission of ledger.submissions) submission.forbidden = forbidden.includes(submission.id);
    checkReads([read(CLOSED_ID, "s", closed), read(NEXT_ID, "s.quarantine-bbbbbbbb", last)], {
      ledger,
      logs,
      countOf: (streamId) => (records.get(streamId)?.length ?? 0) + unread.before + unread.meanwhile,
      countBefore: (streamId) => (records.get(streamId)?.length ?? 0) + unread.before,
      isCurrent: () => true,
      branched: false,
      holdersOf: (id) => [...records].flatMap(([streamId, of]) => (of.some((record) => record.id === id) ? [streamId] : [])),
      excuse: () => NONE,
      mayBeTaken: () => mayBeTaken,
      isUnreadable: () => false,
      declaredIn: ({ id }) => (declaredIn && id < 2 ? [declaredIn] : []),
      wasDeleted: () => false,
      wasClosed: () => false,
      beganMs: Number.POSITIVE_INFINITY,
      cameAgainMs: () => undefined,
      hasEnded: () => false,
    });
    return ledger.violations.map(({ kind, detail }) => `${kind}: ${detail}`);
  }

  const run = `${WRITER}/${incarnationOf("a")}/live`;

  test.each([
    [{ before: 0, meanwhile: 4 }, 0],
    [{ before: 1, meanwhile: 4 }, 2],
    [{ before: 1, meanwhile: 0 }, 2],
  ])("a read may lack what landed since it began, and nothing else: %o (seed 697)", (lacks, found) => {
    unread = lacks;
    const closed = [seen(CLOSED_ID, 0, 0, 1), seen(CLOSED_ID, 1, 1, 2)];
    expect(judge(closed).filter((violation) => violation.startsWith("incomplete read")).length).toBe(found);
  });

  test("what the gap record of the stream before declares is no hole in the next one (seed 1627)", () => {
    expect(judge([seen(CLOSED_ID, 0, -1, 1, { first: 1, count: 1 }), seen(CLOSED_ID, 1, 1, 2)])).toEqual([]);
  });

  test.each([
    ["the stream before", CLOSED_ID, []],
    ["this one", NEXT_ID, [`missing by number: s.quarantine-bbbbbbbb: numbers 1 to 2 of ${run}`]],
  ])("what a gap record of a stream declared that is gone is no hole in the next one: %s (seed 4713)", (_, streamId, found) => {
    declaredIn = streamId;
    expect(judge([])).toEqual(found);
  });

  test.each([false, true])("what was forbidden is not there, unless the server knew no more why: %s (seed 3684)", (may) => {
    mayBeTaken = may;
    const closed = [seen(CLOSED_ID, 0, 0, 1), seen(CLOSED_ID, 1, 1, 2)];
    expect(judge(closed, [1])).toEqual(may ? [] : ["refused but there: event 1 of c in plant/s was refused, and is there"]);
  });

  test("what neither holds nor declares is one", () => {
    expect(judge([seen(CLOSED_ID, 0, 1, 2)])).toEqual([
      `missing by number: s: numbers 1 to 1 of ${run}`,
      `missing by number: s.quarantine-bbbbbbbb: numbers 1 to 2 of ${run}`,
    ]);
  });

  test("gap records in streams that the gateway's stream was never mapped to declare nothing of it", () => {
    logs = new EdgeLogs(ledger.violate, (data) => Number(Buffer.from(data).toString()));
    logs.landed(DISK, 1, startRecord(1, "a"));
    logs.landed(DISK, 2, commitRecord(2, "a", 1, [0, 1, 2]));
    logs.landed(DISK, 3, mapRecord(3, STREAM_ID, NEXT_ID));
    expect(judge([seen(CLOSED_ID, 0, -1, 1, { first: 1, count: 1 })])).toContain(
      `missing by number: s.quarantine-bbbbbbbb: numbers 1 to 2 of ${run}`,
    );
  });
});
