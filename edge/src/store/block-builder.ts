import { assert } from "@tributary/common/assert";
import { type BlockWriter, encodeBlock, type GapSlice, type SliceInput, type SliceTarget } from "@tributary/common/format/block";
import type { EventColumns } from "@tributary/common/format/event-columns";
import { BLOCK_RAW_BYTES_MAX, BLOCK_SLICES_MAX, rawCost } from "./batch-slices.ts";

export interface OpenSlice {
  readonly target: SliceTarget;
  readonly parts: { readonly columns: EventColumns; readonly rows: Uint32Array }[];
  rowCount: number;
}

/** Builds one block out of events of several decoded chunks, and gap records, in the order in which they were given. */
export class BlockBuilder {
  readonly #writer: BlockWriter;
  readonly #items: (OpenSlice | GapSlice)[] = [];
  #rawBytes = 0;

  constructor(writer: BlockWriter) {
    this.#writer = writer;
  }

  /** How many of the rows, from `from` on, still fit. */
  room(columns: EventColumns, rows: Uint32Array, from: number): number {
    if (this.#items.length >= BLOCK_SLICES_MAX) return 0;
    let bytes = this.#rawBytes;
    let at = from;
    for (; at < rows.length; at++) {
      bytes += rawCost(columns, rows[at] as number);
      if (bytes > BLOCK_RAW_BYTES_MAX) break;
    }
    return at - from;
  }

  hasRoomForGap(): boolean {
    return this.#items.length < BLOCK_SLICES_MAX;
  }

  /** Begins a slice; rows of later calls of `extend` with what this returns are its continuation. */
  begin(target: SliceTarget): OpenSlice {
    const slice: OpenSlice = { target, parts: [], rowCount: 0 };
    this.#items.push(slice);
    return slice;
  }

  extend(slice: OpenSlice, columns: EventColumns, rows: Uint32Array): void {
    slice.parts.push({ columns, rows });
    slice.rowCount += rows.length;
    for (const row of rows) this.#rawBytes += rawCost(columns, row);
  }

  addGap(gap: GapSlice): void {
    this.#items.push(gap);
  }

  finish(): Uint8Array {
    assert(this.#items.length > 0, "a block is not empty");
    const merge = new ColumnMerge(this.#items);
    const inputs = this.#items.map((item): SliceInput | GapSlice => {
      if ("kind" in item) return item;
      return { kind: "events", ...item.target, rows: merge.add(item) };
    });
    return encodeBlock(this.#writer, merge.columns, inputs);
  }
}

/** Copies rows of many columns into one. */
class ColumnMerge {
  readonly #keys: string[] = [];
  readonly #keyIds = new Map<string, number>();
  /** For each source, where its keys are in the merged ones; filled as they are met. */
  readonly #keyMaps = new Map<EventColumns, Int32Array>();
  readonly columns: EventColumns;
  #row = 0;
  #payloadAt = 0;

  constructor(items: readonly (OpenSlice | GapSlice)[]) {
    let count = 0;
    let payloadBytes = 0;
    for (const item of items) {
      if ("kind" in item) continue;
      count += item.rowCount;
      for (const { columns, rows } of item.parts) {
        for (const row of rows) payloadBytes += (columns.ends[row] as number) - (columns.starts[row] as number);
      }
    }
    this.columns = {
      count,
      keys: this.#keys,
      keyIndex: new Uint32Array(count),
      timeMs: new Float64Array(count),
      number: new Float64Array(count),
      starts: new Uint32Array(count),
      ends: new Uint32Array(count),
      payload: new Uint8Array(payloadBytes),
    };
  }

  add(slice: OpenSlice): Uint32Array {
    const merged = new Uint32Array(slice.rowCount);
    let i = 0;
    for (const { columns, rows } of slice.parts) {
      const keyMap = this.#keyMap(columns);
      for (const row of rows) {
        this.#copy(columns, row, keyMap);
        merged[i++] = this.#row++;
      }
    }
    return merged;
  }

  #keyMap(columns: EventColumns): Int32Array {
    let keyMap = this.#keyMaps.get(columns);
    if (!keyMap) {
      keyMap = new Int32Array(columns.keys.length).fill(-1);
      this.#keyMaps.set(columns, keyMap);
    }
    return keyMap;
  }

  #copy(source: EventColumns, row: number, keyMap: Int32Array): void {
    const to = this.columns;
    const sourceKey = source.keyIndex[row] as number;
    let key = keyMap[sourceKey] as number;
    if (key < 0) {
      key = this.#keyId(source.keys[sourceKey] as string);
      keyMap[sourceKey] = key;
    }
    const start = source.starts[row] as number;
    const end = source.ends[row] as number;
    to.keyIndex[this.#row] = key;
    to.timeMs[this.#row] = source.timeMs[row] as number;
    to.number[this.#row] = source.number[row] as number;
    to.starts[this.#row] = this.#payloadAt;
    to.payload.set(source.payload.subarray(start, end), this.#payloadAt);
    this.#payloadAt += end - start;
    to.ends[this.#row] = this.#payloadAt;
  }

  #keyId(key: string): number {
    let id = this.#keyIds.get(key);
    if (id === undefined) {
      id = this.#keys.length;
      this.#keys.push(key);
      this.#keyIds.set(key, id);
    }
    return id;
  }
}
