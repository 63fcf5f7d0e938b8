import type { ErrorCode, ErrorDetails } from "../errors.ts";
import type { LogRecord } from "../ports/log.ts";
import type { SqliteLogState } from "./sqlite-log.ts";
import type { SalvageReport } from "./sqlite-salvage.ts";

/** What openWorkerLog and its thread say to each other. Each request has one answer of the same id. */
export interface WorkerLogSettings {
  readonly path: string;
  readonly quarantineDir: string;
  readonly synchronous: "full" | "off";
}

export type WorkerLogRequest = { readonly id: number } & (
  | { readonly type: "open"; readonly settings: WorkerLogSettings }
  | { readonly type: "state" }
  | { readonly type: "append"; readonly data: Uint8Array; readonly expectedLast: number }
  | { readonly type: "read"; readonly fromSeq: number; readonly recordsMax: number; readonly bytesMax: number }
  | { readonly type: "truncate"; readonly throughSeq: number }
  | { readonly type: "close" }
);

export type WorkerLogResult = SalvageReport | SqliteLogState | number | LogRecord[] | undefined;

export interface CarriedError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details: ErrorDetails;
}

export type WorkerLogAnswer = { readonly id: number } & ({ readonly result: WorkerLogResult } | { readonly error: CarriedError });
