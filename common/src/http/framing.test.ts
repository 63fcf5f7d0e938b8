import { decode } from "cbor-x";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { ReadEvent } from "../stream-service.ts";
import { ManualClock } from "../testing/manual-clock.ts";
import { nextCursor } from "./cursor.ts";
import { envelopeCbor, envelopeLine } from "./envelope.ts";
import { sseEvent } from "./sse.ts";
import { bytesOf, type EnvelopeLine } from "./testing/plane.ts";

const event: fc.Arbitrary<ReadEvent> = fc.record({
  key: fc.string({ unit: "grapheme" }),
  timeMs: fc.integer({ min: 0, max: 4_000_000_000_000 }),
  segment: fc.constant("0.1.2"),
  ordinal: fc.nat(),
  writer: fc.constant("00112233445566778899aabbccddeeff"),
  incarnation: fc.constant("0011223344556677"),
  lane: fc.constantFrom("live" as const, "backlog" as const),
  number: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
  data: fc.oneof(
    fc.uint8Array(),
    fc.string({ unit: "grapheme" }).map((text) => new TextEncoder().encode(text)),
    fc.constantFrom("\ufeffbom", '\u2028\n\r\0"\\', "\ufffd").map((text) => new TextEncoder().encode(text)),
  ),
});

test("an envelope line is one line and gives back every byte", () => {
  fc.assert(
    fc.property(event, (each) => {
      const line = envelopeLine(each);
      expect(line.indexOf("\n")).toBe(line.length - 1);
      const read = JSON.parse(line) as EnvelopeLine;
      expect(bytesOf(read)).toEqual(Buffer.from(each.data));
      expect((read.data === undefined) !== (read.base64 === undefined)).toBe(true);
      expect([read.kind, read.key, read.time, read.segment, read.ordinal, read.number]).toEqual([
        "event",
        each.key,
        each.timeMs,
        "0.1.2",
        each.ordinal,
        each.number,
      ]);
    }),
  );
});

test("an envelope in CBOR gives back every byte", () => {
  fc.assert(
    fc.property(fc.array(event, { maxLength: 5 }), (events) => {
      const read = decode(envelopeCbor(events)) as { key: string; time: number; number: number; data: Uint8Array }[];
      expect(read.map(({ key, time, number, data }) => [key, time, number, Buffer.from(data).toString("hex")])).toEqual(
        events.map(({ key, timeMs, number, data }) => [key, timeMs, number, Buffer.from(data).toString("hex")]),
      );
    }),
  );
});

test("a gap record names what is lost and has no payload", () => {
  const gap: ReadEvent = {
    key: "",
    timeMs: 1,
    segment: "0.0.0",
    ordinal: 4,
    writer: "w",
    incarnation: "i",
    lane: "live",
    number: 9,
    data: new Uint8Array(0),
    gap: { first: 5, count: 3, reason: "quota" },
  };
  expect(JSON.parse(envelopeLine(gap))).toEqual({
    kind: "gap",
    key: "",
    time: 1,
    segment: "0.0.0",
    ordinal: 4,
    writer: "w",
    incarnation: "i",
    lane: "live",
    number: 9,
    first: 5,
    count: 3,
    reason: "quota",
  });
});

/** The parser of the HTML standard, section 9.2.6, as far as the framing needs it. */
function parseSse(text: string): { type: string; data: string }[] {
  const events: { type: string; data: string }[] = [];
  let type = "";
  let data: string[] = [];
  for (const line of text.split(/\r\n|\r|\n/)) {
    if (line === "") {
      if (data.length > 0) events.push({ type, data: data.join("\n") });
      type = "";
      data = [];
      continue;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") type = value;
    if (field === "data") data.push(value);
  }
  return events;
}

test("no payload can end its event or begin another", () => {
  const nasty = fc.array(fc.constantFrom("\r", "\n", "\r\n", " ", ":", "event: control", "data:", "x", "\u2028", ""), { maxLength: 12 });
  fc.assert(
    fc.property(nasty, (parts) => {
      const payload = parts.join("");
      expect(parseSse(sseEvent("data", payload))).toEqual([{ type: "data", data: payload.replace(/\r\n|\r|\n/g, "\n") }]);
    }),
  );
});

test("cursors never go back and always leave the one that was echoed", () => {
  const clock = new ManualClock(Date.UTC(2024, 9, 9) + 1000 * 20_000);
  const random = { bytes: () => new Uint8Array(0), float: () => 0 };
  expect(nextCursor(clock, random, undefined)).toBe("1000");
  expect(nextCursor(clock, random, "999")).toBe("1000");
  expect(nextCursor(clock, random, "1000")).toBe("1001");
  expect(nextCursor(clock, { ...random, float: () => 0.9999 }, "5000")).toBe("5180");
  expect(nextCursor(clock, random, "not a cursor")).toBe("1000");
});
