import fc from "fast-check";
import { expect, test } from "vitest";
import { hasCode } from "../errors.ts";
import { encodeCbor } from "../format/cbor.ts";
import { LIMITS } from "../limits.ts";
import type { EventPack } from "../stream-service.ts";
import { parseBatchCbor } from "./batch-cbor.ts";
import { parseBatchNdjson } from "./batch-ndjson.ts";
import { parseEventTime } from "./event-time.ts";
import { jsonEvents } from "./json-events.ts";
import { lineEnds } from "./split-lines.ts";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const text = (data: Uint8Array): string => Buffer.from(data).toString("utf8");

function payloads({ payload, ends }: { payload: Uint8Array; ends: ArrayLike<number> }): Uint8Array[] {
  return Array.from(ends, (end, i) => payload.subarray(i === 0 ? 0 : ends[i - 1], end));
}

function codeOf(action: () => unknown): string {
  try {
    action();
    return "none";
  } catch (error) {
    return hasCode(error, "EVENT_TOO_LARGE", "BATCH_TOO_LARGE", "INVALID_JSON", "INVALID_BODY", "INVALID_REQUEST")
      ? error.code
      : String(error);
  }
}

test("lines: joined they are the body again, and only the last may lack its terminator", () => {
  const line = fc.array(fc.constantFrom(0x0d, 0x41, 0x00, 0xff), { maxLength: 4 });
  fc.assert(
    fc.property(fc.array(line), line, (lines, rest) => {
      const body = Uint8Array.from([...lines.flatMap((each) => [...each, 0x0a]), ...rest]);
      const parts = payloads({ payload: body, ends: lineEnds(body) });
      expect(Buffer.concat(parts)).toEqual(Buffer.from(body));
      expect(parts.length).toBe(lines.length + (rest.length > 0 ? 1 : 0));
      parts.forEach((part, i) => {
        const terminated = part.at(-1) === 0x0a;
        expect(part.subarray(0, -1).includes(0x0a)).toBe(false);
        expect(terminated).toBe(i < lines.length);
      });
    }),
  );
});

test("lines: an event of the largest size passes, one byte more does not", () => {
  const largest = new Uint8Array(LIMITS.eventBytesMax + 2).fill(0x41);
  largest[LIMITS.eventBytesMax - 1] = 0x0a;
  expect(lineEnds(largest)).toEqual([LIMITS.eventBytesMax, largest.length]);
  largest[LIMITS.eventBytesMax - 1] = 0x41;
  largest[LIMITS.eventBytesMax] = 0x0a;
  expect(codeOf(() => lineEnds(largest))).toBe("EVENT_TOO_LARGE");
  expect(codeOf(() => lineEnds(new Uint8Array(LIMITS.requestEventsMax + 1).fill(0x0a)))).toBe("BATCH_TOO_LARGE");
  expect(lineEnds(new Uint8Array(LIMITS.requestEventsMax).fill(0x0a)).length).toBe(LIMITS.requestEventsMax);
});

const spaces = fc.constantFrom("", " ", "\n", "\t\r\n ");

test("JSON: an array gives its elements as they were written, anything else itself", () => {
  fc.assert(
    fc.property(fc.array(fc.jsonValue()), fc.boolean(), spaces, (values, indented, space) => {
      const written = values.map((value) => JSON.stringify(value, undefined, indented ? 2 : undefined));
      const body = `${space}[${space}${written.join(`${space},${space}`)}${space}]${space}`;
      expect(payloads(jsonEvents(bytes(body))).map(text)).toEqual(written);
    }),
  );
  fc.assert(
    fc.property(fc.jsonValue(), spaces, (value, space) => {
      fc.pre(!Array.isArray(value));
      const written = JSON.stringify(value);
      expect(payloads(jsonEvents(bytes(space + written + space))).map(text)).toEqual([written]);
    }),
  );
});

