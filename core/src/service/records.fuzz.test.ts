import { hasCode } from "@tributary/common/errors";
import { encodeCbor } from "@tributary/common/format/cbor";
import { isValidName } from "@tributary/common/names";
import { fuzzBytes, fuzzValues, orCode } from "@tributary/common/testing/fuzz";
import { expect, it } from "vitest";
import { ensureClusterRecord, ensureContainerCount, winEpoch } from "./cluster-record.ts";
import { formatOffset, formatPosition, parseOffset } from "./offset.ts";
import { decodeIdPointer, decodeStreamRecord, encodeIdPointer, encodeStreamRecord, nameOfKey, type StreamRecord } from "./stream-record.ts";
import { fastClock, seededRandom } from "./testing/fast-clock.ts";
import { MemoryMetaStore } from "./testing/memory-meta-store.ts";
import { WriterRegistry } from "./writer-registry.ts";

const beside = import.meta.url;
const ID = "0123456789abcdef0123456789abcdef";

const RECORD: StreamRecord = {
  id: ID,
  contentType: "application/json",
  segments: 2,
  containers: [1, 0],
  createdAtMs: 1_795_162_530_250,
  closed: false,
  state: "open",
  past: ["ff".repeat(16)],
  deletedAtMs: 0,
};

const RANGES = [
  { nonce: "0123456789abcdef", from: 0 },
  { nonce: "fedcba9876543210", from: 2 ** 40 },
];

it("mutated records of streams are read, and then written as they are read, or STORE_CORRUPT", async () => {
  const run = (bytes: Uint8Array) => {
    const record = orCode(() => decodeStreamRecord("streams/a/b", bytes), "STORE_CORRUPT");
    if (!record) return;
    expect(decodeStreamRecord("streams/a/b", encodeStreamRecord(record))).toEqual(record);
    expect(record.past.every((id) => typeof id === "string")).toBe(true);
    expect(Number.isSafeInteger(record.segments) && Number.isFinite(new Date(record.createdAtMs).getTime())).toBe(true);
  };
  await fuzzBytes({ name: "stream-record-bytes", beside, seeds: [encodeStreamRecord(RECORD)], run });
  await fuzzValues({ name: "stream-record", beside, seeds: [RECORD], run: (value) => run(encodeCbor(value)) });
});

it("mutated pointers from ids to names are read or STORE_CORRUPT", async () => {
  const pointers = [{ type: "stream", name: { scope: "plant", stream: "press" } }, { type: "probe" }] as const;
  await fuzzBytes({
    name: "id-pointer",
    beside,
    seeds: pointers.map(encodeIdPointer),
    run: (bytes) => {
      const pointer = orCode(() => decodeIdPointer("ids/x", bytes), "STORE_CORRUPT");
      if (pointer?.type === "stream") expect(isValidName(pointer.name.scope) && isValidName(pointer.name.stream)).toBe(true);
    },
  });
});

it("mutated keys are names or STORE_CORRUPT", async () => {
  const utf8 = (text: string) => new TextEncoder().encode(text);
  await fuzzBytes({
    name: "stream-key",
    beside,
    seeds: [utf8("streams/plant/press"), utf8("streams/default/a.b-c_d")],
    run: (bytes) => void orCode(() => nameOfKey(Buffer.from(bytes).toString()), "STORE_CORRUPT"),
  });
});

it("mutated offsets are of this stream or refused", async () => {
  const utf8 = (text: string) => new TextEncoder().encode(text);
  await fuzzBytes({
    name: "offset",
    beside,
    seeds: [
      utf8(formatOffset(ID, 0, [])),
      utf8(formatOffset(ID, 2 ** 53 - 1, RANGES)),
      utf8(`c1_${"1".repeat(16)}_${ID.slice(0, 8)}`),
      utf8("g1_0000000000000001_0123456701234567"),
    ],
    run: (bytes) => {
      const text = Buffer.from(bytes).toString("latin1");
      const position = orCode(() => parseOffset(ID, text), "OFFSET_INVALID", "OFFSET_FOREIGN");
      if (position) expect(formatPosition(ID, position).slice(3)).toBe(text.slice(3));
    },
  });
});

it("mutated records of the cluster are read or STORE_CORRUPT, and those of writers are passed over", async () => {
  const logger = { debug() {}, info() {}, warn() {}, error() {} };
  const hello = { type: "hello", writer: ID, incarnation: "00".repeat(8), parent: undefined, name: "gw", version: "1" } as const;
  const clusterKeys = ["cluster", "containers", "containers/0/owner"];
  const incarnationKey = `writers/${ID}/${"11".repeat(8)}`;
  await fuzzValues({
    name: "cluster-records",
    beside,
    cost: 2,
    seeds: [{ id: ID }, { count: 3, version: 1 }, { epoch: 4, node: "aa", nonce: "bb" }, { parent: "", name: "gw", firstSeenMs: 5 }],
    run: async (value) => {
      const access = { meta: new MemoryMetaStore(), clock: fastClock(), random: seededRandom(1) };
      const wish = { container: 0, node: "aa", above: 0, mayTake: () => true };
      for (const key of [...clusterKeys, incarnationKey]) await access.meta.create(key, encodeCbor(value));
      for (const work of [
        () => ensureClusterRecord(access, { id: undefined }),
        () => ensureContainerCount(access, 2),
        () => winEpoch(access, wish),
      ]) {
        const result = await work().catch((error: unknown) => {
          if (!hasCode(error, "STORE_CORRUPT")) throw error;
        });
        if (typeof result === "number") expect(Number.isInteger(result)).toBe(true);
      }
      await new WriterRegistry(access, logger).hello(hello);
    },
  });
});
