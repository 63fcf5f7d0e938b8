import { assert } from "@tributary/common/assert";
import { type Block, type BlockWriter, decodeBlock, encodeBlock, type SliceInput } from "@tributary/common/format/block";
import type { EventColumns } from "@tributary/common/format/event-columns";
import { evenRangeIndex, keyHash } from "@tributary/common/key-hash";
import { LIMITS } from "@tributary/common/limits";
import { formatSegmentId, type Id, type SegmentId } from "@tributary/common/names";
import type { EventPack } from "@tributary/common/stream-service";
import type { DecidedState } from "./decided.ts";
import type { AppendBlock, SliceDecision } from "./operations.ts";

/** Raw bytes at which a block of own appends is closed: readers fetch whole blocks. */
const BLOCK_RAW_BYTES_TARGET = 1_048_576;

/** The container as a writer: one incarnation an attempt, so its numbers need no recovery. */
export class OwnWriter {
  readonly identity: BlockWriter;
  readonly #numbers = new Map<string, number>();

  constructor(writer: Id, incarnation: Id) {
    this.identity = { writer, incarnation, lane: "live" };
  }

  /** Takes the next number of the stream. */
  next(streamId: Id): number {
    const number = (this.#numbers.get(streamId) ?? 0) + 1;
    this.#numbers.set(streamId, number);
    return number;
  }

  /** Takes note that a slice ended, and gives the number at which the one before it in this segment did. */
  chain(streamId: Id, segment: SegmentId, last: number): number {
    const key = streamId + formatSegmentId(segment);
    const previous = this.#numbers.get(key) ?? 0;
    this.#numbers.set(key, last);
    return previous;
  }
}

interface OpenSlice {
  readonly streamId: Id;
  readonly segment: SegmentId;
  readonly rows: number[];
  /** Chain ordinal of its first event, once the block is closed. */
  chain: number;
}

/** Where events of one request lie: the request ends behind the last of them. */
export type Mark = { readonly slice: OpenSlice; readonly behind: number };

export function chainBehind(marks: readonly Mark[]): number {
  return Math.max(...marks.map((mark) => mark.slice.chain + mark.behind));
}

/** Packs the events of many requests of one frame into few blocks. */
export class OwnBatch {
  readonly #writer: OwnWriter;
  readonly #decided: DecidedState;
  readonly #frame: number;
  #slices = new Map<string, OpenSlice>();
  #keys = new Map<string, number>();
  #hashes: number[] = [];
  #keyIndex: number[] = [];
  #timeMs: number[] = [];
  #number: number[] = [];
  #ends: number[] = [];
  #parts: Uint8Array[] = [];
  #payloadBytes = 0;
  #keyBytes = 0;
  #operations: AppendBlock[] = [];

  constructor(writer: OwnWriter, decided: DecidedState, frame: number) {
    this.#writer = writer;
    this.#decided = decided;
    this.#frame = frame;
  }

  /** Adds all events of a request. The marks hold once `take` was called. */
  add(streamId: Id, segments: readonly SegmentId[], pack: EventPack, nowMs: number): Mark[] {
    const behind = new Map<OpenSlice, number>();
    let copiedTo = 0;
    let before = 0;
    for (let i = 0; i < pack.count; i++) {
      const end = pack.ends[i] as number;
      const key = typeof pack.keys === "string" ? pack.keys : (pack.keys?.[i] ?? "");
      const keyIndex = this.#keyOf(key);
      const index = segments.length === 1 ? 0 : evenRangeIndex(this.#hashes[keyIndex] as number, segments.length);
      const slice = this.#sliceOf(streamId, segments[index] as SegmentId, index);
      slice.rows.push(this.#number.length);
      behind.set(slice, slice.rows.length);
      this.#keyIndex.push(keyIndex);
      this.#timeMs.push(typeof pack.timesMs === "number" ? pack.timesMs : (pack.timesMs?.[i] ?? nowMs));
      this.#number.push(this.#writer.next(streamId));
      this.#payloadBytes += end - before;
      this.#ends.push(this.#payloadBytes);
      before = end;
      if (this.#payloadBytes + this.#keyBytes >= BLOCK_RAW_BYTES_TARGET || this.#slices.size >= LIMITS.blockSlicesMax) {
        this.#parts.push(pack.payload.subarray(copiedTo, end));
        copiedTo = end;
        this.#closeBlock();
      }
    }
    if (before > copiedTo) this.#parts.push(pack.payload.subarray(copiedTo, before));
    return [...behind].map(([slice, count]) => ({ slice, behind: count }));
  }

  /** The operations that append everything added since the last call. */
  take(): AppendBlock[] {
    this.#closeBlock();
    const operations = this.#operations;
    this.#operations = [];
    return operations;
  }

  #keyOf(key: string): number {
    let index = this.#keys.get(key);
    if (index === undefined) {
      index = this.#keys.size;
      this.#keys.set(key, index);
      this.#hashes.push(keyHash(key));
      this.#keyBytes += Buffer.byteLength(key);
    }
    return index;
  }

  #sliceOf(streamId: Id, segment: SegmentId, index: number): OpenSlice {
    const key = `${streamId}${index}`;
    let slice = this.#slices.get(key);
    if (!slice) {
      slice = { streamId, segment, rows: [], chain: -1 };
      this.#slices.set(key, slice);
    }
    return slice;
  }

  #closeBlock(): void {
    const open = [...this.#slices.values()];
    if (open.length === 0) return;
    const ends = Uint32Array.from(this.#ends);
    const starts = new Uint32Array(ends.length);
    starts.set(ends.subarray(0, ends.length - 1), 1);
    const columns: EventColumns = {
      count: ends.length,
      keys: [...this.#keys.keys()],
      keyIndex: Uint32Array.from(this.#keyIndex),
      timeMs: Float64Array.from(this.#timeMs),
      number: Float64Array.from(this.#number),
      starts,
      ends,
      payload: this.#parts.length === 1 ? (this.#parts[0] as Uint8Array) : Buffer.concat(this.#parts),
    };
    const inputs = open.map(({ streamId, segment, rows }): SliceInput => {
      const previous = this.#writer.chain(streamId, segment, this.#number[rows.at(-1) as number] as number);
      return { kind: "events", streamId, segment, previous, rows: Uint32Array.from(rows) };
    });
    const block = decodeBlock(encodeBlock(this.#writer.identity, columns, inputs));
    this.#operations.push({ type: "append-block", block, own: true, decisions: this.#decide(block, open) });
    this.#slices = new Map();
    this.#keys = new Map();
    this.#hashes = [];
    this.#keyIndex = [];
    this.#timeMs = [];
    this.#number = [];
    this.#ends = [];
    this.#parts = [];
    this.#payloadBytes = 0;
    this.#keyBytes = 0;
  }

  #decide(block: Block, open: readonly OpenSlice[]): SliceDecision[] {
    return block.slices.map((slice, i) => {
      const head = this.#decided.head(slice.streamId);
      const segment = this.#decided.segment(slice.streamId, slice.segment);
      assert(head !== undefined && segment !== undefined, "own appends are decided before their stream can go");
      const decision = { slice: i, skip: 0, ordinal: segment.length, chain: head.chain };
      this.#decided.applySlice(slice, decision, slice.count, undefined, this.#frame);
      (open[i] as OpenSlice).chain = decision.chain;
      return decision;
    });
  }
}
