import { expect, it } from "vitest";
import { systemClock } from "../clock.ts";
import { isErrorCode, TributaryError } from "../errors.ts";
import { encodeCbor } from "../format/cbor.ts";
import { fuzzBytes, fuzzValues } from "../testing/fuzz.ts";
import { PartCollector } from "./nats-parts.ts";
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

const beside = import.meta.url;
const body = new Uint8Array(40).fill(7);
const ERROR = new TributaryError("PREVIOUS_NOT_REACHED", "earlier events are missing", { number: 7, name: "s", retry: true });

it("mutated replies are replies or nothing, and never an exception", async () => {
  const limits = { messagesMax: 3, bytesMax: 1_000, idleMsMax: 60_000 };
  const collector = new PartCollector(systemClock, limits, () => {});
  await fuzzBytes({
    name: "nats-reply",
    beside,
    seeds: [
      encodeAnswer(body),
      encodeError(ERROR),
      encodeGrant("_INBOX.abc.1"),
      encodeReplyPart(0, 80, body),
      encodeReplyPart(1, 80, body),
    ],
    run: (bytes) => {
      const reply = decodeReply(bytes);
      if (reply?.kind === "error") expect(isErrorCode(reply.error.code)).toBe(true);
      if (reply?.kind !== "part") return;
      expect(Number.isInteger(reply.index) && Number.isInteger(reply.totalBytes)).toBe(true);
      if (reply.index === 0) collector.begin("key", reply.totalBytes);
      const whole = collector.add("key", reply.index, reply.part);
      if (whole) expect(whole.length).toBeLessThanOrEqual(limits.bytesMax);
    },
  });
  collector.clear();
});

it("mutated errors are errors of the table", async () => {
  await fuzzValues({
    name: "nats-error",
    beside,
    seeds: [{ code: ERROR.code, message: ERROR.message, details: ERROR.details }],
    run: (value) => {
      const reply = decodeReply(Uint8Array.from([1, ...encodeCbor(value)]));
      expect(reply?.kind === "error" && isErrorCode(reply.error.code) && typeof reply.error.message === "string").toBe(true);
      if (reply?.kind !== "error") return;
      for (const detail of Object.values(reply.error.details)) expect(["string", "number", "boolean"]).toContain(typeof detail);
    },
  });
});

it("mutated parts and part headers are parts or nothing", async () => {
  await fuzzBytes({
    name: "nats-part",
    beside,
    seeds: [encodeRequestPart(3, body), new TextEncoder().encode("0011223344556677.12 3 70000")],
    run: (bytes) => {
      decodeRequestPart(bytes);
      const described = decodePartHeader(Buffer.from(bytes).toString("latin1"));
      if (described) expect(Number.isSafeInteger(described.index) && Number.isSafeInteger(described.totalBytes)).toBe(true);
    },
  });
});
