import { parentPort, workerData } from "node:worker_threads";
import { assert } from "@tributary/common/assert";
import { MUTANTS } from "./mutant-table.ts";
import type { PoolOptions, SeedJob } from "./pool.ts";
import { loadProgram } from "./program-loader.ts";

/** A thread that runs stories one after the other, of the program as it is or of one mutant. */
assert(parentPort !== null, "simulation-worker.ts runs as a worker thread");
const port = parentPort;
const STACK_LINES = Error.stackTraceLimit;
const { mutant, coverage } = workerData as PoolOptions;
const covered = coverage ? await (await import("./coverage-session.ts")).startCoverage() : undefined;
loadProgram(MUTANTS.find(({ name }) => name === mutant));
// After that: what is imported now is changed.
const { runSeed } = await import("./run-seed.ts");

port.on("message", async (job: SeedJob) => {
  const { id } = job;
  // Refusals are many in a story, and where they were made is asked only of those that are told.
  Error.stackTraceLimit = "traced" in job && job.traced ? STACK_LINES : 0;
  try {
    if ("wants" in job) port.postMessage({ id, coverage: (await covered?.take()) ?? [] });
    else {
      const trace: string[] = [];
      const options = job.traced ? { ...job.options, onTrace: (line: string) => void trace.push(line) } : job.options;
      port.postMessage({ id, result: { ...(await runSeed(options)), trace } });
    }
  } catch (error) {
    port.postMessage({ id, failure: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  }
});
