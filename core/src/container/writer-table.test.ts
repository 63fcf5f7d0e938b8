import fc from "fast-check";
import { expect, it } from "vitest";
import { WriterTable } from "./writer-table.ts";

it("holds what was entered, by segment, in rows that keep their numbers", () => {
  const step = fc.record({
    position: fc.nat(20),
    more: fc.integer({ min: 1, max: 2 ** 40 }),
    hash: fc.integer({ min: -1, max: 2 ** 32 - 1 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const table = new WriterTable();
      const model = new Map<number, { row: number; last: number; hash: number; tiered: number }>();
      for (const { position, more, hash } of steps) {
        const before = model.get(position);
        const last = (before?.last ?? 0) + more;
        const row = table.set(position, last, hash);
        expect(row).toBe(before?.row ?? model.size);
        // Every other one gets into the tier, and a flush that began before says less later.
        const tiered = more % 2 === 0 ? last : (before?.tiered ?? 0);
        table.setTiered(row, tiered);
        table.setTiered(row, tiered - 1);
        model.set(position, { row, last, hash, tiered });
      }
      expect([...table]).toEqual([...model].sort(([a], [b]) => a - b).map(([position, { row: _, ...entry }]) => [position, entry]));
      for (const [position, { row, ...entry }] of model) {
        expect(table.rowOf(position)).toBe(row);
        expect(table.at(row)).toEqual(entry);
      }
      expect(table.rowOf(21)).toBeUndefined();
    }),
  );
});

it("takes no number that is not above the one before", () => {
  const table = new WriterTable();
  table.set(3, 7, 1);
  expect(() => table.set(3, 7, 1)).toThrow("a writer's number only grows");
  expect(table.at(0)).toEqual({ last: 7, hash: 1, tiered: 0 });
});

it("remembers a row's place for the flush that gave it, and for no other", () => {
  const table = new WriterTable();
  const [a, b] = [table.set(5, 1, 0), table.set(2, 1, 0)];
  expect(table.placeIn(a, 1)).toBe(-1);
  table.setPlace(a, 1, 0);
  table.setPlace(b, 1, 9);
  expect([table.placeIn(a, 1), table.placeIn(b, 1)]).toEqual([0, 9]);
  expect([table.placeIn(a, 2), table.placeIn(b, 2)]).toEqual([-1, -1]);
});
