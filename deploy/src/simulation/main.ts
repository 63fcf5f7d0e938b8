import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { MUTANTS } from "./mutant-table.ts";
import { SeedPool } from "./pool.ts";
import type { SeedResult } from "./run-seed.ts";
import { type Story, shrink } from "./shrink.ts";

const HELP = `npm run simulate -- --seed N             tells one story, with a trace
                   --seeds A..B          runs many, on all cores; a failing one is shortened
                   --mutants [--only TEXT]  runs the broken variants until the checker catches each
  --threads N    default: all cores
  --no-shrink    leaves failing stories as long as they are
  --quiet        no trace`;

const MUTANT_SEEDS_MAX = 200;
const write = (line: string) => void process.stdout.write(`${line}\n`);

function range(text: string): [from: number, to: number] {
  const match = /^(\d+)\.\.(\d+)$/.exec(text);
  if (!match) throw new Error(`'${text}' is not a range like 1..100`);
  return [Number(match[1]), Number(match[2])];
}

function tell(result: SeedResult): void {
  for (const { invariant, kind, detail, atMs } of result.violations.slice(0, 10)) {
    write(`  ${(atMs / 1000).toFixed(3)} s  ${invariant === 0 ? kind : `invariant ${invariant}: ${kind}`}: ${detail}`);
  }
}

function tellStory({ options, result }: Story): void {
  write(
    `\nThe short story of seed ${options.seed}: ${options.allowedClients?.size ?? result.clients.length} clients, ${result.faults.length} faults`,
  );
  write(`  clients: ${[...(options.allowedClients ?? result.clients)].join(" ")}`);
  for (const { atMs, id } of result.faults) write(`  ${(atMs / 1000).toFixed(4).padStart(9)} ${id}`);
  tell(result);
}

/** One story, in this thread, as it happens. */
async function runOne(seed: number, quiet: boolean): Promise<number> {
  const { runSeed } = await import("./run-seed.ts");
  const result = await runSeed(quiet ? { seed } : { seed, onTrace: write });
  write(
    `seed ${seed}: ${result.events} events, ${result.steps} steps, ${(result.virtualMs / 1000).toFixed(1)} s, trace ${result.traceHash.toString(16)}`,
  );
  for (const [kind, count] of countFaults([result])) write(`  ${String(count).padStart(6)}  ${kind}`);
  tell(result);
  return result.violations.length > 0 ? 1 : 0;
}

function countFaults(results: readonly SeedResult[]): [string, number][] {
  const counts = new Map<string, number>();
  for (const { faults } of results) for (const { kind } of faults) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  return [...counts].sort(([a], [b]) => (a < b ? -1 : 1));
}

async function runMany(from: number, to: number, threads: number, shrinks: boolean): Promise<number> {
  const pool = new SeedPool(threads);
  const startedMs = performance.now();
  const results: SeedResult[] = [];
  const failed: SeedResult[] = [];
  const report = () => {
    const hours = results.reduce((sum, { virtualMs }) => sum + virtualMs, 0) / (performance.now() - startedMs);
    write(`${results.length} of ${to - from + 1} seeds, ${failed.length} failed, ${hours.toFixed(0)} simulated hours an hour`);
  };
  let reportedMs = startedMs;
  let next = from;
  const work = async () => {
    for (let seed = next++; seed <= to; seed = next++) {
      const result = await pool.run({ seed });
      results.push(result);
      if (result.violations.length > 0) {
        failed.push(result);
        write(`seed ${seed} breaks`);
        tell(result);
      }
      if (performance.now() - reportedMs > 10_000) {
        reportedMs = performance.now();
        report();
      }
    }
  };
  await Promise.all(Array.from({ length: threads }, work));
  report();
  const events = results.map((result) => result.events).sort((a, b) => a - b);
  const sum = (of: (result: SeedResult) => number) => results.reduce((total, result) => total + of(result), 0);
  write(
    `events: median ${events[events.length >> 1]}, all ${sum((r) => r.events)}; steps ${sum((r) => r.steps)}; WAL frames ${sum((r) => r.frames)}, void ${sum((r) => r.voidFrames)}`,
  );
  write(`faults: ${sum((r) => r.faults.length)}`);
  for (const [kind, count] of countFaults(results)) write(`  ${String(count).padStart(8)}  ${kind}`);
  const first = failed[0];
  if (first && shrinks) tellStory(await shrink(first.seed, first, (options) => pool.run(options)));
  if (failed.length > 0)
    write(
      `\nFAILED: ${failed
        .map(({ seed }) => seed)
        .sort((a, b) => a - b)
        .join(" ")}`,
    );
  await pool.close();
  return failed.length > 0 ? 1 : 0;
}

/**
 * A mutant counts as caught when a read or a recorded fact shows it: that the program notices something itself, or comes to no rest, is
 * not enough.
 */
async function runMutants(only: string, threads: number): Promise<number> {
  let missed = 0;
  const waiting = MUTANTS.filter(({ name }) => name.includes(only));
  const work = async () => {
    for (let mutant = waiting.shift(); mutant; mutant = waiting.shift()) {
      const pool = new SeedPool(1, mutant.name);
      let verdict = `NOT CAUGHT in ${MUTANT_SEEDS_MAX} seeds`;
      let stuck = 0;
      for (let seed = 1; seed <= MUTANT_SEEDS_MAX; seed++) {
        let result: SeedResult;
        try {
          result = await pool.run({ seed });
        } catch (error) {
          verdict = `NOT RUN: ${error}`;
          break;
        }
        const caught = result.violations.find(({ invariant }) => invariant > 0);
        if (caught) {
          verdict = `${String(seed).padStart(3)} seeds  invariant ${caught.invariant}, ${caught.kind}`;
          break;
        }
        if (result.violations.length > 0) stuck ||= seed;
      }
      if (verdict.startsWith("NOT")) {
        missed++;
        if (stuck > 0) verdict += `; seed ${stuck} came to no rest`;
      }
      write(`${mutant.name.padEnd(56)} ${verdict}`);
      await pool.close();
    }
  };
  await Promise.all(Array.from({ length: threads }, work));
  return missed > 0 ? 1 : 0;
}

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    seeds: { type: "string" },
    mutants: { type: "boolean" },
    only: { type: "string", default: "" },
    threads: { type: "string", default: String(availableParallelism()) },
    "no-shrink": { type: "boolean" },
    quiet: { type: "boolean" },
    help: { type: "boolean" },
  },
});
if (values.mutants) process.exitCode = await runMutants(values.only, Number(values.threads));
else if (values.seeds) process.exitCode = await runMany(...range(values.seeds), Number(values.threads), !values["no-shrink"]);
else if (values.seed) process.exitCode = await runOne(Number(values.seed), values.quiet ?? false);
else write(HELP);
