import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { LIMITS } from "@tributary/common/limits";
import type { ReadEvent } from "@tributary/common/stream-service";
import { fuzzBytes, fuzzValues, orCode } from "@tributary/common/testing/fuzz";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ContainerStreamState } from "../container/container.ts";
import type { AccessPage } from "./container-access.ts";
import * as answers from "./node-answers.ts";
import * as requests from "./node-requests.ts";

const beside = import.meta.url;
const STREAM = "11".repeat(16);
const NONCE = "0123456789abcdef";
const position = { chain: 7, ancestry: [{ nonce: NONCE, from: 3 }] };
const segment = { generation: 0, epoch: 1, number: 2 };
const state: ContainerStreamState = {
  firstChain: 1,
  nextChain: 9,
  closed: false,
  segmentLengths: [{ segment, length: 8 }],
  nonces: position.ancestry,
};
const event: ReadEvent = {
  key: "k",
  timeMs: 5,
  segment: "0.1.2",
  ordinal: 4,
  nonce: NONCE,
  writer: "aa",
  incarnation: "bb",
  lane: "live",
  number: 6,
  data: Uint8Array.of(1, 2),
};
const gap: ReadEvent = { ...event, data: new Uint8Array(0), gap: { first: 3, count: 4, reason: "quota" } };
const page: AccessPage = { events: [event, gap], next: position, upToDate: true, closed: false };
const pack = { count: 2, payload: Uint8Array.of(1, 2, 3), ends: Uint32Array.of(1, 3), keys: ["a", "b"], timesMs: [1, 2] };

const REQUESTS: readonly [string, Uint8Array, (payload: Uint8Array) => unknown][] = [
  [
    "ensure",
    requests.encodeEnsure({
      container: 1,
      stream: {
        id: STREAM,
        segments: [segment],
        contentType: "text/plain",
        closed: false,
        origin: { name: { scope: "s", stream: "t" }, createdAtMs: 1, containers: [1] },
      },
    }),
    requests.decodeEnsure,
  ],
  [
    "append",
    requests.encodeAppend({
      id: "a.2",
      container: 1,
      streamId: STREAM,
      request: { events: pack, contentType: "text/plain", producer: { id: "p", epoch: 1, seq: 2 }, streamSeq: "x", close: true },
    }),
    requests.decodeAppend,
  ],
  ["bytes", requests.encodeBytes({ container: 1, bytes: Uint8Array.of(1) }), requests.decodeBytes],
  [
    "read",
    requests.encodeRead({ container: 1, streamId: STREAM, from: position, eventsMax: 1, bytesMax: 2, level: "tiered" }),
    requests.decodeRead,
  ],
  [
    "wait",
    requests.encodeWait({ container: 1, streamId: STREAM, id: "a.1", position, timeoutMs: 5, level: "tiered" }),
    requests.decodeWait,
  ],
  ["describe", requests.encodeDescribe({ container: 1, streamIds: [STREAM] }), requests.decodeDescribe],
  ["delete", requests.encodeDelete({ container: 1, streamId: STREAM }), requests.decodeDelete],
];

const ANSWERS: readonly [string, Uint8Array, (payload: Uint8Array) => unknown][] = [
  ["done", answers.encodeDone(), answers.decodeDone],
  [
    "appended",
    answers.encodeAppended({ duplicate: false, nextChain: 3, ancestry: position.ancestry, closed: false, producerSeq: 1 }),
    answers.decodeAppended,
  ],
  ["block", answers.encodeUplinkAnswer({ slices: [[0, 3]], epoch: 2 }), (payload) => answers.decodeBlockAnswer(payload, 1)],
  ["levels", answers.encodeUplinkAnswer({ entries: [[3, 2]], epoch: 2 }), (payload) => answers.decodeLevels(payload, 1)],
  ["woken", answers.encodeWoken(true), answers.decodeWoken],
  ["page", answers.encodePage(page, "tiered"), (payload) => answers.decodePage(payload, "tiered")],
  ["states", answers.encodeStates([state, undefined]), (payload) => answers.decodeStates(payload, 2)],
];

