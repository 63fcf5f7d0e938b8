import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { MUTANTS } from "./mutant-table.ts";
import { SeedPool } from "./pool.ts";

/** The short form; `npm run simulate -- --seeds A..B` is the long one. */
const SEEDS = [1, 2, 3, 4];

describe.runIf(process.versions["bun"] === undefined)("simulation", () => {
  let pool: SeedPool;
  beforeAll(() => {
    pool = new SeedPool(2);
  });
  afterAll(() => pool.close());

  it("breaks no invariant, and tells the same story twice", async () => {
    const tell = () => Promise.all(SEEDS.map((seed) => pool.run({ seed })));
    const [results, again] = await Promise.all([tell(), pool.run({ seed: SEEDS[0] as number })]);
    for (const result of results) {
      expect(result.violations).toEqual([]);
      expect(result.acknowledged).toBeGreaterThan(500);
      expect(result.faults.length).toBeGreaterThan(10);
    }
    expect(again).toEqual(results[0]);
  });

  it("takes out of a story what is not allowed to happen", async () => {
    const whole = await pool.run({ seed: 2, activeShare: 0.2 });
    const some = new Set(whole.faults.slice(0, 5).map(({ id }) => id));
    const part = await pool.run({ seed: 2, activeShare: 0.2, allowedFaults: some });
    expect(part.faults.every(({ id }) => some.has(id))).toBe(true);
    expect(part.violations).toEqual([]);
  });

  it("catches a broken variant", async () => {
    const broken = new SeedPool(1, { mutant: "truncate before verifying" });
    try {
      const kinds = new Set<string>();
      for (let seed = 1; seed <= 20 && kinds.size === 0; seed++)
        for (const { kind } of (await broken.run({ seed })).violations) kinds.add(kind);
      expect([...kinds]).toContain("truncated early");
    } finally {
      await broken.close();
    }
  });
});

describe("mutants", () => {
  it.each(MUTANTS.map((mutant) => [mutant.name, mutant] as const))("%s: what it changes is there", (_, mutant) => {
    for (const { file, find } of mutant.edits) {
      const source = readFileSync(new URL(`../../../${file}`, import.meta.url), "utf8");
      expect(source.split(find)).toHaveLength(2);
    }
  });
});
