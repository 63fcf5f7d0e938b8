import { parentPort, workerData } from "node:worker_threads";
import { assert } from "@tributary/common/assert";
import { MUTANTS } from "./mutant-table.ts";
import type { SeedJob } from "./pool.ts";

/** A thread that runs stories one after the other, of the program as it is or of one mutant. */
assert(parentPort !== null, "simulation-worker.ts runs as a worker thread");
const port = parentPort;
const { mutant: name } = workerData as { readonly mutant: string | undefined };
const mutant = MUTANTS.find((known) => known.name === name);
// Not every runtime has the hooks that it takes.
if (mutant) (await import("./mutant-loader.ts")).loadMutant(mutant);
// After the mutant: what is imported now is changed.
const { runSeed } = await import("./run-seed.ts");

port.on("message", async ({ id, options }: SeedJob) => {
  try {
    port.postMessage({ id, result: await runSeed(options) });
  } catch (error) {
    port.postMessage({ id, failure: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  }
});
