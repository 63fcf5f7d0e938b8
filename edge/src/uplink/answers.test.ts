import { encodeCbor } from "@tributary/common/format/cbor";
import { LIMITS } from "@tributary/common/limits";
import type { ResolveAnswer } from "@tributary/common/uplink-protocol";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decodeAppendAnswer, decodeFetchAnswer, decodeHelloAnswer, decodeLevelsAnswer, decodeResolveAnswer } from "./answers.ts";

const id = (digit: string, bytes: number) => digit.repeat(2 * bytes);
const stream: ResolveAnswer["streams"][number] = {
  id: id("a", 16),
  contentType: "text/plain",
  segments: 2,
  containers: [0, 3],
  problem: "",
};
const event = { key: "k", timeMs: 1, incarnation: id("b", 8), lane: "live", number: 3, data: Uint8Array.of(1) };
const gap = { incarnation: id("b", 8), lane: "live", first: 1, last: 2, count: 2, reason: "quota" };
const page = { streamId: id("a", 16), events: [event], gaps: [gap], nextOffset: "x", upToDate: true };
const invalid = expect.objectContaining({ code: "CORE_ANSWER_INVALID" });

describe("answers of the core", () => {
  test("are taken as they are meant, with members of newer versions passed over", () => {
    const append = {
      slices: [
        [0, 5],
        [9, 1],
      ],
      epoch: 3,
      news: "later",
    };
    expect(decodeAppendAnswer(encodeCbor(append), 2)).toEqual({ slices: append.slices, epoch: 3 });
    expect(decodeLevelsAnswer(encodeCbor({ entries: [[5, 4]] }), 1)).toEqual({ entries: [[5, 4]] });
    const hello = { cluster: "ab", containers: 4, epochs: [1, 0], siblings: [id("c", 8)] };
    expect(decodeHelloAnswer(encodeCbor(hello))).toEqual(hello);
    const unknown = { ...stream, id: undefined, segments: 0, containers: [], problem: "unknown" };
    expect(decodeResolveAnswer(encodeCbor({ streams: [stream, unknown] }), 2)).toEqual({ streams: [stream, unknown] });
    expect(decodeResolveAnswer(encodeCbor({ streams: [{ ...stream, problem: "frozen" }] }), 1).streams[0]?.problem).toBe("conflict");
    expect(decodeFetchAnswer(encodeCbor(page))).toEqual(page);
  });

  test("name more siblings than the core keeps, where copies of a log say hello at once", () => {
    const siblings = Array.from({ length: LIMITS.incarnationsPerWriterMax + 2 }, (_, i) => i.toString(16).padStart(16, "0"));
    const answer = decodeHelloAnswer(encodeCbor({ cluster: "ab", containers: 1, siblings }));
    expect(answer.siblings).toEqual(siblings.slice(0, LIMITS.incarnationsPerWriterMax));
  });

  test("that leave something out are no answers: nothing counts as accepted, safe or mapped by them", () => {
    expect(() => decodeAppendAnswer(encodeCbor({ slices: [] }), 1)).toThrow(invalid);
    expect(() => decodeAppendAnswer(encodeCbor({ slices: [[0, 1]] }), 2)).toThrow(invalid);
    expect(() => decodeAppendAnswer(encodeCbor({ slices: [[0]] }), 1)).toThrow(invalid);
    expect(() => decodeAppendAnswer(encodeCbor({}), 0)).toThrow(invalid);
    expect(() => decodeLevelsAnswer(encodeCbor({ entries: [] }), 1)).toThrow(invalid);
    expect(() => decodeLevelsAnswer(encodeCbor({ entries: [["9", "9"]] }), 1)).toThrow(invalid);
    expect(() => decodeLevelsAnswer(encodeCbor({ entries: [[1, -1]] }), 1)).toThrow(invalid);
    expect(() => decodeHelloAnswer(encodeCbor({ cluster: "ab", containers: 0, siblings: [] }))).toThrow(invalid);
    expect(() => decodeResolveAnswer(encodeCbor({ streams: [] }), 1)).toThrow(invalid);
    expect(() => decodeResolveAnswer(encodeCbor({ streams: [{ ...stream, containers: [0] }] }), 1)).toThrow(invalid);
    expect(() => decodeResolveAnswer(encodeCbor({ streams: [{ ...stream, id: "ZZ" }] }), 1)).toThrow(invalid);
    expect(() => decodeFetchAnswer(encodeCbor({ ...page, gaps: [{ ...gap, reason: "mood" }] }))).toThrow(invalid);
    expect(() => decodeFetchAnswer(encodeCbor({ ...page, events: [{ ...event, data: "text" }] }))).toThrow(invalid);
  });

  test("of any bytes are taken or refused, and nothing else", () => {
    const decoders = [
      (bytes: Uint8Array) => decodeAppendAnswer(bytes, 1),
      (bytes: Uint8Array) => decodeLevelsAnswer(bytes, 1),
      decodeHelloAnswer,
      (bytes: Uint8Array) => decodeResolveAnswer(bytes, 1),
      decodeFetchAnswer,
    ];
    const good = [{ slices: [[0, 5]] }, { entries: [[5, 4]] }, { cluster: "ab", containers: 4, siblings: [] }, { streams: [stream] }, page];
    const whole = fc.constantFrom(...good.map((answer) => Uint8Array.from(encodeCbor(answer))));
    const bent = fc.tuple(whole, fc.nat(), fc.integer({ min: 1, max: 255 })).map(([bytes, at, by]) => {
      return bytes.map((byte, i) => (i === at % bytes.length ? byte ^ by : byte));
    });
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 64 }), bent), (bytes) => {
        for (const decode of decoders) {
          try {
            decode(bytes);
          } catch (error) {
            expect(error).toEqual(invalid);
          }
        }
      }),
      { numRuns: 1_000 },
    );
  });
});
