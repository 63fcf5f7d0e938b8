import { parentPort } from "node:worker_threads";
import { assert } from "../assert.ts";
import { systemClock } from "../clock.ts";
import { toTributaryError } from "../errors.ts";
import type { SqliteLog } from "./sqlite-log.ts";
import { openSqliteLogSalvaging } from "./sqlite-salvage.ts";
import type { WorkerLogAnswer, WorkerLogRequest, WorkerLogResult } from "./worker-log-protocol.ts";
import { workerReady } from "./worker-thread.ts";

/** The thread behind openWorkerLog: one SqliteLog, served in the order of the requests. */

assert(parentPort !== null, "worker-log-entry.ts runs as a worker thread");
const port = parentPort;
let log: SqliteLog | undefined;

port.on("message", (request: WorkerLogRequest) => {
  // Not awaited: `append` is called in the order of the messages, and those that arrive together share a commit.
  void answer(request);
});
workerReady();

async function answer(request: WorkerLogRequest): Promise<void> {
  const { id } = request;
  let message: WorkerLogAnswer;
  try {
    message = { id, result: await carryOut(request) };
  } catch (error) {
    const { code, message: text, details } = toTributaryError(error);
    message = { id, error: { code, message: text, details } };
  }
  port.postMessage(message, "result" in message ? buffersOf(message.result) : []);
}

async function carryOut(request: WorkerLogRequest): Promise<WorkerLogResult> {
  if (request.type === "open") {
    const opened = await openSqliteLogSalvaging(request.settings.path, { ...request.settings, clock: systemClock });
    log = opened.log;
    return opened.report;
  }
  if (request.type === "close") {
    await log?.close();
    return undefined;
  }
  assert(log !== undefined, "a log is opened first");
  switch (request.type) {
    case "state":
      return log.state();
    case "append":
      return log.append(request.data, request.expectedLast);
    case "read":
      return log.read(request.fromSeq, request);
    case "truncate":
      await log.truncate(request.throughSeq);
      return undefined;
  }
}

/** Record data is handed over, not copied, where it has its buffer to itself. */
function buffersOf(result: WorkerLogResult): ArrayBuffer[] {
  if (!Array.isArray(result)) return [];
  return result.flatMap(({ data }) =>
    data.buffer instanceof ArrayBuffer && data.buffer.byteLength === data.byteLength ? [data.buffer] : [],
  );
}
