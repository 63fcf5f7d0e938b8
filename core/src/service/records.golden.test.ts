import { readFileSync } from "node:fs";
import { decodeCbor } from "@tributary/common/format/cbor";
import { expect, it } from "vitest";
import { decodeIdPointer, decodeStreamRecord, encodeIdPointer, encodeStreamRecord } from "./stream-record.ts";

const golden = (name: string) => new Uint8Array(readFileSync(new URL(`golden/${name}.bin`, import.meta.url)));
const said = JSON.parse(readFileSync(new URL("golden/records-1.json", import.meta.url), "utf8"));

it("records of the MetaStore of version 1 are read as they were written, and still written alike", () => {
  for (const name of ["stream-open-1", "stream-deleted-1"]) {
    const record = decodeStreamRecord("key", golden(name));
    expect(record).toEqual(said[name]);
    expect(Buffer.compare(encodeStreamRecord(record), golden(name))).toBe(0);
  }
  for (const name of ["id-pointer-1", "id-probe-1"]) {
    const pointer = decodeIdPointer("key", golden(name));
    expect(pointer).toEqual(said[name]);
    expect(Buffer.compare(encodeIdPointer(pointer), golden(name))).toBe(0);
  }
});

it("keys that this version does not know are passed over", () => {
  const known = decodeCbor(golden("stream-open-1")) as object;
  expect(decodeStreamRecord("key", encodeStreamRecord({ ...known, fromTheFuture: 1 } as never))).toEqual(said["stream-open-1"]);
});
