import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeCbor, encodeCbor, encodeCborMap } from "./cbor.ts";
import { MalformedBytes } from "./varint.ts";

const value = fc.letrec((tie) => ({
  any: fc.oneof(
    { maxDepth: 4 },
    fc.constantFrom(null, true, false),
    fc.maxSafeInteger(),
    fc.double({ noNaN: true }).filter((number) => !Object.is(number, -0)),
    fc.string({ unit: "grapheme" }),
    fc.uint8Array({ maxLength: 40 }),
    fc.array(tie("any"), { maxLength: 30 }),
    fc.dictionary(
      fc.string({ unit: "grapheme" }).filter((key) => key !== "__proto__"),
      tie("any"),
    ),
  ),
})).any;

/** A byte string of `length` bytes under a tag. */
function tagged(tag: number, length: number): Uint8Array {
  const bytes = new Uint8Array(8 + length).fill(0xff);
  bytes.set([0xd8, tag, 0x5a]);
  new DataView(bytes.buffer).setUint32(3, length);
  return bytes.subarray(0, 7 + length);
}

describe("CBOR", () => {
  it("gives back what was put in", () => {
    fc.assert(
      fc.property(value, (given) => {
        expect(plain(decodeCbor(encodeCbor(given)))).toEqual(plain(given));
      }),
    );
  });

  it("refuses every tag, wherever it stands and however long", () => {
    for (const head of [[0xc1], [0xd8, 0x40], [0xd9, 0xdf, 0xf9], [0xda, 0, 0, 0, 1], [0xdb, 0, 0, 0, 0, 0, 0, 0, 1]]) {
      for (const around of [[], [0x81], [0xa1, 0x61, 0x61], [0x9f], [0x82, 0x58, 0x01, 0xc1]]) {
        expect(() => decodeCbor(Uint8Array.from([...around, ...head, 0x01]))).toThrow(MalformedBytes);
      }
    }
  });

  it("does not work on a big number of megabytes", () => {
    expect(() => decodeCbor(tagged(2, 1_000_000))).toThrow(MalformedBytes);
    expect(() => decodeCbor(tagged(3, 1_000_000))).toThrow(MalformedBytes);
  });

  it("does not take the bytes of a string for a tag", () => {
    const bytes = Uint8Array.of(0xc0, 0xd9, 0xdf, 0xf9);
    expect(plain(decodeCbor(encodeCbor([bytes, "\u00c1"])))).toEqual([plain(bytes), "\u00c1"]);
  });

  it("survives claims without content, and nesting without end", () => {
    const claims = [0x9a, 0xba, 0x5a, 0x7a].map((head) => Uint8Array.of(head, 0xff, 0xff, 0xff, 0xff));
    const nests = [0x81, 0x9f, 0xa1, 0xbf].map((head) => new Uint8Array(1_000_000).fill(head));
    for (const bytes of [...claims, ...nests]) expect(() => decodeCbor(bytes)).toThrow();
    // The decoder's state is not left behind.
    expect(decodeCbor(encodeCbor({ a: [1, "b"] }))).toEqual({ a: [1, "b"] });
  });
});

/** Byte strings come as Buffers. */
function plain(given: unknown): unknown {
  if (given instanceof Uint8Array) return { bytes: Buffer.from(given).toString("hex") };
  if (Array.isArray(given)) return given.map(plain);
  if (typeof given !== "object" || given === null) return given;
  return Object.fromEntries(Object.entries(given).map(([key, inner]) => [key, plain(inner)]));
}

it("a map is the same in steps as at once", () => {
  const map = { a: 1, b: { x: [1, 2, 300], y: "text", deeper: { z: new Uint8Array(3) } }, c: [], d: new Uint8Array(20_000), e: "last" };
  const steps = encodeCborMap(map);
  let step = steps.next();
  for (; !step.done; step = steps.next());
  expect(Uint8Array.from(step.value)).toEqual(encodeCbor(map));
});
