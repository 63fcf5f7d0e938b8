import type { ErrorCode, ErrorDetails } from "@tributary/common/errors";
import type { EventColumns } from "@tributary/common/format/event-columns";
import type { CommitBatch, EdgeStore, LocalEvent, LocalPage, UplinkUnit } from "./edge-store.ts";

/** What createWorkerEdgeStore and its thread say to each other. Each request has one answer of the same id. */
export interface WorkerEdgeSettings {
  /** File of the log. */
  readonly path: string;
  /** Folder for damaged files and records, on the same file system. */
  readonly quarantineDir: string;
  /** "off" never fsyncs: for measurements, and for checks that must fail without it. */
  readonly synchronous: "full" | "off";
  /** Highest number of a unit that an earlier thread handed out. */
  readonly lastUnit: number;
}

export type EdgeMethod = keyof EdgeStore;

export interface WorkerEdgeRequest {
  readonly id: number;
  readonly method: EdgeMethod;
  readonly args: readonly unknown[];
}

export interface CarriedError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details: ErrorDetails;
}

export type WorkerEdgeAnswer = { readonly id: number } & ({ readonly result: unknown } | { readonly error: CarriedError });

/** A message and the buffers that are handed over with it. */
export interface Parcel<T> {
  readonly value: T;
  readonly transfer: ArrayBuffer[];
}

/**
 * Bytes with a buffer of their own, which can be handed over. A view of part of a buffer is copied: handing the whole buffer over
 * would take it from whoever else has views of it, and sending the view would copy all of it.
 */
function own<T extends Uint8Array | Uint32Array | Float64Array>(array: T, transfer: ArrayBuffer[]): T {
  const whole = array.buffer instanceof ArrayBuffer && array.buffer.byteLength === array.byteLength && array.constructor !== Buffer;
  const mine = (whole ? array : array.slice()) as T;
  // Buffer.slice is a view; and small Buffers live in a pool that cannot be handed over.
  const plain = mine instanceof Buffer ? (new Uint8Array(mine) as T) : mine;
  if (plain.byteLength > 0) transfer.push(plain.buffer as ArrayBuffer);
  return plain;
}

export function packBatch(batch: CommitBatch): Parcel<CommitBatch> {
  const transfer: ArrayBuffer[] = [];
  const { columns } = batch;
  const packed: EventColumns = {
    ...columns,
    keyIndex: own(columns.keyIndex, transfer),
    timeMs: own(columns.timeMs, transfer),
    number: own(columns.number, transfer),
    starts: own(columns.starts, transfer),
    ends: own(columns.ends, transfer),
    payload: own(columns.payload, transfer),
  };
  return { value: { ...batch, columns: packed, streamIndex: own(batch.streamIndex, transfer) }, transfer };
}

export function packUnits(units: readonly UplinkUnit[]): Parcel<UplinkUnit[]> {
  const transfer: ArrayBuffer[] = [];
  const value = units.map((unit) => ({ ...unit, blocks: unit.blocks.map((block) => ({ ...block, bytes: own(block.bytes, transfer) })) }));
  return { value, transfer };
}

/** A page with the payloads of its events in one piece. */
export interface PackedPage {
  readonly events: readonly Omit<LocalEvent, "data">[];
  readonly nextOrdinal: number;
  readonly payload: Uint8Array;
  readonly ends: Uint32Array;
}

export function packPage(page: LocalPage): Parcel<PackedPage> {
  const ends = new Uint32Array(page.events.length);
  let bytes = 0;
  page.events.forEach(({ data }, i) => {
    bytes += data.length;
    ends[i] = bytes;
  });
  const payload = new Uint8Array(bytes);
  page.events.forEach(({ data }, i) => {
    payload.set(data, (ends[i] as number) - data.length);
  });
  const events = page.events.map(({ data: _, ...event }) => event);
  return { value: { events, nextOrdinal: page.nextOrdinal, payload, ends }, transfer: [payload.buffer, ends.buffer] };
}

export function unpackPage({ events, nextOrdinal, payload, ends }: PackedPage): LocalPage {
  return {
    events: events.map((event, i) => ({ ...event, data: payload.subarray(i === 0 ? 0 : ends[i - 1], ends[i]) })),
    nextOrdinal,
  };
}
