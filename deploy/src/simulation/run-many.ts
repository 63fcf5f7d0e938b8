import { setTimeout as sleep } from "node:timers/promises";
import { coverageOf, tellCoverage } from "./coverage.ts";
import { SeedPool } from "./pool.ts";
import type { SeedResult } from "./run-seed.ts";
import { shrink } from "./shrink.ts";
import { countFaults, storyLines, violationLines } from "./tell.ts";

export interface ManyOptions {
  readonly threads: number;
  readonly shrinks: boolean;
  readonly coverage: boolean;
  /** So many faults must have struck in all. */
  readonly faultsMin: number;
  /** Ends the run early: what there is is told. */
  readonly signal: AbortSignal;
}

const REPORT_MS = 10_000;

/** Many stories, on all threads. Returns the exit code. */
export async function runMany(from: number, to: number, options: ManyOptions, write: (line: string) => void): Promise<number> {
  const { threads, signal } = options;
  const pool = new SeedPool(threads, { coverage: options.coverage });
  const startedMs = performance.now();
  const results: SeedResult[] = [];
  const failed: SeedResult[] = [];
  /** Seeds whose stories have no end. */
  const endless: number[] = [];
  const hoursAnHour = () => results.reduce((sum, { virtualMs }) => sum + virtualMs, 0) / (performance.now() - startedMs);
  const report = () =>
    write(
      `${results.length} of ${to - from + 1} seeds, ${failed.length + endless.length} failed, ${hoursAnHour().toFixed(0)} simulated hours an hour`,
    );
  let reportedMs = startedMs;
  let next = from;
  const work = async () => {
    for (let seed = next++; seed <= to && !signal.aborted; seed = next++) {
      const answer = await pool.run({ seed }).catch((error: Error) => error);
      if (signal.aborted) return;
      if (answer instanceof Error) {
        endless.push(seed);
        write(`seed ${seed} breaks: it could not be told to its end: ${answer.message}`);
        continue;
      }
      const { trace: _, ...result } = answer;
      results.push(result);
      if (result.violations.length > 0) {
        failed.push(result);
        write(`seed ${seed} breaks`);
        for (const line of violationLines(result)) write(line);
      }
      if (performance.now() - reportedMs > REPORT_MS) {
        reportedMs = performance.now();
        report();
      }
    }
  };
  const everything = Promise.all(Array.from({ length: threads }, work));
  // A story under way is not waited for.
  await Promise.race([everything, aborted(signal)]);
  if (signal.aborted) write("ended early");
  tellTotals(results, write);
  report();
  let enough = true;
  const faults = results.reduce((sum, result) => sum + result.faults.length, 0);
  if (faults < options.faultsMin) {
    enough = false;
    write(`${faults} faults are fewer than the ${options.faultsMin} that were asked for`);
  }
  if (options.coverage && !signal.aborted) enough = tellCoverage(coverageOf(await pool.coverage()), write) && enough;
  const first = failed[0];
  if (first && options.shrinks && !signal.aborted) {
    const story = await Promise.race([shrink(first, (world) => pool.run(world)), aborted(signal)]);
    if (story) for (const line of storyLines(story, await pool.run(story.options, true))) write(line);
  }
  const seeds = [...failed.map(({ seed }) => seed), ...endless].sort((a, b) => a - b);
  if (seeds.length > 0) write(`\nFAILED: ${seeds.join(" ")}`);
  await pool.close();
  if (seeds.length > 0) return 1;
  if (signal.aborted) return signal.reason === "output closed" ? 0 : 130;
  return enough ? 0 : 1;
}

function tellTotals(results: readonly SeedResult[], write: (line: string) => void): void {
  const events = results.map((result) => result.events).sort((a, b) => a - b);
  const sum = (of: (result: SeedResult) => number) => results.reduce((total, result) => total + of(result), 0);
  write(
    `events: median ${events[events.length >> 1] ?? 0}, all ${sum((r) => r.events)}; steps ${sum((r) => r.steps)}; WAL frames ${sum((r) => r.frames)}, void ${sum((r) => r.voidFrames)}`,
  );
  write(`faults: ${sum((r) => r.faults.length)}`);
  for (const [kind, count] of countFaults(results)) write(`  ${String(count).padStart(8)}  ${kind}`);
}

/** Resolves once the signal is there. */
async function aborted(signal: AbortSignal): Promise<undefined> {
  await sleep(2 ** 31 - 1, undefined, { signal, ref: false }).catch(() => undefined);
}
