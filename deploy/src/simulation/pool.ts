import { Worker } from "node:worker_threads";
import type { ScriptCoverage } from "./coverage-session.ts";
import type { SeedResult } from "./run-seed.ts";
import type { WorldOptions } from "./world.ts";

export interface PoolOptions {
  readonly mutant?: string;
  /** Notes which code is reached. */
  readonly coverage?: boolean;
}

export type SeedJob = { readonly id: number } & (
  | { readonly options: WorldOptions; readonly traced: boolean }
  | { readonly wants: "coverage" }
);

export type SeedAnswer = { readonly id: number } & (
  | { readonly result: TracedResult }
  | { readonly coverage: readonly ScriptCoverage[] }
  | { readonly failure: string }
);

export type TracedResult = SeedResult & { readonly trace: readonly string[] };

/** Most of what a story makes is garbage at once; a small young generation would copy it before it is (measured: a tenth of its time). */
const YOUNG_GENERATION_MB = 192;

interface Waiting {
  readonly resolve: (result: TracedResult) => void;
  readonly reject: (error: Error) => void;
}

/**
 * A thread keeps some of each story: a process that died in its middle never lets go of the signals that it listened to. So it is
 * replaced after so many.
 */
const STORIES_MAX = 50;

/** Threads that run stories, each one after the other. */
export class SeedPool {
  readonly #threads: number;
  readonly #options: PoolOptions;
  readonly #workers = new Set<Worker>();
  readonly #idle = new Set<Worker>();
  readonly #told = new Map<Worker, number>();
  readonly #queue: { readonly options: WorldOptions; readonly traced: boolean; readonly waiting: Waiting }[] = [];
  readonly #running = new Map<Worker, Waiting>();
  #nextId = 1;

  constructor(threads: number, options: PoolOptions = {}) {
    this.#threads = threads;
    this.#options = options;
  }

  #start(): Worker {
    const worker = new Worker(new URL("./simulation-worker.ts", import.meta.url), {
      workerData: this.#options,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
    });
    worker.on("message", (answer: SeedAnswer) => this.#settle(worker, answer));
    worker.on("error", (error) => {
      const waiting = this.#running.get(worker);
      this.#running.delete(worker);
      waiting?.reject(error instanceof Error ? error : new Error(String(error)));
      this.#retire(worker);
    });
    this.#workers.add(worker);
    return worker;
  }

  /** Another one starts once a story needs it: a thread that cannot start must not be started for ever. */
  #retire(worker: Worker): void {
    this.#workers.delete(worker);
    this.#idle.delete(worker);
    this.#told.delete(worker);
    void worker.terminate();
    this.#next();
  }

  /** `traced`: the lines of its trace come with it. Rejects if the story cannot be told to its end: the memory of its thread ran out. */
  run(options: WorldOptions, traced = false): Promise<TracedResult> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ options, traced, waiting: { resolve, reject } });
      this.#next();
    });
  }

  /** What all threads together reached. To be called when no story is under way; ends the noting. */
  async coverage(): Promise<ScriptCoverage[]> {
    const answers = [...this.#workers].map(
      (worker) =>
        new Promise<readonly ScriptCoverage[]>((resolve) => {
          worker.on("message", (answer: SeedAnswer) => "coverage" in answer && resolve(answer.coverage));
          const job: SeedJob = { id: this.#nextId++, wants: "coverage" };
          worker.postMessage(job);
        }),
    );
    return (await Promise.all(answers)).flat();
  }

  async close(): Promise<void> {
    await Promise.all([...this.#workers].map((worker) => worker.terminate()));
  }

  #next(): void {
    while (this.#queue.length > 0) {
      const [idle] = this.#idle;
      const worker = idle ?? (this.#workers.size < this.#threads ? this.#start() : undefined);
      const job = worker && this.#queue.shift();
      if (!job) return;
      this.#idle.delete(worker);
      this.#running.set(worker, job.waiting);
      const message: SeedJob = { id: this.#nextId++, options: job.options, traced: job.traced };
      worker.postMessage(message);
    }
  }

  #settle(worker: Worker, answer: SeedAnswer): void {
    if ("coverage" in answer) return;
    const waiting = this.#running.get(worker);
    this.#running.delete(worker);
    if ("result" in answer) waiting?.resolve(answer.result);
    else waiting?.reject(new Error(answer.failure));
    const told = (this.#told.get(worker) ?? 0) + 1;
    this.#told.set(worker, told);
    // What was covered is asked of the thread at the end.
    if (told >= STORIES_MAX && !this.#options.coverage) this.#retire(worker);
    else {
      this.#idle.add(worker);
      this.#next();
    }
  }
}