test("JSON: numbers and escapes that JSON.stringify would change stay", () => {
  const elements = ["12345678901234567890", "1e400", "-0.0", '"\\u0041\\\\\\""', '{"a":1,"a":2}', '{ "b" : [ "]" , "}" ] }', "[[1],[2]]"];
  expect(payloads(jsonEvents(bytes(`[${elements.join(" , ")}]`))).map(text)).toEqual(elements);
});

test.each(["", "[", "[1,]", "nul", '{"a":}', "[1] 2", "\ufeff1", "'a'"])("JSON: %j is refused", (body) => {
  expect(codeOf(() => jsonEvents(bytes(body)))).toBe("INVALID_JSON");
});

test("JSON: bytes that are not UTF-8 are refused, deep nesting is not", () => {
  expect(codeOf(() => jsonEvents(Uint8Array.of(0x22, 0xff, 0x22)))).toBe("INVALID_JSON");
  const deep = `${"[".repeat(50_000)}${"]".repeat(50_000)}`;
  expect(payloads(jsonEvents(bytes(deep))).map(text)).toEqual([deep.slice(1, -1)]);
});

const batchEvent = fc.record(
  {
    key: fc.string({ unit: "grapheme", maxLength: 20 }),
    time: fc.integer({ min: 0, max: 4_000_000_000_000 }),
    data: fc.uint8Array({ maxLength: 40 }),
  },
  { requiredKeys: ["data"] },
);
const NOW_MS = 1_700_000_000_000;

function expectPack(pack: EventPack, events: readonly { key?: string; time?: number; data: Uint8Array }[]): void {
  expect(pack.count).toBe(events.length);
  expect(payloads(pack).map((part) => Buffer.from(part).toString("hex"))).toEqual(
    events.map(({ data }) => Buffer.from(data).toString("hex")),
  );
  const keys = typeof pack.keys === "object" ? pack.keys : events.map(() => pack.keys ?? "");
  expect(keys).toEqual(events.map(({ key }) => key ?? ""));
  const times = typeof pack.timesMs === "object" ? pack.timesMs : events.map(() => NOW_MS);
  expect(times).toEqual(events.map(({ time }) => time ?? NOW_MS));
}

test("batches: what goes in as NDJSON or CBOR comes out as the same events", () => {
  fc.assert(
    fc.property(fc.array(batchEvent, { maxLength: 20 }), (events) => {
      const lines = events.map(({ data, ...rest }) => JSON.stringify({ ...rest, base64: Buffer.from(data).toString("base64") }));
      expectPack(parseBatchNdjson(bytes(lines.join("\r\n\n")), NOW_MS), events);
      expectPack(parseBatchCbor(encodeCbor(events), NOW_MS), events);
    }),
  );
});

test("NDJSON: a string stands for its bytes, any other value for its own text", () => {
  const line = (data: string) => `{"key":"k","data" : ${data} , "time":"2026-11-20T08:15:30.250Z"}`;
  const pack = parseBatchNdjson(
    bytes([line('"a\\u00e9\\n"'), line('{ "x":1e2 }'), line("12345678901234567890"), line("null")].join("\n")),
    NOW_MS,
  );
  expect(payloads(pack).map(text)).toEqual(["aé\n", '{ "x":1e2 }', "12345678901234567890", "null"]);
  expect(pack.timesMs).toEqual(new Array(4).fill(Date.UTC(2026, 10, 20, 8, 15, 30, 250)));
  // The last of two members counts, as in JSON.parse, and an escaped name is the same name.
  expect(payloads(parseBatchNdjson(bytes('{"data":1,"d\\u0061ta":2}'), NOW_MS)).map(text)).toEqual(["2"]);
});