describe("what nodes say to each other", () => {
  test.each(REQUESTS)("a damaged %s request is read or INVALID_REQUEST", async (name, sample, decode) => {
    decode(sample);
    await fuzzValues({
      name: `node-${name}`,
      beside,
      seeds: [decodeCbor(sample)],
      run: (value) => orCode(() => decode(encodeCbor(value)), "INVALID_REQUEST"),
    });
    await fuzzBytes({
      name: `node-${name}-bytes`,
      beside,
      seeds: [sample],
      run: (bytes) => orCode(() => decode(bytes), "INVALID_REQUEST"),
    });
  });

  test.each(ANSWERS)("a damaged %s answer is read or INTERNAL, a page also one of another level", async (name, sample, decode) => {
    decode(sample);
    await fuzzValues({
      name: `node-answer-${name}`,
      beside,
      seeds: [decodeCbor(sample)],
      run: (value) => orCode(() => decode(encodeCbor(value)), "INTERNAL", "CONTAINER_NOT_OWNED"),
    });
    await fuzzBytes({
      name: `node-answer-${name}-bytes`,
      beside,
      seeds: [sample],
      run: (bytes) => orCode(() => decode(bytes), "INTERNAL", "CONTAINER_NOT_OWNED"),
    });
  });

  test("pages and states come back as they were", () => {
    expect(answers.decodePage(answers.encodePage(page, "committed"), "committed")).toEqual(page);
    expect(answers.decodeStates(answers.encodeStates([state, undefined, state]), 3)).toEqual([state, undefined, state]);
  });

  test("a node that knows of no levels asks for what is committed, and gives it", () => {
    const { level: _, ...without } = decodeCbor(answers.encodePage(page, "committed")) as Record<string, unknown>;
    expect(answers.decodePage(encodeCbor(without), "committed")).toEqual(page);
    expect(() => answers.decodePage(encodeCbor(without), "tiered")).toThrow(expect.objectContaining({ code: "CONTAINER_NOT_OWNED" }));
    const asked = { container: 1, streamId: STREAM, from: position, eventsMax: 1, bytesMax: 2 };
    expect(requests.decodeRead(encodeCbor(asked))).toEqual({ ...asked, level: "committed" });
    const unknown = encodeCbor({ ...asked, level: "fsynced" });
    expect(() => requests.decodeRead(unknown)).toThrow(expect.objectContaining({ code: "INVALID_REQUEST" }));
  });

  test("an append comes back as it was, whatever it holds", () => {
    const key = fc.string({ maxLength: 40 });
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 20 }), { minLength: 1, maxLength: 20 }),
        fc.constantFrom("none", "one", "each"),
        key,
        fc.boolean(),
        (payloads, keyed, text, timed) => {
          let end = 0;
          const events = {
            count: payloads.length,
            payload: Buffer.concat(payloads),
            ends: payloads.map((payload) => {
              end += payload.length;
              return end;
            }),
            keys: keyed === "none" ? undefined : keyed === "one" ? text : payloads.map((_, i) => `${text}${i}`),
            timesMs: timed ? payloads.map((_, i) => i) : undefined,
          };
          const sent = { id: undefined, container: 3, streamId: STREAM, request: { events, contentType: undefined } };
          const got = requests.decodeAppend(requests.encodeAppend(sent));
          expect(Array.from(got.request.events?.ends ?? [])).toEqual(events.ends);
          expect(Buffer.from(got.request.events?.payload ?? []).equals(events.payload)).toBe(true);
          expect(got.request.events).toMatchObject({ keys: events.keys, timesMs: events.timesMs, count: events.count });
        },
      ),
    );
  });

  test("the largest page that may travel fits in a frame", () => {
    const data = new Uint8Array(LIMITS.nodePageBytesMax / LIMITS.readPageEventsMax);
    const one: ReadEvent = {
      ...event,
      key: "k".repeat(LIMITS.routingKeyBytesMax),
      timeMs: 2 ** 50,
      ordinal: 2 ** 52,
      number: 2 ** 52,
      data,
    };
    const large = { ...one, data: new Uint8Array(LIMITS.eventBytesMax) };
    const events = [...new Array<ReadEvent>(LIMITS.readPageEventsMax - 1).fill(one), large];
    const encoded = answers.encodePage({ ...page, events }, "committed");
    expect(encoded.length).toBeLessThanOrEqual(LIMITS.frameBytesMax);
    expect(answers.decodePage(encoded, "committed").events).toHaveLength(LIMITS.readPageEventsMax);
  });

  test("states that do not fit are left to the next question", () => {
    const many = { ...state, segmentLengths: new Array(1_024).fill({ segment, length: 1 }) };
    const states = new Array<ContainerStreamState>(200).fill(many);
    const encoded = answers.encodeStates(states);
    const got = answers.decodeStates(encoded, 200);
    expect(encoded.length).toBeLessThan(LIMITS.frameBytesMax / 2);
    expect(got.length).toBeGreaterThan(10);
    expect(got.length).toBeLessThan(200);
  });
});
