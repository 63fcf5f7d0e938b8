import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import {
  decodeAssignment,
  decodeClusterRecord,
  decodeContainerTable,
  decodeNodeRecord,
  decodeOwnerRecord,
  encodeAssignment,
  encodeClusterRecord,
  encodeContainerTable,
  encodeNodeRecord,
  encodeOwnerRecord,
} from "./cluster-codec.ts";
import { decodeIdentity, encodeIdentity } from "./lake-identity.ts";

const golden = (name: string) => new Uint8Array(readFileSync(new URL(`golden/${name}.bin`, import.meta.url)));
const said = JSON.parse(readFileSync(new URL("golden/records-1.json", import.meta.url), "utf8"));

/** Decodes, and encodes what it decoded. */
function through<T>(decode: (key: string, bytes: Uint8Array) => T, encode: (value: T) => Uint8Array) {
  return (bytes: Uint8Array): [value: T, again: Uint8Array] => {
    const value = decode("key", bytes);
    return [value, encode(value)];
  };
}

it.each([
  ["node-1", through(decodeNodeRecord, encodeNodeRecord)],
  ["assignment-1", through((_, bytes) => decodeAssignment(bytes), encodeAssignment)],
  ["cluster-1", through(decodeClusterRecord, encodeClusterRecord)],
  ["containers-1", through(decodeContainerTable, encodeContainerTable)],
  ["owner-1", through(decodeOwnerRecord, encodeOwnerRecord)],
  ["lake-identity-2", through((_, bytes) => decodeIdentity(bytes), encodeIdentity)],
] as const)("%s is read as it was written, and still written alike", (name, codec) => {
  const [value, again] = codec(golden(name));
  expect(value).toEqual(said[name]);
  expect(Buffer.compare(again, golden(name))).toBe(0);
});

it("records from before there were several nodes are read", () => {
  expect(decodeOwnerRecord("key", golden("owner-0"))).toEqual(said["owner-0"]);
  expect(decodeClusterRecord("key", golden("cluster-0"))).toEqual(said["cluster-0"]);
});

it("a lake's identity from before it had a checksum is read", () => {
  expect(decodeIdentity(golden("lake-identity-1"))).toEqual(said["lake-identity-1"]);
});
