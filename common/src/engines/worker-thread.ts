import { parentPort, Worker, type WorkerOptions } from "node:worker_threads";
import { assert } from "../assert.ts";

const READY = "ready";

/**
 * Starts a worker thread and resolves once it listens. Deno can lose messages that are posted before the thread's module has been
 * evaluated, so nothing may be sent earlier. @throws whatever ended the thread
 */
export function startWorker(entry: URL, options: WorkerOptions = {}): Promise<Worker> {
  const worker = new Worker(entry, options);
  return new Promise((resolve, reject) => {
    const settle = (error: Error | undefined) => {
      worker.off("message", onMessage);
      worker.off("error", settle);
      worker.off("exit", onExit);
      if (error) reject(error);
      else resolve(worker);
    };
    const onMessage = (message: unknown) => {
      assert(message === READY, "a thread's first message says that it listens");
      settle(undefined);
    };
    const onExit = (code: number) => settle(new Error(`the thread exited with ${code}`));
    worker.on("message", onMessage);
    worker.on("error", settle);
    worker.on("exit", onExit);
  });
}

/** Called by the thread once its listener for messages is in place. */
export function workerReady(): void {
  assert(parentPort !== null, "only a worker thread is ready");
  parentPort.postMessage(READY);
}
