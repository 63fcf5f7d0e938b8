import { encodeCbor } from "@tributary/common/format/cbor";
import type { Logger } from "@tributary/common/logger";
import { fuzzBytes, fuzzValues, orCode } from "@tributary/common/testing/fuzz";
import { expect, it } from "vitest";
import {
  type Assignment,
  decodeAssignment,
  decodeNodeRecord,
  decodeOwnerRecord,
  encodeAssignment,
  encodeNodeRecord,
  encodeOwnerRecord,
  type NodeRecord,
  type OwnerRecord,
} from "./cluster-codec.ts";
import { ClusterState } from "./cluster-state.ts";

const beside = import.meta.url;
const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} };
const NODE: NodeRecord = {
  name: "core-1",
  url: "http://core-1:8080",
  draining: false,
  beat: 7,
  leaseMs: 1_500,
  version: "0.1.0",
  formatMax: 1,
};
const ASSIGNMENT: Assignment = { version: 3, owners: ["0123456789abcdef", "", "fedcba9876543210"] };
const OWNER: OwnerRecord = { epoch: 4, node: "0123456789abcdef", nonce: "0011223344556677", released: true };

const run = (bytes: Uint8Array) => {
  for (const [decode, encode] of [
    [(b: Uint8Array) => decodeNodeRecord("k", b), encodeNodeRecord],
    [decodeAssignment, encodeAssignment],
    [(b: Uint8Array) => decodeOwnerRecord("k", b), encodeOwnerRecord],
  ] as const) {
    const value = orCode(() => decode(bytes), "STORE_CORRUPT");
    if (value) expect(decode((encode as (v: typeof value) => Uint8Array)(value))).toEqual(value);
  }
  // Whoever watches goes on with what it knew.
  const state = new ClusterState(SILENT);
  for (const key of ["nodes/aa", "assignment", "containers", "containers/0/owner", "containers/x/owner"]) {
    state.take({ key, value: bytes, revision: 1 }, 0);
    state.take({ key, value: undefined, revision: 2 }, 0);
  }
  expect(state.nodes.size).toBe(0);
};

it("mutated records of the cluster are read, and then written as they are read, or passed over", async () => {
  await fuzzBytes({
    name: "cluster-bytes",
    beside,
    seeds: [encodeNodeRecord(NODE), encodeAssignment(ASSIGNMENT), encodeOwnerRecord(OWNER)],
    run,
  });
  await fuzzValues({ name: "cluster-values", beside, seeds: [NODE, ASSIGNMENT, OWNER], run: (value) => run(encodeCbor(value)) });
});
