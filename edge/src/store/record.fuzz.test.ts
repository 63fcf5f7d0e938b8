import { readFileSync } from "node:fs";
import { crc32c } from "@tributary/common/checksum";
import { encodeCbor } from "@tributary/common/format/cbor";
import { fuzzBytes, fuzzValues, orCode } from "@tributary/common/testing/fuzz";
import { expect, it } from "vitest";
import { decodeCheckpoint, ordinalAt } from "./checkpoint-record.ts";
import { decodeEntry } from "./log-cursor.ts";
import { decodeRecord, encodeRecord, type RawRecord } from "./record.ts";

const beside = import.meta.url;
const PREFIX_BYTES = 32;

const golden = (name: string, seq: number) => {
  const bytes = new Uint8Array(readFileSync(new URL(`golden/${name}.bin`, beside)));
  return { name, seq, bytes, raw: decodeRecord(bytes, seq) };
};
const RECORDS = [golden("commit-1", 2 ** 40), golden("incarnation-1", 5), golden("checkpoint-1", 6), golden("checkpoint-1-eras", 6)];

/** Every record at the place `seq`, with magic numbers and checksum put right. */
function mendAt(bytes: Uint8Array, seq: number): Uint8Array {
  if (bytes.length < PREFIX_BYTES + 4) return bytes;
  bytes.set([0x54, 0x52, 0x45, 0x4c, 1]);
  const view = new DataView(bytes.buffer);
  view.setUint32(8, seq % 2 ** 32, true);
  view.setUint32(12, Math.floor(seq / 2 ** 32), true);
  view.setUint32(bytes.length - 4, crc32c(bytes.subarray(0, -4)), true);
  return bytes;
}

function checkRecord(bytes: Uint8Array, seq: number): void {
  const entry = orCode(() => decodeEntry({ seq, data: bytes }), "FORMAT_UNSUPPORTED");
  if (entry?.kind !== "checkpoint") return;
  const checkpoint = orCode(() => decodeCheckpoint(entry.raw), "STORE_CORRUPT");
  for (const { id } of checkpoint?.state.streams ?? []) expect(ordinalAt(entry.raw.body, id)).toBeTypeOf("number");
}

function withMeta(raw: RawRecord, meta: unknown): Uint8Array {
  return encodeRecord(raw.kind, raw.seq, raw.checkpoint, meta, [raw.body]).bytes;
}

it.each(RECORDS)("a mutated $name record is read or damage", async ({ name, seq, bytes }) => {
  const run = (mutant: Uint8Array) => checkRecord(mutant, seq);
  await fuzzBytes({ name, beside, seeds: [bytes], mend: (mutant) => mendAt(mutant, seq), run });
});

it.each(RECORDS)("a $name record with a mutated meta is read or damage", async ({ name, seq, raw }) => {
  await fuzzValues({ name: `${name}-meta`, beside, seeds: [raw.meta()], run: (meta) => checkRecord(withMeta(raw, meta), seq) });
});

it("a meta that claims to become larger than it may is refused before it is unpacked", () => {
  const { raw, seq } = RECORDS[1] as (typeof RECORDS)[number];
  const bytes = withMeta(raw, { w: new Uint8Array(1 << 20), i: encodeCbor(0) });
  for (const claimed of [0, 100, 0x20000001, 0xffffffff]) {
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(28, claimed, true);
    expect(decodeEntry({ seq, data: mendAt(bytes, seq) })).toBeUndefined();
  }
});

it("a record that names a later checkpoint as the one before it is damage: recovery would go round in circles", () => {
  const { raw, seq } = RECORDS[1] as (typeof RECORDS)[number];
  for (const [checkpoint, damaged] of [
    [seq - 1, false],
    [seq, true],
    [seq + 1, true],
    [2 ** 50, true],
  ] as const) {
    const { bytes } = encodeRecord(raw.kind, seq, checkpoint, raw.meta(), []);
    expect(decodeEntry({ seq, data: bytes }) === undefined).toBe(damaged);
  }
});
