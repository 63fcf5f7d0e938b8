import { describe, expect, it } from "vitest";
import { MemoryLog, MemoryObjectStore } from "../service/testing/memory-engines.ts";
import { TierReader } from "../tier/tier-reader.ts";
import { FRAME_KIND, type FrameKind, WAL_START, type WalPosition } from "./counting.ts";
import type { Operation } from "./operations.ts";
import { recover } from "./recovery.ts";
import { SEGMENT } from "./testing/gateway.ts";
import { encodeFrame } from "./wal-frame.ts";

const CONTAINER = 3;
const STREAMS = ["1".repeat(32), "2".repeat(32)] as const;

function register(streamId: string): Operation {
  return { type: "register-stream", streamId, segments: [SEGMENT], contentType: "a/b", closed: false };
}

/** The frame behind a position, and where the log stands with it. */
function frame(before: WalPosition, kind: FrameKind, operations: readonly Operation[]): { bytes: Uint8Array; position: WalPosition } {
  const attempt = kind === FRAME_KIND.fence ? before.attempt + 1 : before.attempt;
  const number = kind === FRAME_KIND.fence ? 0 : before.number + 1;
  const { bytes, hash } = encodeFrame({ kind, container: CONTAINER, epoch: 1, attempt, number, previousHash: before.hash }, operations);
  return { bytes, position: { seq: before.seq + 1, epoch: 1, attempt, number, hash } };
}

describe("recovery from a log that was filled again after it went back", () => {
  const fence = frame(WAL_START, FRAME_KIND.fence, [{ type: "take-over", nonce: "a".repeat(16), endsGeneration: false }]);
  const forgotten = frame(fence.position, FRAME_KIND.operations, [register(STREAMS[0])]);
  const written = frame(fence.position, FRAME_KIND.operations, [register(STREAMS[1])]);
  const checkpoint = (position: WalPosition) =>
    frame(position, FRAME_KIND.checkpoint, [{ type: "tiered", checkpoint: { position, snapshot: undefined, objects: [] } }]);
  const tier = new TierReader(CONTAINER, new MemoryObjectStore(), 1_000);

  async function recovered(...frames: readonly { readonly bytes: Uint8Array }[]) {
    const log = new MemoryLog();
    for (const [i, { bytes }] of frames.entries()) await log.append(bytes, i);
    const { durable, damage } = await recover(log, tier, 0, "damage");
    return { streams: [...durable.state.streams.keys()], end: durable.position.seq, damage: damage?.code };
  }

  it("goes on from a checkpoint that agrees with the record at its position", async () => {
    expect(await recovered(fence, written, checkpoint(written.position))).toEqual({ streams: [], end: 3, damage: undefined });
  });

  it("goes on from a checkpoint whose position holds a damaged record, which it has no need of", async () => {
    const damaged = { bytes: written.bytes.map((byte, i) => (i === 60 ? byte ^ 1 : byte)) };
    expect(await recovered(fence, damaged, checkpoint(written.position))).toEqual({ streams: [], end: 3, damage: undefined });
  });

  it("does not believe the checkpoint of an owner who knows another record there", async () => {
    expect(await recovered(fence, written, checkpoint(forgotten.position))).toEqual({
      streams: [STREAMS[1]],
      end: 2,
      damage: "FRAME_CORRUPT",
    });
  });
});
