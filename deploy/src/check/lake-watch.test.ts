import { FRAME_KIND } from "@tributary/core/container/counting";
import { rootHash } from "@tributary/core/container/frame-hash";
import type { Operation } from "@tributary/core/container/operations";
import { block, numbered } from "@tributary/core/container/testing/gateway";
import { encodeFrame } from "@tributary/core/container/wal-frame";
import { encodeRoot } from "@tributary/core/tier/root-object";
import { beforeEach, describe, expect, it } from "vitest";
import { LakeWatch } from "./lake-watch.ts";
import { digestOf } from "./plain.ts";

const STREAM = "0123456789abcdef0123456789abcdef";
const WRITER = { writer: "b".repeat(32), incarnation: "c".repeat(16), lane: "live" } as const;
const START = "0".repeat(32);

/** Events `from` to `to` of the one writer, at the ordinals from `from` − 1 on. */
function append(from: number, to: number, tag = ""): Extract<Operation, { type: "append-block" }> {
  return {
    type: "append-block",
    block: block(WRITER, [{ streamId: STREAM, previous: from - 1, events: numbered(from, to, tag) }]),
    own: false,
    decisions: [{ slice: 0, skip: 0, ordinal: from - 1, chain: from - 1 }],
  };
}

function checkpoint(seq: number): Operation {
  return {
    type: "tiered",
    checkpoint: { position: { seq, epoch: 1, attempt: 1, number: seq, hash: START }, snapshot: undefined, objects: [] },
  };
}

function seen(number: number, data = String(number)) {
  const plain = { segment: "0.0.0", ordinal: number - 1, ...WRITER, number, key: "" };
  return { ...plain, digest: digestOf(plain, Buffer.from(data)) };
}

