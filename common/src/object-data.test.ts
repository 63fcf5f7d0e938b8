import fc from "fast-check";
import { expect, test } from "vitest";
import { joined, lengthOf, partsOf, sliced } from "./object-data.ts";

test("parts are the bytes that they give in a row, and so is any slice of them", () => {
  const parts = fc.array(fc.uint8Array({ maxLength: 9 }), { maxLength: 8 });
  fc.assert(
    fc.property(parts, fc.nat(80), fc.nat(80), (data, from, length) => {
      const whole = joined(data);
      expect(whole).toHaveLength(lengthOf(data));
      expect(Buffer.concat(data)).toEqual(Buffer.from(whole));
      const to = from + length;
      const slice = [...sliced(data, from, to)];
      expect(joined(slice)).toEqual(whole.slice(from, to));
      expect([...sliced(whole, from, to)].map((part) => [...part])).toEqual(from < whole.length ? [[...whole.slice(from, to)]] : []);
    }),
  );
});

test("one array is one part, and is copied where it is joined", () => {
  const bytes = Uint8Array.of(1, 2, 3);
  expect(partsOf(bytes)).toEqual([bytes]);
  expect(joined(bytes)).toEqual(bytes);
  expect(joined(bytes)).not.toBe(bytes);
});
