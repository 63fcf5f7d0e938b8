import { assert } from "@tributary/common/assert";
import type { TributaryError } from "@tributary/common/errors";
import type { Id, Lane } from "@tributary/common/names";
import type { EventPack } from "@tributary/common/stream-service";
import type { CommitBatch, StateChange } from "../store/edge-store.ts";
import type { AckTarget } from "./ingest.ts";
import type { StreamState } from "./stream-table.ts";

const EVENTS_CAPACITY_MIN = 256;
const PAYLOAD_CAPACITY_MIN = 16_384;
/** Up to this length a loop in JavaScript is faster than a call into the engine's copy. */
const LOOP_COPY_BYTES_MAX = 48;

export interface BatchCapacity {
  readonly events: number;
  readonly payloadBytes: number;
}

/**
 * One group commit while it fills: columns that grow, the changes of state, and who waits for it. The buffers go to the log's
 * thread with `seal`, so each batch draws new ones, as large as the batch before needed.
 */
export class OpenBatch {
  /** Ascends by one; orders batches for "is it durable yet". */
  readonly serial: number;
  count = 0;
  payloadBytes = 0;
  /** Monotonic ms of the first thing put in; NaN while empty. */
  openedAtMs: number = Number.NaN;
  readonly changes: StateChange[] = [];
  /** A new incarnation begins with it. */
  renews = false;
  /** Streams by their index in the batch, and how many events each has. */
  readonly streams: StreamState[] = [];
  readonly streamCounts: number[] = [];

  readonly #keys: string[] = [];
  readonly #keyIndexes = new Map<string, number>();
  #eventCapacity: number;
  #keyIndex: Uint32Array;
  #timeMs: Float64Array;
  #number: Float64Array;
  #starts: Uint32Array;
  #ends: Uint32Array;
  #streamIndex: Uint32Array;
  #payload: Uint8Array;
  readonly #ackTargets: AckTarget[] = [];
  readonly #ackTokens: number[] = [];

  constructor(serial: number, capacity: BatchCapacity) {
    this.serial = serial;
    this.#eventCapacity = Math.max(EVENTS_CAPACITY_MIN, capacity.events);
    this.#keyIndex = new Uint32Array(this.#eventCapacity);
    this.#timeMs = new Float64Array(this.#eventCapacity);
    this.#number = new Float64Array(this.#eventCapacity);
    this.#starts = new Uint32Array(this.#eventCapacity);
    this.#ends = new Uint32Array(this.#eventCapacity);
    this.#streamIndex = new Uint32Array(this.#eventCapacity);
    this.#payload = new Uint8Array(Math.max(PAYLOAD_CAPACITY_MIN, capacity.payloadBytes));
  }

  get empty(): boolean {
    return this.count === 0 && this.changes.length === 0;
  }

  /** Index of a key in the batch, or −1: it has to be checked and added first. */
  findKey(key: string): number {
    return this.#keyIndexes.get(key) ?? -1;
  }

  addKey(key: string): number {
    const index = this.#keys.length;
    this.#keys.push(key);
    this.#keyIndexes.set(key, index);
    return index;
  }

