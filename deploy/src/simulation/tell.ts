import type { TracedResult } from "./pool.ts";
import type { SeedResult } from "./run-seed.ts";
import type { Story } from "./shrink.ts";

const VIOLATIONS_TOLD_MAX = 10;
const TRACE_TOLD_MAX = 40;

/** What broke. */
export function violationLines({ violations, histories }: SeedResult): string[] {
  return [
    ...violations
      .slice(0, VIOLATIONS_TOLD_MAX)
      .map(
        ({ invariant, kind, detail, atMs }) =>
          `  ${(atMs / 1000).toFixed(3)} s  ${invariant === 0 ? kind : `invariant ${invariant}: ${kind}`}: ${detail}`,
      ),
    ...histories.map((history) => `  ${history}`),
  ];
}

/** A short story, for a person to read: who acted, which faults struck, what the ones concerned said about it, and what broke. */
export function storyLines({ options }: Story, told: TracedResult): string[] {
  return [
    `The short story of seed ${options.seed}: ${options.allowedClients?.size ?? told.clients.length} clients, ${told.faults.length} faults`,
    `  clients: ${[...(options.allowedClients ?? told.clients)].join(" ")}`,
    "Its faults:",
    ...told.faults.map(({ atMs, id }) => `  ${(atMs / 1000).toFixed(4).padStart(9)} ${id}`),
    "The last words about what broke:",
    ...lastWords(told).map((line) => `  ${line}`),
    "What broke:",
    ...violationLines(told),
  ];
}

/** The trace up to the first violation, as far as it speaks of the nodes, streams and keys that the violation names. */
function lastWords({ violations, histories, trace }: TracedResult): string[] {
  const first = violations[0];
  if (!first) return [];
  const text = [first.detail, ...histories.slice(0, 1)].join(" ");
  const names = new Set(text.match(/\b(?:gw\d+c*|core\d*|plant\/[\w-]+|gw\d+[\w-]*-[abc])\b/g) ?? []);
  // Containers are the core's business.
  if (/\bWAL \d/.test(text) || names.size === 0) names.add("core");
  return trace
    .filter((line) => Number.parseFloat(line) * 1000 <= first.atMs + 0.1 && [...names].some((name) => line.includes(name)))
    .slice(-TRACE_TOLD_MAX);
}

export function countFaults(results: readonly SeedResult[]): [string, number][] {
  const counts = new Map<string, number>();
  for (const { faults } of results) for (const { kind } of faults) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  return [...counts].sort(([a], [b]) => (a < b ? -1 : 1));
}
