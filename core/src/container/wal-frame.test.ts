import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { hasCode } from "@tributary/common/errors";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FRAME_KIND, type FrameHead } from "./counting.ts";
import { frameHash } from "./frame-hash.ts";
import type { Operation } from "./operations.ts";
import { block, numbered, SEGMENT } from "./testing/gateway.ts";
import { decodeFrame, decodeFrameHead, encodeFrame, type Frame, peekFrameKind } from "./wal-frame.ts";

const STREAM = "0123456789abcdef0123456789abcdef";
const WRITER = { writer: "b".repeat(32), incarnation: "c".repeat(16), lane: "backlog" } as const;
const REF = { epoch: 3, attempt: 2, through: 99, bytes: 2 ** 33, footerBytes: 77 };
const POSITION = { seq: 2 ** 40, epoch: 3, attempt: 2, number: 5, hash: "ab".repeat(16) };
const HEAD: FrameHead = {
  kind: FRAME_KIND.operations,
  container: 7,
  epoch: 2 ** 35 + 1,
  attempt: 3,
  number: 4,
  previousHash: "cd".repeat(16),
};

const OPERATIONS: readonly Operation[] = [
  {
    type: "register-stream",
    streamId: STREAM,
    segments: [SEGMENT, { generation: 1, epoch: 2, number: 3 }],
    contentType: "a/b",
    closed: true,
  },
  {
    type: "append-block",
    block: block(WRITER, [{ streamId: STREAM, previous: 4, events: numbered(5, 9) }]),
    own: false,
    decisions: [{ slice: 0, skip: 2, ordinal: 2 ** 34, chain: 2 ** 36 }],
  },
  { type: "set-producer", streamId: STREAM, producerId: "π", epoch: 1, seq: 2 ** 50 },
  { type: "set-stream-seq", streamId: STREAM, streamSeq: "s" },
  { type: "close-stream", streamId: STREAM },
  { type: "delete-stream", streamId: STREAM },
  { type: "tiered", checkpoint: { position: POSITION, snapshot: undefined, objects: [REF, { ...REF, through: 100 }] } },
  { type: "tiered", checkpoint: { position: POSITION, snapshot: REF, objects: [] } },
];

describe("WAL frame", () => {
  it("gives back head and operations", () => {
    const { bytes, hash } = encodeFrame(HEAD, OPERATIONS);
    expect(decodeFrame(bytes)).toEqual({ ...HEAD, operations: OPERATIONS } satisfies Frame);
    expect(decodeFrameHead(bytes)).toEqual(HEAD);
    expect(peekFrameKind(bytes)).toBe(FRAME_KIND.operations);
    expect(frameHash(bytes)).toBe(hash);
    expect(hash).toMatch(/^[0-9a-f]{32}$/);
  });

  it("still reads version 1 as it was written, under the hash of then", () => {
    const golden = new Uint8Array(readFileSync(new URL("./golden/wal-frame-v1.bin", import.meta.url)));
    expect(decodeFrame(golden)).toEqual({ ...HEAD, operations: OPERATIONS });
    expect(frameHash(golden)).toBe(createHash("sha256").update(golden).digest("hex").slice(0, 32));
  });

  it("reads and writes version 2 as it was written", () => {
    const golden = new Uint8Array(readFileSync(new URL("./golden/wal-frame-v2.bin", import.meta.url)));
    const frame = decodeFrame(golden);
    expect(frame).toEqual({ ...HEAD, operations: OPERATIONS });
    expect(Buffer.compare(encodeFrame(frame, frame.operations).bytes, golden)).toBe(0);
    expect(frameHash(golden)).toBe("fc34945e05fe1f68326538929a7e5c9e");
  });

  it("still reads what fences and registrations say since there are nonces", () => {
    const [before, now] = [1, 2].map((version) =>
      Uint8Array.from(readFileSync(new URL(`./golden/wal-frame-v${version}-fence.bin`, import.meta.url))),
    ) as [Uint8Array, Uint8Array];
    const head = { ...HEAD, kind: FRAME_KIND.fence, number: 0 };
    const registration = { type: "register-stream", streamId: STREAM, segments: [SEGMENT], contentType: "a/b", closed: false } as const;
    const origin = { name: { scope: "plant", stream: "press" }, createdAtMs: 1_795_162_530_250, containers: [7, 7, 9] };
    const operations: readonly Operation[] = [
      { type: "take-over", nonce: "0123456789abcdef", endsGeneration: true },
      { ...registration, origin },
    ];
    expect(decodeFrame(before)).toEqual({ ...head, operations });
    expect(decodeFrame(now)).toEqual({ ...head, operations });
    expect(Buffer.compare(encodeFrame(head, operations).bytes, now)).toBe(0);
  });

  it("refuses every flipped bit and every truncation", () => {
    const { bytes } = encodeFrame(HEAD, OPERATIONS.slice(0, 2));
    const ofHead = 48 + new DataView(bytes.buffer).getUint32(44, true);
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const damaged = Uint8Array.from(bytes);
      damaged[bit >> 3] = (damaged[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(() => decodeFrame(damaged)).toThrow();
      if (bit < ofHead * 8) expect(() => decodeFrameHead(damaged)).toThrow();
    }
    for (let length = 0; length < bytes.length; length++) expect(() => decodeFrame(bytes.subarray(0, length))).toThrow();
  });

  it("answers garbage with FRAME_CORRUPT", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (garbage) => {
        try {
          decodeFrame(garbage);
          return false;
        } catch (error) {
          return hasCode(error, "FRAME_CORRUPT", "FORMAT_UNSUPPORTED");
        }
      }),
    );
  });
});
