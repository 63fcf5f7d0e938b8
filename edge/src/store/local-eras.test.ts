import { LIMITS } from "@tributary/common/limits";
import fc from "fast-check";
import { expect, test } from "vitest";
import { eraBefore, extendEras, type LocalEra } from "./local-eras.ts";
import { createStream } from "./testing/gateway-model.ts";
import { Site } from "./testing/site.ts";

const run = (incarnation: string, ordinal: number, count: number, first: number): LocalEra => {
  return { ordinal, count, incarnation, lane: "live", first };
};

test("runs that go on alike become one, also over what no commit is left of", () => {
  const eras: LocalEra[] = [];
  extendEras(eras, run("x", 0, 3, 1), 1);
  extendEras(eras, run("x", 3, 2, 4), 1);
  extendEras(eras, run("x", 9, 1, 10), 1);
  extendEras(eras, run("y", 10, 2, 1), 1);
  extendEras(eras, { ...run("y", 12, 1, 1), lane: "backlog" }, 1);
  extendEras(eras, run("y", 13, 1, 3), 1);
  expect(eras).toEqual([run("x", 0, 10, 1), run("y", 10, 2, 1), { ...run("y", 12, 1, 1), lane: "backlog" }, run("y", 13, 1, 3)]);
  expect([0, 1, 10, 11, 99].map((ordinal) => eraBefore(eras, ordinal)?.incarnation)).toEqual([undefined, "x", "x", "y", "y"]);
});

test("ascending whatever records say, and bounded", () => {
  const runs = fc.array(
    fc.tuple(fc.constantFrom("x", "y", "z"), fc.nat(50), fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 60 })),
  );
  fc.assert(
    fc.property(runs, fc.integer({ min: 1, max: 2 ** 18 }), (runs, streams) => {
      const eras: LocalEra[] = [];
      for (const [incarnation, ordinal, count, first] of runs) extendEras(eras, run(incarnation, ordinal, count, first), streams);
      for (const [i, era] of eras.entries()) {
        expect(era.count).toBeGreaterThan(0);
        expect(era.ordinal + era.count).toBeLessThanOrEqual(eras[i + 1]?.ordinal ?? Number.POSITIVE_INFINITY);
      }
      expect(eras.length * streams).toBeLessThanOrEqual(LIMITS.localErasMax);
    }),
  );
});

test("each event of a log is where its eras say, through starts, frees and checkpoints", async () => {
  const site = new Site(11);
  await site.open();
  const id = site.id(0);
  await site.gateway.commit(site.store, [], [createStream(id, 1)]);
  site.streams.push({ id, segments: 1, mapped: false });
  await site.gateway.commit(site.store, [], site.mapping(0, true, 1));
  const places = new Map<string, number>();
  let ordinal = 0;
  for (let start = 0; start < 6; start++) {
    for (let i = 0; i < 12; i++, ordinal++) {
      places.set(`${site.gateway.opened?.incarnation} ${i + 1}`, ordinal);
      await site.gateway.commit(site.store, [{ stream: id, key: "", text: `${ordinal}` }]);
    }
    if (start % 2 === 1) await site.drain();
    await site.restart();
  }
  const eras = site.gateway.opened?.state.streams.find((stream) => stream.id === id)?.eras ?? [];
  expect(eras).toHaveLength(6);
  for (const era of eras) {
    for (let i = 0; i < era.count; i++) expect(places.get(`${era.incarnation} ${era.first + i}`)).toBe(era.ordinal + i);
  }
  expect(eras.reduce((sum, { count }) => sum + count, 0)).toBe(ordinal);
});
