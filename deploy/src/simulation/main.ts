import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { countArraysAsHeap } from "@tributary/common/heap";
import { loadProgram } from "./program-loader.ts";
import { runMany } from "./run-many.ts";
import { runMutants } from "./run-mutants.ts";
import { countFaults, violationLines } from "./tell.ts";

const HELP = `npm run simulate -- --seed N             tells one story, with a trace
                   --seeds A..B          runs many, on all cores; the first that fails is shortened
                   --mutants [--only A,B]  runs the broken variants until the checker catches each
  --threads N      default: all cores
  --no-shrink      leaves a failing story as long as it is
  --faults-min N   fails if fewer faults than that struck in all
  --coverage       prints what the seeds reached of the program's lines; fails if it is not enough
  --quiet          no trace`;

// A third of a story's processor time went into looking for garbage.
countArraysAsHeap();

// Whoever read this went away, or wants no more: the run ends, and says by its exit code what it found so far.
const ending = new AbortController();
process.stdout.on("error", () => ending.abort("output closed"));
process.once("SIGINT", () => ending.abort("interrupted"));

const write = (line: string): void => {
  if (ending.signal.reason !== "output closed") process.stdout.write(`${line}\n`);
};

function wrongUsage(what: string): never {
  process.stderr.write(`${what}\n${HELP}\n`);
  process.exit(2);
}

function range(text: string): [from: number, to: number] {
  const match = /^(\d+)\.\.(\d+)$/.exec(text);
  const [from, to] = [Number(match?.[1]), Number(match?.[2])];
  if (!(from <= to)) wrongUsage(`'${text}' is not a range like 1..100`);
  return [from, to];
}

function number(flag: string, text: string, min = 0): number {
  const value = Number(text);
  if (text === "" || !Number.isSafeInteger(value) || value < min) wrongUsage(`--${flag} '${text}' is not a whole number from ${min} on`);
  return value;
}

/** One story, in this thread, as it happens. */
async function runOne(seed: number, quiet: boolean): Promise<number> {
  loadProgram(undefined);
  const { runSeed } = await import("./run-seed.ts");
  const result = await runSeed(quiet ? { seed } : { seed, onTrace: write });
  write(
    `seed ${seed}: ${result.events} events, ${result.steps} steps, ${(result.virtualMs / 1000).toFixed(1)} s, trace ${result.traceHash.toString(16)}`,
  );
  for (const [kind, count] of countFaults([result])) write(`  ${String(count).padStart(6)}  ${kind}`);
  for (const line of violationLines(result)) write(line);
  return result.violations.length > 0 ? 1 : 0;
}

const FLAGS = {
  seed: { type: "string" },
  seeds: { type: "string" },
  mutants: { type: "boolean" },
  only: { type: "string", default: "" },
  threads: { type: "string", default: String(availableParallelism()) },
  "no-shrink": { type: "boolean", default: false },
  "faults-min": { type: "string", default: "0" },
  coverage: { type: "boolean", default: false },
  quiet: { type: "boolean", default: false },
  help: { type: "boolean" },
} as const;

function readFlags() {
  try {
    return parseArgs({ options: FLAGS }).values;
  } catch (error) {
    return wrongUsage(error instanceof Error ? error.message : String(error));
  }
}

const values = readFlags();
const threads = number("threads", values.threads, 1);
if (values.mutants) process.exitCode = await runMutants(values.only, threads, write);
else if (values.seeds) {
  process.exitCode = await runMany(
    ...range(values.seeds),
    {
      threads,
      shrinks: !values["no-shrink"],
      coverage: values.coverage,
      faultsMin: number("faults-min", values["faults-min"]),
      signal: ending.signal,
    },
    write,
  );
} else if (values.seed) process.exitCode = await runOne(number("seed", values.seed), values.quiet);
else write(HELP);
// Not every run can be ended between its steps.
if (ending.signal.aborted) process.exit();
