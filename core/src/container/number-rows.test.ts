import fc from "fast-check";
import { expect, it } from "vitest";
import { NumberRows } from "./number-rows.ts";

it("holds rows as a list of arrays does, however they grow and are dropped", () => {
  const row = fc.array(fc.double({ noNaN: true }), { minLength: 3, maxLength: 3 });
  const step = fc.oneof({ weight: 5, arbitrary: row }, { weight: 1, arbitrary: fc.nat(8) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const rows = new NumberRows(3);
      let model: number[][] = [];
      for (const what of steps) {
        if (typeof what === "number") {
          const dropped = Math.min(what, model.length);
          rows.dropBefore(dropped);
          model = model.slice(dropped);
        } else {
          const at = rows.add();
          expect(at).toBe(model.length);
          expect([0, 1, 2].map((cell) => rows.get(at, cell))).toEqual([0, 0, 0]);
          for (const [cell, value] of what.entries()) rows.set(at, cell, value);
          model.push(what);
        }
        expect(rows.length).toBe(model.length);
        expect(model.map((_, at) => [0, 1, 2].map((cell) => rows.get(at, cell)))).toEqual(model);
      }
    }),
  );
});
