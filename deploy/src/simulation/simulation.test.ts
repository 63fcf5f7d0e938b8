import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { coverageOf } from "./coverage.ts";
import { MUTANTS } from "./mutant-table.ts";
import { SeedPool } from "./pool.ts";
import type { SeedResult } from "./run-seed.ts";
import { shrink } from "./shrink.ts";
import { storyLines } from "./tell.ts";

/** The short form; `npm run simulate -- --seeds A..B` is the long one. */
const SEEDS = [1, 2, 3, 4];

/** Stories take computing, and the machine may have other things to do. */
const TIMEOUT_MS = 240_000;

describe.runIf(process.versions["bun"] === undefined)("simulation", { timeout: TIMEOUT_MS }, () => {
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

  it("catches a broken variant, and makes a short story of it that breaks the same", async () => {
    const broken = new SeedPool(1, { mutant: "truncate before verifying" });
    try {
      let first: SeedResult | undefined;
      for (let seed = 1; seed <= 20 && !first; seed++) {
        const result = await broken.run({ seed });
        if (result.violations.some(({ kind }) => kind === "truncated early")) first = result;
      }
      if (!first) throw new Error("no seed of 20 catches it");
      const wanted = first.violations[0];
      const story = await shrink(first, (options) => broken.run(options), 16);
      // Told from its options alone.
      const told = await broken.run(story.options, true);
      expect(told.violations).toContainEqual(expect.objectContaining({ invariant: wanted?.invariant, kind: wanted?.kind }));
      expect(story.options.allowedClients?.size).toBeLessThan(first.clients.length);
      expect(told.faults.length).toBeLessThan(first.faults.length);
      // Not its steps: what is broken may keep the world from coming to rest, and then it waits for minutes.
      expect(told.events).toBeLessThan(first.events);
      const lines = storyLines(story, told);
      const [words, end] = [lines.indexOf("The last words about what broke:"), lines.indexOf("What broke:")];
      expect(end - words).toBeGreaterThan(1);
      expect(lines.slice(end).join("\n")).toContain("truncated early");
    } finally {
      await broken.close();
    }
  });

  it("knows which lines its stories reach", async () => {
    const covering = new SeedPool(1, { coverage: true });
    try {
      await covering.run({ seed: 1, activeShare: 0.2 });
      const coverage = coverageOf(await covering.coverage());
      const committer = coverage.get("core/src/container")?.find(({ file }) => file.endsWith("/committer.ts"));
      expect(committer?.lines).toBeGreaterThan(50);
      expect(committer?.unreached.length).toBeLessThan((committer?.lines ?? 0) / 2);
      expect(coverage.get("edge/src/store")?.map(({ file }) => file)).not.toContain("edge/src/store/worker-edge-store.ts");
    } finally {
      await covering.close();
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
