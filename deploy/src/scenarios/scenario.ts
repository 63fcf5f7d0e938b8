import type { ClientReport } from "../check/client-histories.ts";

export interface ScenarioContext {
  readonly minutes: number | undefined;
  /** Events or batches a second of each device, where a scenario paces them; its own pace by default. */
  readonly rate: number | undefined;
  /** In [0, 1), from the seed. */
  random(): number;
  /** Empty folder for this run; kept if the run fails. */
  readonly folder: string;
  /** One line of progress. */
  say(line: string): void;
  /** Short form: as in `npm test`. */
  readonly short: boolean;
  /** Program and arguments that run the gateway; the Node that runs this by default. */
  readonly runtime: readonly string[];
}

export interface ScenarioResult {
  readonly report: Pick<ClientReport, "acked" | "read" | "lost" | "doubled" | "reordered">;
  /** What else must hold; each with what was seen. */
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly detail: string }[];
}

export interface Scenario {
  readonly description: string;
  run(context: ScenarioContext): Promise<ScenarioResult>;
}

/** mulberry32: small, seeded, good enough to choose moments. Source: Tommy Ettinger, public domain. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Waits for a condition; throws with what it waited for. */
export async function until(what: string, timeoutMs: number, condition: () => boolean | Promise<boolean>): Promise<void> {
  const startedAt = performance.now();
  while (!(await condition())) {
    if (performance.now() - startedAt > timeoutMs) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export function merge(
  a: ScenarioResult["report"] | undefined,
  b: ScenarioResult["report"],
): { acked: number; read: number; lost: number; doubled: number; reordered: number } {
  return {
    acked: (a?.acked ?? 0) + b.acked,
    read: (a?.read ?? 0) + b.read,
    lost: (a?.lost ?? 0) + b.lost,
    doubled: (a?.doubled ?? 0) + b.doubled,
    reordered: (a?.reordered ?? 0) + b.reordered,
  };
}
