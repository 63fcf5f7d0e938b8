import { MUTANTS, type Mutant } from "./mutant-table.ts";
import { SeedPool } from "./pool.ts";

const SEEDS_MAX = 200;

/** Runs the broken variants whose name has `only` in it until the checker catches each. Returns the exit code. */
export async function runMutants(only: string, threads: number, write: (line: string) => void): Promise<number> {
  let missed = 0;
  const wanted = only.split(",");
  const waiting = MUTANTS.filter(({ name }) => wanted.some((text) => name.includes(text)));
  const work = async () => {
    for (let mutant = waiting.shift(); mutant; mutant = waiting.shift()) {
      const { caught, verdict } = await judge(mutant);
      if (!caught) missed++;
      write(`${mutant.name.padEnd(56)} ${verdict}`);
    }
  };
  await Promise.all(Array.from({ length: threads }, work));
  return missed > 0 ? 1 : 0;
}

/**
 * A mutant counts as caught when a read or a recorded fact shows it: that the program notices something itself, or comes to no rest, is
 * not enough.
 */
async function judge({ name }: Mutant): Promise<{ caught: boolean; verdict: string }> {
  const pool = new SeedPool(1, { mutant: name });
  let stuck = 0;
  try {
    for (let seed = 1; seed <= SEEDS_MAX; seed++) {
      const { violations } = await pool.run({ seed });
      const proof = violations.find(({ invariant }) => invariant > 0);
      if (proof) return { caught: true, verdict: `${String(seed).padStart(3)} seeds  invariant ${proof.invariant}, ${proof.kind}` };
      if (violations.length > 0) stuck ||= seed;
    }
    return { caught: false, verdict: `NOT CAUGHT in ${SEEDS_MAX} seeds${stuck > 0 ? `; seed ${stuck} came to no rest` : ""}` };
  } catch (error) {
    return { caught: false, verdict: `NOT RUN: ${error}` };
  } finally {
    await pool.close();
  }
}
