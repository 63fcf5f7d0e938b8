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

function judge(
  reads: readonly (number | Read)[],
  options: { promise?: DeliveryPromise; acked?: [number, number]; resent?: number[] } = {},
) {
  const histories = new ClientHistories((data) => {
    const [client = "", number] = Buffer.from(data).toString().split(" ");
    return number === undefined ? undefined : { client, number: Number(number) };
  });
  const promise = options.promise ?? "exactly-once";
  const history = histories.open({ client: "c", stream: "s", key: "k", promise, payload: (number) => `c ${number} x` });
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
});
