import { readFileSync } from "node:fs";
import { describeBlock } from "@tributary/common/format/testing/sample-block";
import { expect, it } from "vitest";
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

it("snapshots of version 1 say what they said", () => {
  const snapshot = readSnapshot(decodeFooter("golden", OBJECT_KIND.snapshot, new Uint8Array(read("tier-snapshot-v1.bin"))));
  expect(describeTier(snapshot)).toMatchObject(json("tier-snapshot-v1.json"));
});
