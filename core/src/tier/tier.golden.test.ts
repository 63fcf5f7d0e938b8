import { readFileSync } from "node:fs";
import { describeBlock } from "@tributary/common/format/testing/sample-block";
import { expect, it } from "vitest";
import { encodeRoot, type Root, readRoot } from "./root-object.ts";
import { readSnapshot } from "./snapshot.ts";
import { describeTier } from "./testing/describe-tier.ts";
import { readFooter } from "./tier-footer.ts";
import { decodeFooter, OBJECT_KIND } from "./tier-object.ts";

const read = (name: string) => readFileSync(new URL(`golden/${name}`, import.meta.url));
const json = (name: string) => JSON.parse(read(name).toString());

it("objects of version 1 say what they said", () => {
  const object = new Uint8Array(read("tier-object-v1.bin"));
  const footer = readFooter(decodeFooter("golden", OBJECT_KIND.blocks, object));
  const blocks: unknown[] = [];
  for (let i = 0; i < footer.blocks.length; i += 2) {
    const [offset = 0, length = 0] = footer.blocks.slice(i, i + 2);
    blocks.push(describeBlock(object.subarray(offset, offset + length)));
  }
  expect(JSON.parse(JSON.stringify({ footer, blocks }))).toMatchObject(json("tier-object-v1.json"));
});

const ROOT: Root = {
  container: 4,
  generation: 2,
  epoch: 2 ** 32 + 3,
  base: {
    position: { seq: 77, epoch: 2 ** 32 + 2, attempt: 1, number: 5, hash: "ab".repeat(16) },
    snapshot: { epoch: 2 ** 32 + 1, attempt: 1, through: 60, bytes: 300, footerBytes: 200 },
    objects: [{ epoch: 2 ** 32 + 2, attempt: 1, through: 77, bytes: 900, footerBytes: 250 }],
  },
  raisedAtMs: 1_795_162_530_250,
  reason: "lake-ahead",
  ends: [
    { streamId: "1".repeat(32), segment: { generation: 1, epoch: 0, number: 0 }, length: 41 },
    { streamId: "1".repeat(32), segment: { generation: 1, epoch: 0, number: 1 }, length: 7 },
  ],
  losses: [{ streamId: "1".repeat(32), from: 48, to: 52 }],
};

it("roots say what they said, and are written alike", () => {
  const golden = new Uint8Array(read("tier-root-v1.bin"));
  expect(readRoot(decodeFooter("golden", OBJECT_KIND.root, golden))).toEqual(ROOT);
  expect(Buffer.compare(encodeRoot(ROOT), golden)).toBe(0);
});

it("snapshots of version 1 say what they said", () => {
  const snapshot = readSnapshot(decodeFooter("golden", OBJECT_KIND.snapshot, new Uint8Array(read("tier-snapshot-v1.bin"))));
  expect(describeTier(snapshot)).toMatchObject(json("tier-snapshot-v1.json"));
});
