import { parentPort, workerData } from "node:worker_threads";
import { assert } from "@tributary/common/assert";
import { systemClock } from "@tributary/common/clock";
import { openSqliteLogSalvaging } from "@tributary/common/engines/sqlite-salvage";
import { workerReady } from "@tributary/common/engines/worker-thread";
import { toTributaryError } from "@tributary/common/errors";
import { systemRandom } from "@tributary/common/random";
import { FileReserve } from "./file-reserve.ts";
import { createEdgeStore } from "./log-edge-store.ts";
import { quarantineFolder } from "./quarantine-folder.ts";
import {
  type Parcel,
  packPage,
  packUnits,
  type WorkerEdgeAnswer,
  type WorkerEdgeRequest,
  type WorkerEdgeSettings,
} from "./worker-edge-protocol.ts";

/** The thread behind createWorkerEdgeStore: compression and SQLite happen here, one EdgeStore, served in the order of the requests. */

assert(parentPort !== null, "worker-edge-entry.ts runs as a worker thread");
const port = parentPort;
const { path, quarantineDir, synchronous, lastUnit } = workerData as WorkerEdgeSettings;
const store = createEdgeStore({
  log: () => openSqliteLogSalvaging(path, { quarantineDir, synchronous, clock: systemClock }),
  random: systemRandom,
  clock: systemClock,
  reserve: new FileReserve(`${path}-drop-reserve`, systemRandom),
  quarantine: quarantineFolder(quarantineDir),
  breathe: () => new Promise((resolve) => setImmediate(resolve)),
  lastUnit,
});

port.on("message", (request: WorkerEdgeRequest) => {
  // Not awaited: commits are called in the order of the messages, and those that arrive together share an fsync.
  void answer(request);
});
workerReady();

async function answer({ id, method, args }: WorkerEdgeRequest): Promise<void> {
  let message: WorkerEdgeAnswer;
  let transfer: ArrayBuffer[] = [];
  try {
    const parcel = await carryOut(method, args);
    message = { id, result: parcel.value };
    transfer = parcel.transfer;
  } catch (error) {
    const { code, message: text, details } = toTributaryError(error);
    message = { id, error: { code, message: text, details } };
  }
  port.postMessage(message, transfer);
}

async function carryOut(method: WorkerEdgeRequest["method"], args: readonly unknown[]): Promise<Parcel<unknown>> {
  if (method === "uplinkNext") return packUnits(await store.uplinkNext(...(args as Parameters<typeof store.uplinkNext>)));
  if (method === "readLocal") return packPage(await store.readLocal(...(args as Parameters<typeof store.readLocal>)));
  const call = store[method] as (...args: readonly unknown[]) => Promise<unknown>;
  return { value: await call.apply(store, [...args]), transfer: [] };
}
