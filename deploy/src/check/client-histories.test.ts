import { describe, expect, it } from "vitest";
import { ClientHistories, type ClientReport, recordAck, recordResend } from "./client-histories.ts";
import type { DeliveryPromise } from "./plain.ts";

const CLEAN = { lost: 0, doubled: 0, reordered: 0, foreign: 0 };

interface Read {
  readonly number: number;
  readonly text?: string;
  readonly key?: string;
  readonly stream?: string;
}

function historiesOf() {
  const histories = new ClientHistories((data) => {
    const [client = "", number] = Buffer.from(data).toString().split(" ");
    return number === undefined ? undefined : { client, number: Number(number) };
  });
  const open = (promise: DeliveryPromise, client = "c") =>
    histories.open({ client, stream: "s", key: "k", promise, payload: (number) => `${client} ${number} x` });
  return { histories, open };
}

function judge(
  reads: readonly (number | Read)[],
  options: { promise?: DeliveryPromise; acked?: [number, number]; resent?: number[] } = {},
) {
  const { histories, open } = historiesOf();
  const history = open(options.promise ?? "exactly-once");
  history.sent = 4;
  recordAck(history, ...(options.acked ?? [1, 3]));
  for (const number of options.resent ?? []) recordResend(history, number);
  const checker = histories.checker();
  reads.forEach((read, ordinal) => {
    const { number, text, key = "k", stream = "s" } = typeof read === "number" ? { number: read } : read;
    const record = { segment: "0.0.0", ordinal, writer: "w", incarnation: "a", lane: "live", number: ordinal + 1, key };
    checker.add(stream, record, Buffer.from(text ?? `c ${number} x`));
  });
  return checker.finish();
}

describe("ClientHistories", () => {
  it("accepts what was acknowledged, and what was sent without an answer", () => {
    expect(judge([1, 2, 3])).toMatchObject({ ...CLEAN, acked: 3, read: 3, unacknowledged: 0 });
    expect(judge([1, 2, 3, 4])).toMatchObject({ ...CLEAN, unacknowledged: 1 });
  });

  it.each<[string, (number | Read)[], Partial<ClientReport>]>([
    ["a lost event", [1, 3], { lost: 1 }],
    ["a doubled event", [1, 2, 2, 3], { doubled: 1 }],
    ["a reorder", [2, 1, 3], { reordered: 1 }],
    ["other bytes", [1, 2, { number: 3, text: "c 3 y" }], { foreign: 1, lost: 1 }],
    ["a number that was never sent", [1, 2, 3, 5], { foreign: 1 }],
    ["a client that nobody knows", [1, 2, 3, { number: 1, text: "d 1 x" }], { foreign: 1 }],
    ["bytes of nobody", [1, 2, 3, { number: 1, text: "?" }], { foreign: 1 }],
    ["another key", [1, 2, { number: 3, key: "other" }], { foreign: 1 }],
    ["another stream", [1, 2, { number: 3, stream: "other" }], { foreign: 1 }],
  ])("finds %s", (_, reads, expected) => {
    expect(judge(reads)).toMatchObject({ ...CLEAN, ...expected });
  });

  it("allows as many doubles as a client sent again, where it may", () => {
    const resent = { promise: "at-least-once", resent: [2] } as const;
    expect(judge([1, 2, 3, 2], { ...resent, resent: [2] })).toMatchObject({ ...CLEAN, resentDoubles: 1 });
    expect(judge([1, 2, 2, 2, 3], { ...resent, resent: [2] })).toMatchObject({ doubled: 1, resentDoubles: 1 });
    expect(judge([1, 2, 3, 3], { ...resent, resent: [2] })).toMatchObject({ doubled: 1 });
    expect(judge([1, 2, 2, 3], { promise: "exactly-once", resent: [2] })).toMatchObject({ doubled: 1 });
  });

  it("hears of histories of another process bit by bit, each thing once", () => {
    const [here, there] = [historiesOf(), historiesOf()];
    const whole = here.open("at-least-once");
    const part = there.open("at-least-once");
    for (const { open } of [here, there]) open("exactly-once", "idle");
    const pass = () => {
      const reports = there.histories.takeReports();
      here.histories.addReports(JSON.parse(JSON.stringify(reports)));
      return reports.length;
    };
    expect(pass()).toBe(0);
    part.sent = 5;
    recordAck(part, 1, 2);
    recordAck(part, 5, 5);
    recordResend(part, 3);
    expect(pass()).toBe(1);
    expect(pass()).toBe(0);
    expect(here.histories).toMatchObject({ acked: 3, unanswered: 2 });
    recordResend(part, 3);
    recordAck(part, 3, 3);
    part.sent = 6;
    expect(pass()).toBe(1);
    expect(whole).toMatchObject({ sent: 6, acked: 4 });
    expect(whole.ackedNumbers.ranges()).toEqual([
      [1, 3],
      [5, 5],
    ]);
    expect([...whole.resent]).toEqual([[3, 2]]);
    // What was told is not kept twice.
    expect([part.ackedNumbers.ranges(), part.resent.size]).toEqual([[], 0]);
  });

  it("refuses to hear of a client that nobody opened", () => {
    const { histories } = historiesOf();
    expect(() => histories.addReports([{ client: "d", sent: 1, acked: [], resent: [] }])).toThrow("no client 'd'");
  });
});
