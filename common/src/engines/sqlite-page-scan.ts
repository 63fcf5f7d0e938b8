import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import type { LogRecord } from "../ports/log.ts";

/**
 * Reads records straight from the pages of a log's file, without its tree: the last resort when a page near the root is damaged,
 * through which SQLite can reach nothing below. Follows https://www.sqlite.org/fileformat2.html, sections 1.5 to 2.1.
 *
 * A database with auto-vacuum has pointer-map pages, which say for each page what it is and which page points to it. They tell live
 * pages from freed ones that still hold old content. Where a pointer map is damaged itself, its pages are read all the same, but last.
 *
 * page:  type u8 (13: leaf of a rowid table, only `log` has them; 10: leaf of `meta`), ..., cells u16 at 3, cell offsets u16 from 8
 * cell:  payload length varint, [rowid varint, only in `log`], payload; if it is longer than fits: its head, then first overflow page u32
 * overflow page: next page u32 (0: last), bytes
 * payload: header length varint, column types varint each, columns
 */

const PAGE_BYTES = 4096;
/** Pages covered by one pointer-map page, itself included. */
const MAP_SPAN = Math.floor(PAGE_BYTES / 5) + 1;
/** The page that holds SQLite's lock bytes and nothing else. */
const LOCK_PAGE = 0x40000000 / PAGE_BYTES + 1;
const LEAF_OF_LOG = 13;
const LEAF_OF_META = 10;
const MAP_ROOT = 1;
const MAP_OVERFLOW_FIRST = 3;
const MAP_OVERFLOW_NEXT = 4;
const MAP_TREE = 5;
const LOCAL_MAX = PAGE_BYTES - 35;
const LOCAL_MIN = Math.floor(((PAGE_BYTES - 12) * 32) / 255) - 23;
const PAYLOAD_BYTES_MAX = 1_000_000_000;

/** The pages of a database that nobody has open, whose WAL was merged: SQLite does that when it closes, whatever it could read. */
export class PageScan {
  readonly #fd: number;
  readonly #pageCount: number;
  /** Pointer maps by their page; undefined for those that are damaged. */
  readonly #maps = new Map<number, Uint8Array | undefined>();

  constructor(path: string) {
    this.#fd = openSync(path, "r");
    this.#pageCount = Math.ceil(fstatSync(this.#fd).size / PAGE_BYTES);
  }

