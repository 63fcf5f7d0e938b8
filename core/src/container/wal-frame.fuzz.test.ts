import { readFileSync } from "node:fs";
import { crc32c } from "@tributary/common/checksum";
import type { Slice } from "@tributary/common/format/block";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { fuzzBytes, fuzzValues, orCode } from "@tributary/common/testing/fuzz";
import { expect, it } from "vitest";
import { eventsAdded, headerBytesMax } from "./operations.ts";
import { decodeFrame, decodeFrameHead, encodeFrame, peekFrameKind } from "./wal-frame.ts";

const beside = import.meta.url;
const golden = new Uint8Array(readFileSync(new URL("golden/wal-frame-v1.bin", beside)));
const HEAD_BYTES = 48;
const headerLength = new DataView(golden.buffer, golden.byteOffset).getUint32(44, true);
const blocks = golden.subarray(HEAD_BYTES + headerLength, -4);

function mend(bytes: Uint8Array): Uint8Array {
  if (bytes.length < HEAD_BYTES + 4) return bytes;
  bytes.set([0x54, 0x52, 0x57, 0x46, bytes[4] === 1 ? 1 : 2]);
  if ((bytes[5] as number) > 3) bytes[5] = 1;
  const view = new DataView(bytes.buffer);
  const covered = bytes[4] === 1 ? bytes.length - 4 : Math.min(bytes.length - 4, HEAD_BYTES + view.getUint32(44, true));
  view.setUint32(bytes.length - 4, crc32c(bytes.subarray(0, covered)), true);
  return bytes;
}

function checkFrame(bytes: Uint8Array): void {
  peekFrameKind(bytes);
  const frame = orCode(() => decodeFrame(bytes), "FRAME_CORRUPT", "FORMAT_UNSUPPORTED");
  if (!frame) return;
  expect(decodeFrameHead(bytes)).toMatchObject({ kind: frame.kind, container: frame.container, epoch: frame.epoch, number: frame.number });
  for (const operation of frame.operations) {
    expect(headerBytesMax(operation)).toBeGreaterThan(0);
    if (operation.type === "append-block")
      for (const decision of operation.decisions)
        expect(eventsAdded(operation.block.slices.at(decision.slice) as Slice, decision)).toBeGreaterThan(0);
  }
  const again = encodeFrame(frame, frame.operations).bytes;
  expect(JSON.stringify(decodeFrame(again))).toBe(JSON.stringify(frame));
}

it("mutated frames are read, and then written as they are read, or refused", async () => {
  await fuzzBytes({
    name: "wal-frame",
    beside,
    seeds: ["v1", "v1-fence", "v2", "v2-fence"].map(
      (name) => new Uint8Array(readFileSync(new URL(`golden/wal-frame-${name}.bin`, beside))),
    ),
    mend,
    run: checkFrame,
  });
});

it("frames with mutated operations are read or refused", async () => {
  await fuzzValues({
    name: "operations",
    beside,
    seeds: [decodeCbor(golden.subarray(HEAD_BYTES, HEAD_BYTES + headerLength))],
    run: (value) => {
      const header = encodeCbor(value);
      const bytes = new Uint8Array(Buffer.concat([golden.subarray(0, HEAD_BYTES), header, blocks, new Uint8Array(4)]));
      new DataView(bytes.buffer).setUint32(44, header.length, true);
      checkFrame(mend(bytes));
    },
  });
});