test.each([
  ["{", "INVALID_JSON"],
  ["[]", "INVALID_BODY"],
  ["{}", "INVALID_BODY"],
  ['{"data":"a","base64":"YQ=="}', "INVALID_BODY"],
  ['{"data":"a","tme":1}', "INVALID_BODY"],
  ['{"data":"a","time":"yesterday"}', "INVALID_BODY"],
  ['{"data":"a","time":-1}', "INVALID_BODY"],
  ['{"data":"a","time":1.5}', "INVALID_BODY"],
  ['{"data":"a","key":1}', "INVALID_BODY"],
  ['{"data":"\\ud800"}', "INVALID_BODY"],
  ['{"data":"a","key":"\\ud800"}', "INVALID_BODY"],
  ['{"base64":"YQ="}', "INVALID_BODY"],
  ['{"base64":"Y Q=="}', "INVALID_BODY"],
  [`{"data":"a","key":"${"k".repeat(LIMITS.routingKeyBytesMax + 1)}"}`, "INVALID_REQUEST"],
  [`{"data":"${"a".repeat(LIMITS.eventBytesMax + 1)}"}`, "EVENT_TOO_LARGE"],
  ['{"data":""}\n'.repeat(LIMITS.requestEventsMax + 1), "BATCH_TOO_LARGE"],
])("NDJSON: %.40s is %s", (body, code) => {
  expect(codeOf(() => parseBatchNdjson(bytes(body), NOW_MS))).toBe(code);
});

test.each([
  ["an empty body", []],
  ["a map", [0xa0]],
  ["an array that claims 2^32 items", [0x9a, 0xff, 0xff, 0xff, 0xff]],
  ["an array that claims 2^64 items", [0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]],
  ["a string longer than the body", [0x81, 0xa1, 0x64, 0x64, 0x61, 0x74, 0x61, 0x5a, 0xff, 0xff, 0xff, 0xff]],
  ["data of a wrong type", [...Buffer.from(encodeCbor([{ data: [1] }]))]],
  ["an event without data", [...Buffer.from(encodeCbor([{ key: "k" }]))]],
  ["an unknown member", [...Buffer.from(encodeCbor([{ data: "a", other: 1 }]))]],
  ["bytes behind the batch", [...Buffer.from(encodeCbor([{ data: "a" }])), 0]],
  ["a tag", [0xc1, 0x80]],
  ["a text that is not UTF-8", [0x81, 0xa1, 0x64, 0x64, 0x61, 0x74, 0x61, 0x61, 0xff]],
  ["an array without its break", [0x9f]],
])("CBOR: %s is refused", (_what, body) => {
  expect(codeOf(() => parseBatchCbor(Uint8Array.from(body), NOW_MS))).toBe("INVALID_BODY");
});

test("CBOR: arbitrary bytes never do anything but succeed or fail with a code", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (body) => {
      expect(codeOf(() => parseBatchCbor(body, NOW_MS))).toMatch(/^(none|INVALID_BODY|INVALID_REQUEST|EVENT_TOO_LARGE)$/);
    }),
    { numRuns: 500 },
  );
});

test("CBOR: indefinite arrays and maps, text as data, integers and floats as time", () => {
  const event = [0xbf, 0x64, ...bytes("data"), 0x62, ...bytes("hi"), 0x64, ...bytes("time"), 0x19, 0x03, 0xe8, 0xff];
  const pack = parseBatchCbor(Uint8Array.from([0x9f, ...event, 0xff]), NOW_MS);
  expect(payloads(pack).map(text)).toEqual(["hi"]);
  expect(pack.timesMs).toEqual([1000]);
  expect(parseBatchCbor(encodeCbor([{ data: "x", time: 1_795_162_530_250 }]), NOW_MS).timesMs).toEqual([1_795_162_530_250]);
});

test.each([
  ["0", 0],
  ["1795162530250", 1_795_162_530_250],
  ["2026-11-20T08:15:30.250Z", 1_795_162_530_250],
  ["2026-11-20t08:15:30.2509z", 1_795_162_530_250],
  ["2026-11-20 09:15:30.25+01:00", 1_795_162_530_250],
  ["", undefined],
  ["-1", undefined],
  ["1e3", undefined],
  ["2026-11-20", undefined],
  ["2026-13-20T08:15:30Z", undefined],
  ["2026-11-20T08:15:30", undefined],
  ["Fri, 20 Nov 2026 08:15:30 GMT", undefined],
  ["999999999999999", undefined],
])("event time %j", (given, ms) => {
  expect(parseEventTime(given)).toBe(ms);
});
