import type { SeedResult } from "./run-seed.ts";
import type { WorldOptions } from "./world.ts";

export interface Story {
  readonly options: WorldOptions;
  readonly result: SeedResult;
}

/** Stories tried on the way to a short one. */
const TRIES_MAX = 250;

/**
 * Makes a failing story short: leaves out clients, then faults, then the end of it, as long as the same invariant still breaks
 * (delta debugging, ddmin: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input").
 */
export async function shrink(
  first: SeedResult,
  run: (options: WorldOptions) => Promise<SeedResult>,
  triesMax: number = TRIES_MAX,
): Promise<Story> {
  const wanted = first.violations[0];
  let best: Story = { options: { seed: first.seed }, result: first };
  let tries = 0;
  const attempt = async (change: Partial<WorldOptions>): Promise<boolean> => {
    if (tries++ >= triesMax) return false;
    const options: WorldOptions = { ...best.options, ...change };
    const result = await run(options);
    if (!result.violations.some(({ kind, invariant }) => kind === wanted?.kind && invariant === wanted.invariant)) return false;
    best = { options, result };
    return true;
  };
  const share = wanted ? Math.min(1, wanted.atMs / first.activeMs) : 1;
  for (const part of [0.25, 0.5, 0.75]) if (await attempt({ activeShare: share * part })) break;
  await minimize([...first.clients], (clients) => attempt({ allowedClients: new Set(clients) }));
  await minimize(
    best.result.faults.map(({ id }) => id),
    (faults) => attempt({ allowedFaults: new Set(faults) }),
  );
  await minimize([...(best.options.allowedClients ?? first.clients)], (clients) => attempt({ allowedClients: new Set(clients) }));
  return best;
}

/** Leaves out as many as it can while `holds`. */
async function minimize(all: string[], holds: (part: readonly string[]) => Promise<boolean>): Promise<void> {
  let kept = all;
  for (let chunks = 2; kept.length > 0; ) {
    const size = Math.ceil(kept.length / chunks);
    let shorter: string[] | undefined;
    for (let at = 0; at < kept.length && !shorter; at += size) {
      const without = [...kept.slice(0, at), ...kept.slice(at + size)];
      if (await holds(without)) shorter = without;
    }
    if (shorter) {
      kept = shorter;
      chunks = Math.max(2, chunks - 1);
    } else if (size === 1) return;
    else chunks = Math.min(kept.length, chunks * 2);
  }
}
