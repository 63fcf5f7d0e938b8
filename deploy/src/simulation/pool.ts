import { Worker } from "node:worker_threads";
import type { SeedResult } from "./run-seed.ts";
import type { WorldOptions } from "./world.ts";

export interface SeedJob {
  readonly id: number;
  readonly options: WorldOptions;
}

type SeedAnswer = { readonly id: number } & ({ readonly result: SeedResult } | { readonly failure: string });

interface Waiting {
  readonly resolve: (result: SeedResult) => void;
  readonly reject: (error: Error) => void;
}

/** Threads that run stories, each one after the other. */
export class SeedPool {
  readonly #workers: Worker[];
  readonly #idle: Worker[];
  readonly #queue: { readonly options: WorldOptions; readonly waiting: Waiting }[] = [];
  readonly #running = new Map<Worker, Waiting>();
  #nextId = 1;

  constructor(threads: number, mutant?: string) {
    this.#workers = Array.from({ length: threads }, () => {
      const worker = new Worker(new URL("./simulation-worker.ts", import.meta.url), { workerData: { mutant } });
      worker.on("message", (answer: SeedAnswer) => this.#settle(worker, answer));
      worker.on("error", (error) => this.#settle(worker, { id: 0, failure: error instanceof Error ? (error.stack ?? "") : String(error) }));
      return worker;
    });
    this.#idle = [...this.#workers];
  }

  run(options: WorldOptions): Promise<SeedResult> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ options, waiting: { resolve, reject } });
      this.#next();
    });
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }

  #next(): void {
    for (let worker = this.#idle.pop(); worker; worker = this.#idle.pop()) {
      const job = this.#queue.shift();
      if (!job) {
        this.#idle.push(worker);
        return;
      }
      this.#running.set(worker, job.waiting);
      const message: SeedJob = { id: this.#nextId++, options: job.options };
      worker.postMessage(message);
    }
  }

  #settle(worker: Worker, answer: SeedAnswer): void {
    const waiting = this.#running.get(worker);
    this.#running.delete(worker);
    this.#idle.push(worker);
    if ("result" in answer) waiting?.resolve(answer.result);
    else waiting?.reject(new Error(answer.failure));
    this.#next();
  }
}
