import { MUTANTS, type Mutant } from "./mutant-table.ts";
import { SeedPool } from "./pool.ts";

const SEEDS_MAX = 200;

/** Runs the broken variants whose name has `only` in it until the checker catches each. Returns the exit code. */
export async function runMutants(only: string, threads: number, write: (line: string) => void): Promise<number> {
  let missed = 0;
  const wanted = only.split(",");
  // Runs what a mutant breaks once more as it should be: a seed that breaks by itself is no proof.
  const unbroken = new SeedPool(threads);
  const waiting = MUTANTS.filter(({ name }) => wanted.some((text) => name.includes(text)));
  const work = async () => {
    for (let mutant = waiting.shift(); mutant; mutant = waiting.shift()) {
      const { caught, verdict } = await judge(mutant, unbroken);
      if (!caught) missed++;
      write(`${mutant.name.padEnd(56)} ${verdict}`);
    }
  };
  await Promise.all(Array.from({ length: threads }, work));
  await unbroken.close();
  return missed > 0 ? 1 : 0;
}

/**
 * A mutant counts as caught when a read or a recorded fact shows it: that the program notices something itself and then comes to no
 * rest, or answers no reads, is not enough.
 */
async function judge({ name }: Mutant, unbroken: SeedPool): Promise<{ caught: boolean; verdict: string }> {
  const pool = new SeedPool(1, { mutant: name });
  let stuck = 0;
  try {
    for (let seed = 1; seed <= SEEDS_MAX; seed++) {
      const { violations } = await pool.run({ seed });
      const proof = violations.find(({ invariant, kind }) => invariant > 0 && kind !== "unreadable");
      if (proof && (await unbroken.run({ seed })).violations.length === 0)
        return { caught: true, verdict: `${String(seed).padStart(3)} seeds  invariant ${proof.invariant}, ${proof.kind}` };
      if (violations.length > 0) stuck ||= seed;
    }
    return { caught: false, verdict: `NOT CAUGHT in ${SEEDS_MAX} seeds${stuck > 0 ? `; seed ${stuck} came to no rest` : ""}` };
  } catch (error) {
    return { caught: false, verdict: `NOT RUN: ${error}` };
  } finally {
    await pool.close();
  }
}