describe("LakeWatch", () => {
  let found: string[];
  let watch: LakeWatch;
  let held: string[];
  beforeEach(() => {
    found = [];
    held = [];
    watch = new LakeWatch(
      (invariant, kind) => found.push(`${invariant} ${kind}`),
      (data) => Number(Buffer.from(data).toString()),
    );
    watch.onOperation = ({ type }) => held.push(type);
    watch.onEvent = (id, streamId) => held.push(`${id} in ${streamId.slice(0, 2)}`);
  });

  /** Lets a frame land and gives its hash. */
  function land(
    seq: number,
    previousHash: string,
    operations: readonly Operation[],
    of: { epoch?: number; attempt?: number } = {},
  ): string {
    const { epoch = 1, attempt = 1 } = of;
    const kind = seq === 1 ? FRAME_KIND.fence : FRAME_KIND.operations;
    const { bytes, hash } = encodeFrame({ kind, container: 0, epoch, attempt, number: seq, previousHash }, operations);
    watch.landed(0, seq, bytes);
    return hash;
  }

  it("accepts reads of what counting frames hold", () => {
    land(2, land(1, START, []), [append(1, 3)]);
    for (const number of [1, 2, 3]) watch.judgeRead(STREAM, seen(number), "reader");
    expect(found).toEqual([]);
    expect(watch.countOf(STREAM)).toBe(3);
    expect([...watch.committed]).toEqual([1, 2, 3]);
    expect(held).toEqual(["append-block", "1 in 01", "2 in 01", "3 in 01"]);
  });

  it("finds a read of nothing, and of other bytes, another number or another key than the counting frames have", () => {
    land(2, land(1, START, []), [append(1, 3)]);
    watch.judgeRead(STREAM, seen(4), "reader");
    expect(found.splice(0)).toEqual(["5 read what is not durable"]);
    watch.judgeRead(STREAM, seen(3, "other"), "reader");
    expect(found.splice(0)).toEqual(["5 read what does not count"]);
    const other = { ...seen(3), key: "k" };
    watch.judgeRead(STREAM, { ...other, digest: digestOf(other, Buffer.from("3")) }, "reader");
    expect(found.splice(0)).toEqual(["5 read what does not count"]);
  });

  it.each([
    ["of an attempt that is over", { epoch: 1, attempt: 1 }],
    ["that is not chained to the last counting one", { epoch: 3 }],
  ])("does not count a frame %s", (_, of) => {
    const fence = land(2, land(1, START, []), [], { epoch: 2 });
    land(3, of.epoch === 3 ? START : fence, [append(1, 3)], of);
    expect(watch.voidFrames).toBe(1);
    watch.judgeRead(STREAM, seen(1), "reader");
    expect(found).toEqual(["5 read what is not durable"]);
  });

  it("counts on behind a void frame", () => {
    const fence = land(2, land(1, START, []), [], { epoch: 2 });
    land(3, fence, [append(1, 3, "void")], { epoch: 1 });
    land(4, fence, [append(1, 3)], { epoch: 2 });
    watch.judgeRead(STREAM, seen(2), "reader");
    expect(found).toEqual([]);
  });

  it("joins a log that was truncated before", () => {
    watch.begins(0, { epoch: 4, attempt: 1, hash: "ab".repeat(16) });
    land(90, "ab".repeat(16), [append(5, 6)], { epoch: 4 });
    watch.judgeRead(STREAM, seen(5), "reader");
    expect(found).toEqual([]);
  });

  it("finds a frame that was written damaged", () => {
    watch.landed(0, 1, new Uint8Array(200));
    expect(found).toEqual(["5 no frame"]);
  });

  describe("truncation", () => {
    const operation = append(1, 3);
    const OBJECT = "g0/c00000/blocks/x.trib";
    const object = Buffer.concat([Buffer.from("head"), operation.block.bytes, Buffer.from("foot")]);

    it("accepts what is in the lake and behind a checkpoint", () => {
      const hash = land(2, land(1, START, []), [operation]);
      watch.stored(OBJECT, object);
      land(3, hash, [checkpoint(2)]);
      watch.truncating(0, 1, 2);
      expect(found).toEqual([]);
      expect([...watch.tiered]).toEqual([1, 2, 3]);
    });

    it("finds that the last object with what was truncated is deleted", () => {
      const hash = land(2, land(1, START, []), [operation]);
      for (const name of [OBJECT, `${OBJECT}.2`]) watch.stored(name, object);
      land(3, hash, [checkpoint(2)]);
      watch.truncating(0, 1, 2);
      watch.deleted(OBJECT);
      expect(found).toEqual([]);
      watch.deleted(`${OBJECT}.2`);
      expect(found).toEqual(["7 gone from the lake"]);
    });

    it("finds that what is truncated was deleted before", () => {
      const hash = land(2, land(1, START, []), [operation]);
      watch.stored(OBJECT, object);
      land(3, hash, [checkpoint(2)]);
      watch.deleted(OBJECT);
      watch.truncating(0, 1, 2);
      expect(found).toEqual(["7 truncated early"]);
    });

    it("finds that no checkpoint reaches so far", () => {
      land(2, land(1, START, []), [operation]);
      watch.stored(OBJECT, object);
      watch.truncating(0, 1, 2);
      expect(found).toEqual(["7 truncated early"]);
    });

    it("finds that the checkpoint is in a void frame", () => {
      const hash = land(2, land(1, START, []), [operation]);
      watch.stored(OBJECT, object);
      land(3, hash, [], { epoch: 2 });
      land(4, hash, [checkpoint(2)]);
      watch.truncating(0, 1, 2);
      expect(found).toEqual(["7 truncated early"]);
    });

    it.each([
      ["not there", undefined],
      ["damaged in the lake", Uint8Array.from(object, (byte, i) => (i === 40 ? byte ^ 1 : byte))],
    ])("finds that a block is %s", (_, bytes) => {
      const hash = land(2, land(1, START, []), [operation]);
      if (bytes) watch.stored(OBJECT, bytes);
      land(3, hash, [checkpoint(2)]);
      watch.truncating(0, 1, 2);
      expect(found).toEqual(["7 truncated early"]);
      expect(watch.tiered.size).toBe(0);
    });
  });

  describe("going back", () => {
    const NONCES = ["1", "2", "3"].map((digit) => digit.repeat(16));
    const takeOver = (nonce = NONCES[0] as string): Operation => ({ type: "take-over", nonce, endsGeneration: false });
    const under = (nonce: string | undefined, record: ReturnType<typeof seen>, segment = "0.0.0") => {
      const plain = { ...record, nonce, segment };
      return { ...plain, digest: digestOf(plain, Buffer.from(String(record.number))) };
    };
    const G1 = 2 ** 32;

    function landIn(generation: number, seq: number, previousHash: string, operations: readonly Operation[]): string {
      const epoch = generation * G1 + 1;
      const { bytes, hash } = encodeFrame(
        { kind: FRAME_KIND.operations, container: 0, epoch, attempt: 1, number: seq, previousHash },
        operations,
      );
      watch.landed(0, seq, bytes, generation);
      return hash;
    }

    function raise(seq: number, hash: string): string {
      const position = { seq, epoch: 1, attempt: 1, number: seq, hash };
      const base = { position, snapshot: undefined, objects: [] };
      const bytes = encodeRoot({ container: 0, generation: 1, epoch: 1, base, raisedAtMs: 0, reason: "lake-ahead", ends: [], losses: [] });
      watch.stored("g1/c00000/root", bytes);
      return rootHash(bytes);
    }

    it("gives ordinals out again, under another nonce, and only the later ones count", () => {
      const one = land(1, START, [takeOver()]);
      const mark = watch.mark(0, 0);
      land(2, one, [append(1, 3)]);
      expect(watch.countOf(STREAM)).toBe(3);
      watch.rolledBack(0, 0, mark);
      const two = land(2, one, [takeOver(NONCES[1])], { epoch: 2 });
      expect(watch.countOf(STREAM)).toBe(0);
      land(3, two, [append(1, 2)], { epoch: 2 });
      expect(watch.countOf(STREAM)).toBe(2);
      expect(watch.isCurrent(STREAM, under(NONCES[1], seen(2)))).toBe(true);
      expect(watch.isCurrent(STREAM, under(NONCES[0], seen(3)))).toBe(false);
      // What counted once may have been read.
      for (const [nonce, number] of [[NONCES[0], 3] as const, [NONCES[1], 2] as const])
        watch.judgeRead(STREAM, under(nonce, seen(number)), "reader");
      watch.judgeRead(STREAM, under(NONCES[1], seen(3)), "reader");
      expect(found).toEqual(["5 read what is not durable"]);
    });

    it("lets count what a log lost until somebody goes on without it (seed 3031)", () => {
      const standings: { readonly counts: boolean }[] = [];
      watch.onEvent = (_id, _streamId, standing) => standings.push(standing);
      const one = land(1, START, [takeOver()]);
      const mark = watch.mark(0, 0);
      land(3, land(2, one, [append(1, 3)]), [append(4, 4)]);
      const judged = () => [watch.countOf(STREAM), watch.isCurrent(STREAM, under(NONCES[0], seen(3))), standings[0]?.counts];
      for (let times = 0; times < 2; times++) {
        watch.rolledBack(0, 0, mark);
        expect(judged()).toEqual([4, true, true]);
      }
      // What is void is of somebody who does not know.
      land(2, START, [append(1, 1)]);
      expect(judged()).toEqual([4, true, true]);
      land(2, one, [takeOver(NONCES[1])], { epoch: 2 });
      expect(judged()).toEqual([0, false, false]);
    });

    it("goes on in the next generation from what its root says, also with what the log had lost", () => {
      const one = land(1, START, [takeOver()]);
      const mark = watch.mark(0, 0);
      const two = land(2, one, [append(1, 3)]);
      watch.rolledBack(0, 0, mark);
      const root = raise(2, two);
      expect(watch.countOf(STREAM)).toBe(3);
      const three = landIn(1, 1, root, [takeOver(NONCES[2])]);
      const next = append(4, 5);
      landIn(1, 2, three, [{ ...next, decisions: [{ slice: 0, skip: 0, ordinal: 0, chain: 3 }] }]);
      expect(watch.countOf(STREAM)).toBe(5);
      expect(watch.isCurrent(STREAM, under(NONCES[2], { ...seen(4), ordinal: 0 }, "1.0.0"))).toBe(true);
      // The log before has ended.
      land(2, one, [append(1, 1)]);
      expect(watch.countOf(STREAM)).toBe(5);
      watch.judgeEnd(() => false);
      expect(found).toEqual([]);
    });

    it.each([
      ["in a log that went back", (one: string) => one],
      ["in a frame that is void", () => START],
    ])("finds that an epoch was used by two owners, the second %s", (_, previousHash) => {
      const one = land(1, START, [takeOver()]);
      const mark = watch.mark(0, 0);
      // An owner fences each of its attempts.
      const two = land(2, one, [takeOver(NONCES[1])], { epoch: 2 });
      land(3, two, [takeOver(NONCES[1])], { epoch: 2, attempt: 2 });
      expect(found).toEqual([]);
      watch.rolledBack(0, 0, mark);
      land(2, previousHash(one), [takeOver(NONCES[2])], { epoch: 2 });
      expect(found).toEqual(["5 an epoch of two owners"]);
    });

    it.each([
      ["that a full lake let nobody claim", "before"],
      ["whose claim the lake lost", "after"],
    ])("allows two owners an epoch %s", (_, when) => {
      const claim = "g0/c00000/epochs/0000000002";
      if (when === "before") watch.missing(claim);
      const one = land(1, START, [takeOver()]);
      const mark = watch.mark(0, 0);
      land(2, one, [takeOver(NONCES[1])], { epoch: 2 });
      if (when === "after") watch.missing(claim);
      watch.rolledBack(0, 0, mark);
      land(2, one, [takeOver(NONCES[2])], { epoch: 2 });
      expect(found).toEqual([]);
    });

    it("finds a generation without a root, and one that goes on from nothing", () => {
      landIn(1, 1, START, []);
      expect(found.splice(0)).toEqual(["5 no root"]);
      land(1, START, []);
      raise(2, "ab".repeat(16));
      expect(found).toEqual(["5 rootless"]);
    });

    it("finds that what was in the lake is given up", () => {
      const one = land(1, START, [takeOver()]);
      const mark = watch.mark(0, 0);
      const two = land(2, one, [append(1, 3)]);
      const position = { seq: 2, epoch: 1, attempt: 1, number: 2, hash: two };
      land(3, two, [{ type: "tiered", checkpoint: { position, snapshot: undefined, objects: [] } }]);
      watch.rolledBack(0, 0, mark);
      watch.judgeEnd(() => true);
      expect(found).toEqual([]);
      watch.judgeEnd(() => false);
      expect(found.splice(0)).toEqual(["1 gone from the lake"]);
      raise(2, two);
      watch.judgeEnd(() => false);
      expect(found).toEqual([]);
    });
  });
});
