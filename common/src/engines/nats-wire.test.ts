import fc from "fast-check";
import { expect, test } from "vitest";
import { type Clock, systemClock } from "../clock.ts";
import { ERROR_TABLE, type ErrorCode, TributaryError } from "../errors.ts";
import { encodeCbor } from "../format/cbor.ts";
import { cutIntoParts, PartCollector } from "./nats-parts.ts";
import {
  decodePartHeader,
  decodeReply,
  decodeRequestPart,
  encodeAnswer,
  encodeError,
  encodeGrant,
  encodeReplyPart,
  encodeRequestPart,
} from "./nats-wire.ts";

const bytes = fc.uint8Array({ maxLength: 2_000 });
const code = fc.constantFrom(...(Object.keys(ERROR_TABLE) as ErrorCode[]));
const details = fc.dictionary(
  fc.string({ minLength: 1 }).filter((key) => key !== "__proto__"),
  fc.oneof(fc.string(), fc.integer(), fc.boolean()),
);

test("replies read back as they were written", () => {
  fc.assert(
    fc.property(bytes, fc.string(), code, details, fc.nat(), (body, message, errorCode, facts, number) => {
      expect(decodeReply(encodeAnswer(body))).toEqual({ kind: "answer", body });
      expect(decodeReply(encodeGrant(message.toWellFormed()))).toEqual({ kind: "grant", subject: message.toWellFormed() });
      expect(decodeReply(encodeReplyPart(number, body.length, body))).toEqual({
        kind: "part",
        index: number,
        totalBytes: body.length,
        part: body,
      });
      expect(decodeRequestPart(encodeRequestPart(number, body))).toEqual({ index: number, part: body });
      const error = decodeReply(encodeError(new TributaryError(errorCode, message.toWellFormed(), facts)));
      expect(error).toMatchObject({ kind: "error", error: { code: errorCode, message: message.toWellFormed(), details: facts } });
    }),
  );
});

test("whatever else arrives is no reply, and an error that cannot be read is INTERNAL", () => {
  fc.assert(fc.property(bytes, (data) => void decodeReply(data)));
  fc.assert(fc.property(fc.string(), (text) => void decodePartHeader(text)));
  expect(decodeReply(new Uint8Array())).toBeUndefined();
  expect(decodeReply(new Uint8Array([9, 1]))).toBeUndefined();
  expect(decodeReply(new Uint8Array([3, 1]))).toBeUndefined();
  expect(decodeRequestPart(new Uint8Array([1]))).toBeUndefined();
  expect(decodeReply(new Uint8Array([1, 0xff]))).toMatchObject({ error: { code: "INTERNAL" } });
  const newer = Uint8Array.from([1, ...encodeCbor({ code: "FROM_THE_FUTURE", message: "m" })]);
  expect(decodeReply(newer)).toMatchObject({ error: { code: "INTERNAL", message: "FROM_THE_FUTURE: m" } });
});

const limits = { messagesMax: 3, bytesMax: 1_000, idleMsMax: 50 };

test("messages in parts come out whole, however they interleave", () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 3 }),
      fc.integer({ min: 1, max: 120 }),
      fc.infiniteStream(fc.nat(2)),
      (messages, size, order) => {
        const collector = new PartCollector(systemClock, limits, () => expect.unreachable());
        const queues = messages.map((message) => [...cutIntoParts(message, size)]);
        for (const [i, message] of messages.entries()) expect(collector.begin(String(i), message.length)).toBe(true);
        const whole: (Uint8Array | undefined)[] = messages.map(() => undefined);
        for (const pick of order) {
          const left = queues.flatMap((queue, i) => (queue.length > 0 ? [i] : []));
          const i = left[pick % left.length];
          if (i === undefined) break;
          const next = queues[i]?.shift();
          if (next) whole[i] = collector.add(String(i), next.index, next.part) ?? whole[i];
        }
        expect(whole).toEqual(messages);
      },
    ),
  );
});

test("a part that is missing, doubled or too long gives the message up, and its room is free again", () => {
  const givenUp: string[] = [];
  const collector = new PartCollector(systemClock, limits, (key) => givenUp.push(key));
  for (const [key, index, size] of [
    ["missing", 1, 10],
    ["long", 0, 1_001],
  ] as const) {
    expect(collector.begin(key, 1_000)).toBe(true);
    expect(collector.add(key, index, new Uint8Array(size))).toBeUndefined();
  }
  expect(collector.begin("doubled", 1_000)).toBe(true);
  collector.add("doubled", 0, new Uint8Array(10));
  collector.add("doubled", 0, new Uint8Array(10));
  expect(givenUp).toEqual(["missing", "long", "doubled"]);
  expect(collector.add("missing", 2, new Uint8Array(10))).toBeUndefined();
});

test("memory and number are bounded, and what stops coming is given up", () => {
  const timers = new Set<() => void>();
  const clock: Clock = {
    ...systemClock,
    setTimer: (_, callback) => {
      timers.add(callback);
      return () => timers.delete(callback);
    },
  };
  const givenUp: string[] = [];
  const collector = new PartCollector(clock, limits, (key) => givenUp.push(key));
  expect(collector.begin("a", 600)).toBe(true);
  expect(collector.begin("a", 1)).toBe(false);
  expect(collector.begin("b", 401)).toBe(false);
  expect(collector.begin("b", Number.NaN)).toBe(false);
  expect(collector.begin("b", -1)).toBe(false);
  expect(collector.begin("b", 300)).toBe(true);
  expect(collector.begin("c", 100)).toBe(true);
  expect(collector.begin("d", 0)).toBe(false);
  collector.add("a", 0, new Uint8Array(1));
  expect(timers.size).toBe(3);
  for (const fire of [...timers]) fire();
  expect(givenUp.toSorted()).toEqual(["a", "b", "c"]);
  expect(timers.size).toBe(0);
  expect(collector.begin("d", 1_000)).toBe(true);
  collector.clear();
  expect(timers.size).toBe(0);
});