  close(): void {
    closeSync(this.#fd);
  }

  /** Every record that is whole, in no order. Where a sequence comes twice, the first one is the one to trust. */
  *records(): Generator<LogRecord> {
    const doubtful: number[] = [];
    for (let page = 2; page <= this.#pageCount; page++) {
      const entry = this.#mapEntry(page);
      if (entry === undefined) doubtful.push(page);
      else if (entry.type === MAP_TREE || entry.type === MAP_ROOT) yield* this.#recordsOf(page);
    }
    for (const page of doubtful) yield* this.#recordsOf(page);
  }

  /** The rows of `meta`; 0 where there is none. */
  meta(): { readonly last: number; readonly truncated: number } {
    const found = { last: 0, truncated: 0 };
    for (let page = 2; page <= this.#pageCount; page++) {
      const entry = this.#mapEntry(page);
      if (entry !== undefined && entry.type !== MAP_ROOT) continue;
      for (const { bytes, at } of cellsOf(this.#page(page), LEAF_OF_META)) {
        const length = varint(bytes, at);
        const row = metaRow(bytes.subarray(length.next, length.next + length.value));
        if (row) found[row.name] = Math.max(found[row.name], row.value);
      }
    }
    return found;
  }

  *#recordsOf(page: number): Generator<LogRecord> {
    for (const { bytes, at } of cellsOf(this.#page(page), LEAF_OF_LOG)) {
      const length = varint(bytes, at);
      const seq = varint(bytes, length.next);
      if (!Number.isSafeInteger(seq.value) || seq.value < 1 || length.value > PAYLOAD_BYTES_MAX) continue;
      const payload = this.#payload(page, bytes, seq.next, length.value);
      const data = payload && logColumn(payload);
      if (data) yield { seq: seq.value, data };
    }
  }

  /** undefined if its chain of pages is broken. */
  #payload(page: number, bytes: Uint8Array, at: number, length: number): Uint8Array | undefined {
    if (length <= LOCAL_MAX) return at + length <= PAGE_BYTES ? bytes.slice(at, at + length) : undefined;
    const spill = LOCAL_MIN + ((length - LOCAL_MIN) % (PAGE_BYTES - 4));
    const local = spill <= LOCAL_MAX ? spill : LOCAL_MIN;
    if (at + local + 4 > PAGE_BYTES || length > this.#pageCount * PAGE_BYTES) return undefined;
    const payload = new Uint8Array(length);
    payload.set(bytes.subarray(at, at + local));
    let next = uint32(bytes, at + local);
    let from = page;
    for (let done = local; done < length; ) {
      const entry = next >= 2 && next <= this.#pageCount ? this.#mapEntry(next) : { type: 0, parent: 0 };
      const type = from === page ? MAP_OVERFLOW_FIRST : MAP_OVERFLOW_NEXT;
      if (entry && (entry.type !== type || entry.parent !== from)) return undefined;
      const overflow = this.#page(next);
      payload.set(overflow.subarray(4, 4 + Math.min(PAGE_BYTES - 4, length - done)), done);
      done += PAGE_BYTES - 4;
      from = next;
      next = uint32(overflow, 0);
    }
    return payload;
  }

  /** What the page is and which page points to it; undefined if its pointer map is damaged. */
  #mapEntry(page: number): { readonly type: number; readonly parent: number } | undefined {
    let mapPage = Math.floor((page - 2) / MAP_SPAN) * MAP_SPAN + 2;
    if (mapPage === LOCK_PAGE) mapPage++;
    if (page === mapPage || page === LOCK_PAGE) return { type: 0, parent: 0 };
    if (!this.#maps.has(mapPage)) {
      const map = this.#page(mapPage);
      const entries = Math.min(MAP_SPAN - 1, this.#pageCount - mapPage);
      const isSound = Array.from({ length: entries }, (_, i) => map[5 * i] ?? 0).every((type) => type >= MAP_ROOT && type <= MAP_TREE);
      this.#maps.set(mapPage, isSound ? map : undefined);
    }
    const map = this.#maps.get(mapPage);
    const at = 5 * (page - mapPage - 1);
    return map && { type: map[at] ?? 0, parent: uint32(map, at + 1) };
  }

  #page(page: number): Uint8Array {
    const bytes = new Uint8Array(PAGE_BYTES);
    try {
      readSync(this.#fd, bytes, 0, PAGE_BYTES, (page - 1) * PAGE_BYTES);
    } catch {
      // A bad sector: the page is damaged like any other, and zeros are no page of anything.
      bytes.fill(0);
    }
    return bytes;
  }
}

function* cellsOf(bytes: Uint8Array, pageType: number): Generator<{ bytes: Uint8Array; at: number }> {
  if (bytes[0] !== pageType) return;
  const cells = uint16(bytes, 3);
  for (let i = 0; i < cells && 8 + 2 * i + 2 <= PAGE_BYTES; i++) {
    const at = uint16(bytes, 8 + 2 * i);
    if (at >= 8 + 2 * cells && at < PAGE_BYTES - 4) yield { bytes, at };
  }
}

/** The blob of a payload of `log`: columns are NULL (the sequence stands in the cell) and a blob that reaches the end. */
function logColumn(payload: Uint8Array): Uint8Array | undefined {
  const header = varint(payload, 0);
  const seqType = varint(payload, header.next);
  const dataType = varint(payload, seqType.next);
  const bytes = (dataType.value - 12) / 2;
  if (seqType.value !== 0 || dataType.next !== header.value || !Number.isInteger(bytes)) return undefined;
  return header.value + bytes === payload.length ? payload.subarray(header.value) : undefined;
}

/** A payload of `meta`: columns are text and an integer. */
function metaRow(payload: Uint8Array): { readonly name: "last" | "truncated"; readonly value: number } | undefined {
  const header = varint(payload, 0);
  const textType = varint(payload, header.next);
  const numberType = varint(payload, textType.next);
  const textEnd = header.value + (textType.value - 13) / 2;
  const name = Buffer.from(payload.subarray(header.value, textEnd)).toString("latin1");
  if (name !== "last" && name !== "truncated") return undefined;
  if (numberType.value === 8 || numberType.value === 9) return { name, value: numberType.value - 8 };
  const size = [0, 1, 2, 3, 4, 6, 8][numberType.value] ?? 0;
  const value = payload.subarray(textEnd, textEnd + size).reduce((sum, byte) => sum * 256 + byte, 0);
  return Number.isSafeInteger(value) ? { name, value } : undefined;
}

function uint16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
}

function uint32(bytes: Uint8Array, at: number): number {
  return uint16(bytes, at) * 65_536 + uint16(bytes, at + 2);
}

/** SQLite's varint: big-endian groups of seven bits, the ninth byte whole. Behind the end it reads zeros. */
function varint(bytes: Uint8Array, at: number): { readonly value: number; readonly next: number } {
  let value = 0;
  for (let i = 0; i < 8; i++) {
    const byte = bytes[at + i] ?? 0;
    value = value * 128 + (byte & 0x7f);
    if (byte < 0x80) return { value, next: at + i + 1 };
  }
  return { value: value * 256 + (bytes[at + 8] ?? 0), next: at + 9 };
}
