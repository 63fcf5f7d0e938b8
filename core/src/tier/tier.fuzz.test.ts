import { readFileSync } from "node:fs";
import { crc32c } from "@tributary/common/checksum";
import { hasCode } from "@tributary/common/errors";
import { encodeCbor } from "@tributary/common/format/cbor";
import { joined } from "@tributary/common/object-data";
import { fuzzBytes, fuzzValues, orCode } from "@tributary/common/testing/fuzz";
import { expect, it } from "vitest";
import { WAL_START } from "../container/counting.ts";
import type { ObjectRef } from "../container/operations.ts";
import { MemoryObjectStore } from "../service/testing/memory-engines.ts";
import { objectName, rootNames } from "./object-names.ts";
import { encodeRoot, readRoot } from "./root-object.ts";
import { readFooter } from "./tier-footer.ts";
import { decodeFooter, encodeFooterOnly, encodeObject, OBJECT_HEAD_BYTES, OBJECT_KIND } from "./tier-object.ts";
import { TierReader } from "./tier-reader.ts";

const beside = import.meta.url;
const read = (name: string) => new Uint8Array(readFileSync(new URL(`golden/${name}`, beside)));
const object = read("tier-object-v1.bin");
const snapshot = read("tier-snapshot-v1.bin");
const seeds = { blocks: [object, read("tier-object-v1-nonces.bin")], snapshot: [snapshot, read("tier-snapshot-v1-nonces.bin")] };
const TRAILER_BYTES = 20;
const CONTAINER = 4;
const REFUSED = ["STORE_CORRUPT", "FORMAT_UNSUPPORTED"] as const;

function footerBytesOf(bytes: Uint8Array): number {
  return bytes.length < TRAILER_BYTES
    ? 0
    : TRAILER_BYTES + new DataView(bytes.buffer, bytes.byteOffset).getUint32(bytes.length - TRAILER_BYTES, true);
}

const footerRecord = decodeFooter("golden", OBJECT_KIND.blocks, object);
const { position } = readFooter(footerRecord);
const body = object.subarray(OBJECT_HEAD_BYTES, object.length - footerBytesOf(object));

function mend(bytes: Uint8Array): Uint8Array {
  if (bytes.length < TRAILER_BYTES + 8) return bytes;
  const view = new DataView(bytes.buffer);
  const at = bytes.length - TRAILER_BYTES;
  const footerAt = Math.max(0, at - view.getUint32(at, true));
  view.setUint32(at + 16, 0x454f5254, true);
  view.setUint32(at + 12, crc32c(bytes.subarray(footerAt, at + 12)), true);
  return bytes;
}

/** Does what recovery and readers do. Whatever is wrong with an object, it is STORE_CORRUPT: an assertion would blame the program. */
async function load(kind: "blocks" | "snapshot", bytes: Uint8Array, footerBytes: number): Promise<void> {
  const objects = new MemoryObjectStore();
  const ref: ObjectRef = { epoch: 2, attempt: 1, through: position.seq, bytes: bytes.length, footerBytes };
  await objects.put(objectName(CONTAINER, kind, ref), bytes);
  const reader = new TierReader(CONTAINER, objects, 1 << 20);
  const refs = kind === "snapshot" ? { snapshot: ref, objects: [] } : { snapshot: undefined, objects: [ref] };
  try {
    const { state } = await reader.load({ position: { ...WAL_START, seq: position.seq }, ...refs });
    if (kind === "snapshot") return;
    for (const stream of state.streams.values()) {
      for (const chain of [0, 1, stream.chain - 1, stream.chain]) {
        await reader.extent(ref, stream.id, chain).catch((error: unknown) => {
          if (!hasCode(error, ...REFUSED)) throw error;
        });
      }
    }
  } catch (error) {
    if (!hasCode(error, ...REFUSED)) throw error;
  }
}

it.each(["blocks", "snapshot"] as const)("mutated objects of the tier are read or refused: %s", async (kind) => {
  await fuzzBytes({
    name: `tier-${kind}`,
    beside,
    cost: 2,
    seeds: seeds[kind],
    mend,
    run: async (bytes) => {
      orCode(() => decodeFooter("mutant", OBJECT_KIND[kind], bytes), ...REFUSED);
      await load(kind, bytes, Math.min(bytes.length, footerBytesOf(bytes)));
    },
  });
});

it("objects with a mutated footer are read or refused", async () => {
  await fuzzValues({
    name: "tier-footer",
    beside,
    seeds: seeds.blocks.map((bytes) => decodeFooter("golden", OBJECT_KIND.blocks, bytes)),
    run: async (value) => {
      const { parts, footerBytes } = encodeObject(OBJECT_KIND.blocks, [body], encodeCbor(value));
      const bytes = joined(parts);
      await load("blocks", bytes, footerBytes);
    },
  });
});

it("roots with mutated contents are read, and then written as they are read, or refused", async () => {
  await fuzzValues({
    name: "tier-root-record",
    beside,
    seeds: [decodeFooter("golden", OBJECT_KIND.root, read("tier-root-v1.bin"))],
    run: async (value) => {
      const objects = new MemoryObjectStore();
      await objects.put(rootNames(CONTAINER, 2)[0] as string, encodeFooterOnly(OBJECT_KIND.root, encodeCbor(value)).bytes);
      const open = await new TierReader(CONTAINER, objects, 1 << 20).root(2).catch((error: unknown) => {
        if (!hasCode(error, ...REFUSED)) throw error;
      });
      if (open) expect(readRoot(decodeFooter("again", OBJECT_KIND.root, encodeRoot(open.root)))).toEqual(open.root);
    },
  });
});

it("mutated snapshots are read or refused", async () => {
  await fuzzValues({
    name: "tier-snapshot-record",
    beside,
    seeds: seeds.snapshot.map((bytes) => decodeFooter("golden", OBJECT_KIND.snapshot, bytes)),
    run: async (value) => {
      const { bytes, footerBytes } = encodeFooterOnly(OBJECT_KIND.snapshot, encodeCbor(value));
      await load("snapshot", bytes, footerBytes);
    },
  });
});
