import { crc32c } from "../../checksum.ts";
import { bytesToHex } from "../../names.ts";
import { type Block, decodeBlock, encodeBlock, type GapSlice, openChunk, type SliceInput } from "../block.ts";
import { decodeCbor, encodeCbor } from "../cbor.ts";
import { CODEC, type Packed, unpack } from "../compression.ts";
import { type EventColumns, payloadOf } from "../event-columns.ts";

/** A block with everything that a block can hold; golden/block-1.bin is it, written once by the encoder of version 1. */
export const SAMPLE_WRITER = { writer: "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf", incarnation: "b0b1b2b3b4b5b6b7", lane: "backlog" } as const;
const STREAM = "c0c1c2c3c4c5c6c7c8c9cacbcccdcecf";
const OTHER = "d0d1d2d3d4d5d6d7d8d9dadbdcdddedf";
const PARENT = { incarnation: "e0e1e2e3e4e5e6e7", last: 2 ** 40 + 3 };

const SAMPLES = [
  { key: "engine-1", timeMs: 1_795_162_530_250, number: 5, data: '{"rpm":900}' },
  { key: "", timeMs: -1, number: 6, data: "" },
  { key: "Zähler/µ", timeMs: 0, number: 8, data: "\u0000\u00ff" },
  { key: "engine-1", timeMs: 1_795_162_530_249, number: 2 ** 41, data: "repeated enough to be worth the compression; ".repeat(6) },
  { key: "engine-2", timeMs: 1_795_162_530_251, number: 1, data: "other" },
];

const GAP: GapSlice = {
  kind: "gap",
  streamId: STREAM,
  segment: { generation: 1, epoch: 2, number: 3 },
  previous: 2 ** 41,
  first: 2 ** 41 + 1,
  last: 2 ** 41 + 10,
  count: 7,
  reason: "quarantined",
  timeMinMs: 1_795_162_530_000,
  timeMaxMs: 1_795_162_531_000,
};

export function sampleBlock(): Uint8Array {
  const payloads = SAMPLES.map(({ data }) => new TextEncoder().encode(data));
  const keys = [...new Set(SAMPLES.map(({ key }) => key))];
  let end = 0;
  const ends = Uint32Array.from(payloads, (payload) => {
    end += payload.length;
    return end;
  });
  const columns: EventColumns = {
    count: SAMPLES.length,
    keys,
    keyIndex: Uint32Array.from(SAMPLES, ({ key }) => keys.indexOf(key)),
    timeMs: Float64Array.from(SAMPLES, ({ timeMs }) => timeMs),
    number: Float64Array.from(SAMPLES, ({ number }) => number),
    starts: Uint32Array.from(ends, (_, i) => (i === 0 ? 0 : (ends[i - 1] as number))),
    ends,
    payload: new Uint8Array(Buffer.concat(payloads)),
  };
  const slice = (streamId: string, number: number, previous: number, ...rows: number[]): SliceInput => {
    return { kind: "events", streamId, segment: { generation: 0, epoch: 0, number }, previous, rows: Uint32Array.from(rows) };
  };
  const inputs = [slice(STREAM, 0, 4, 0, 1, 3), slice(STREAM, 1, 0, 2), { ...slice(OTHER, 1023, 0, 4), parent: PARENT }, GAP];
  return encodeBlock(SAMPLE_WRITER, columns, inputs);
}

/** A block in plain words: what its golden file says in JSON. */
export function describeBlock(bytes: Uint8Array): unknown {
  const block = decodeBlock(bytes);
  const { writer, incarnation, lane, slices } = block;
  return {
    writer,
    incarnation,
    lane,
    slices: slices.map((slice) => (slice.kind === "gap" ? slice : { ...slice, events: eventsOf(block, slice) })),
  };
}

function eventsOf(block: Block, slice: { readonly chunk: number; readonly start: number; readonly count: number }): unknown[] {
  const columns = openChunk(block, slice.chunk);
  return Array.from({ length: slice.count }, (_, i) => {
    const row = slice.start + i;
    return {
      key: columns.keys[columns.keyIndex[row] as number],
      timeMs: columns.timeMs[row],
      number: columns.number[row],
      dataHex: bytesToHex(payloadOf(columns, row)),
    };
  });
}

const PREFIX_BYTES = 16;

/** A block taken apart, nothing of it compressed: what fuzzers change and put together again. */
export interface BlockParts {
  readonly index: unknown;
  readonly chunks: readonly Uint8Array[];
}

export function takeApart(bytes: Uint8Array): BlockParts {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const stored = bytes.subarray(PREFIX_BYTES, PREFIX_BYTES + view.getUint32(8, true));
  const index = decodeCbor(unpack(bytes[6] ?? CODEC.raw, stored, view.getUint32(12, true))) as object;
  const infos = decodeBlock(bytes).chunks;
  const chunks = infos.map((info) => unpack(info.codec, bytes.subarray(info.offset, info.offset + info.storedBytes), info.rawBytes));
  const c = infos.flatMap(({ rawBytes, events }) => [CODEC.raw, rawBytes, rawBytes, events]);
  return { index: { ...index, c }, chunks };
}

/** A block with a checksum that is right, whatever else is. `pack` says how the index is stored. */
export function putTogether({ index, chunks }: BlockParts, pack: (raw: Uint8Array) => Packed): Uint8Array {
  const raw = encodeCbor(index);
  const packed = pack(raw);
  const head = new Uint8Array(PREFIX_BYTES);
  head[6] = packed.codec;
  const view = new DataView(head.buffer);
  view.setUint32(8, packed.bytes.length, true);
  view.setUint32(12, raw.length, true);
  return mendBlock(new Uint8Array(Buffer.concat([head, packed.bytes, ...chunks, new Uint8Array(4)])));
}

/** Puts magic number, version, kind and checksum right, in place. */
export function mendBlock(bytes: Uint8Array): Uint8Array {
  if (bytes.length < PREFIX_BYTES + 4) return bytes;
  bytes.set([0x54, 0x52, 0x42, 0x4b, 1, 1]);
  new DataView(bytes.buffer).setUint32(bytes.length - 4, crc32c(bytes.subarray(0, -4)), true);
  return bytes;
}