  addEvent(stream: StreamState, keyIndex: number, timeMs: number, source: Uint8Array, start: number, end: number): void {
    const row = this.count;
    const from = this.payloadBytes;
    const to = from + (end - start);
    if (row === this.#eventCapacity) this.#growEvents(row + 1);
    if (to > this.#payload.length) this.#growPayload(to);
    const payload = this.#payload;
    if (end - start <= LOOP_COPY_BYTES_MAX) {
      for (let at = from, i = start; i < end; at++, i++) payload[at] = source[i] as number;
    } else payload.set(source.subarray(start, end), from);
    this.#putRow(row, stream, keyIndex, timeMs, from, to);
    this.payloadBytes = to;
    this.count = row + 1;
  }

  /** All events of a pack; `keyIndexes` has one entry for each of its keys, or one for all. */
  addPack(stream: StreamState, pack: EventPack, keyIndexes: ArrayLike<number>, arrivalMs: number): void {
    const base = this.payloadBytes;
    const total = base + pack.payload.length;
    if (this.count + pack.count > this.#eventCapacity) this.#growEvents(this.count + pack.count);
    if (total > this.#payload.length) this.#growPayload(total);
    this.#payload.set(pack.payload, base);
    const oneKey = keyIndexes.length === 1 ? (keyIndexes[0] as number) : -1;
    const times = pack.timesMs;
    const oneTime = times === undefined ? arrivalMs : typeof times === "number" ? times : Number.NaN;
    let from = base;
    for (let i = 0; i < pack.count; i++) {
      const to = base + (pack.ends[i] as number);
      const timeMs = typeof times === "object" ? (times[i] as number) : oneTime;
      this.#putRow(this.count + i, stream, oneKey >= 0 ? oneKey : (keyIndexes[i] as number), timeMs, from, to);
      from = to;
    }
    this.payloadBytes = total;
    this.count += pack.count;
  }

  addAck(target: AckTarget, token: number): void {
    this.#ackTargets.push(target);
    this.#ackTokens.push(token);
  }

  /** What the log takes. The batch keeps only what it needs for the answers. */
  seal(lane: Lane): CommitBatch {
    const count = this.count;
    return {
      lane,
      columns: {
        count,
        keys: this.#keys,
        keyIndex: this.#keyIndex.subarray(0, count),
        timeMs: this.#timeMs.subarray(0, count),
        number: this.#number.subarray(0, count),
        starts: this.#starts.subarray(0, count),
        ends: this.#ends.subarray(0, count),
        payload: this.#payload.subarray(0, this.payloadBytes),
      },
      streamIndex: this.#streamIndex.subarray(0, count),
      streamIds: this.streams.map((stream): Id => stream.id),
      changes: this.changes,
      renews: this.renews,
    };
  }

  /** Answers everyone who waits, in order, then lets each of them flush once. `touched` is scratch space, left empty. */
  answer(error: TributaryError | undefined, touched: Set<AckTarget>): void {
    const targets = this.#ackTargets;
    const tokens = this.#ackTokens;
    let previous: AckTarget | undefined;
    for (let i = 0; i < targets.length; i++) {
      const target = targets[i] as AckTarget;
      if (error === undefined) target.committed(tokens[i] as number);
      else target.failed(tokens[i] as number, error);
      // Events of one connection come in runs: most need no look at the set.
      if (target !== previous) {
        touched.add(target);
        previous = target;
      }
    }
    for (const target of touched) target.flush();
    touched.clear();
  }

  #putRow(row: number, stream: StreamState, keyIndex: number, timeMs: number, from: number, to: number): void {
    let index = stream.batchIndex;
    if (stream.batchSerial !== this.serial) {
      index = this.streams.length;
      stream.batchSerial = this.serial;
      stream.batchIndex = index;
      this.streams.push(stream);
      this.streamCounts.push(0);
    }
    this.streamCounts[index] = (this.streamCounts[index] as number) + 1;
    this.#streamIndex[row] = index;
    this.#keyIndex[row] = keyIndex;
    this.#timeMs[row] = timeMs;
    this.#number[row] = stream.nextNumber++;
    this.#starts[row] = from;
    this.#ends[row] = to;
    stream.acceptedOrdinal++;
  }

  #growEvents(needed: number): void {
    const capacity = Math.max(needed, this.#eventCapacity * 2);
    this.#keyIndex = grow32(this.#keyIndex, capacity);
    this.#starts = grow32(this.#starts, capacity);
    this.#ends = grow32(this.#ends, capacity);
    this.#streamIndex = grow32(this.#streamIndex, capacity);
    this.#timeMs = grow64(this.#timeMs, capacity);
    this.#number = grow64(this.#number, capacity);
    this.#eventCapacity = capacity;
  }

  #growPayload(needed: number): void {
    assert(needed < 2 ** 32, "offsets into the payload fit in 32 bits");
    const grown = new Uint8Array(Math.max(needed, this.#payload.length * 2));
    grown.set(this.#payload.subarray(0, this.payloadBytes));
    this.#payload = grown;
  }
}

function grow32(column: Uint32Array, capacity: number): Uint32Array {
  const grown = new Uint32Array(capacity);
  grown.set(column);
  return grown;
}

function grow64(column: Float64Array, capacity: number): Float64Array {
  const grown = new Float64Array(capacity);
  grown.set(column);
  return grown;
}
