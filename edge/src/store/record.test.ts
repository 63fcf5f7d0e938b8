import { readFileSync } from "node:fs";
import { hasCode } from "@tributary/common/errors";
import { openChunk } from "@tributary/common/format/block";
import { payloadOf } from "@tributary/common/format/event-columns";
import type { Id } from "@tributary/common/names";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Checkpoint, decodeCheckpoint, encodeCheckpoint, ordinalAt } from "./checkpoint-record.ts";
import { type CommitRecord, encodeCommit } from "./commit-record.ts";
import { encodeIncarnation } from "./incarnation-record.ts";
import { decodeEntry } from "./log-cursor.ts";
import { NumberBook } from "./number-book.ts";
import { decodeRecord } from "./record.ts";
import { createStream, GatewayModel, mapStream } from "./testing/gateway-model.ts";

const WRITER = "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf";
const INCARNATION = "b0b1b2b3b4b5b6b7";
const PARENT = "c0c1c2c3c4c5c6c7";
const MAPPED = "d0d1d2d3d4d5d6d7d8d9dadbdcdddedf";
const UNMAPPED = "e0e1e2e3e4e5e6e7e8e9eaebecedeeef";
const TARGET = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

const mapping = { id: TARGET, segments: 2, containers: [3, 1] };
const events = [
  { stream: MAPPED, key: "engine-1", text: '{"rpm":900}' },
  { stream: UNMAPPED, key: "", text: "plain" },
  { stream: MAPPED, key: "engine-7", text: '{"rpm":901}' },
  { stream: UNMAPPED, key: "", text: "more, and long enough to be worth the compression: ".repeat(4) },
];
const changes = [createStream(UNMAPPED), mapStream(MAPPED, mapping)];

function commitBytes(): Uint8Array {
  const numbers = new NumberBook();
  numbers.set(MAPPED, "backlog", 41);
  const batch = new GatewayModel().batch(events, changes, "backlog");
  for (let row = 0; row < batch.columns.count; row++) {
    if (events[row]?.stream === MAPPED) batch.columns.number[row] = 41 + (batch.columns.number[row] as number);
  }
  const streams: Record<Id, { segments: number; mapping: typeof mapping | undefined; nextOrdinal: number }> = {
    [MAPPED]: { segments: 2, mapping, nextOrdinal: 100 },
    [UNMAPPED]: { segments: 1, mapping: undefined, nextOrdinal: 0 },
  };
  return encodeCommit(batch, {
    seq: 2 ** 40,
    checkpoint: 77,
    writer: WRITER,
    incarnation: INCARNATION,
    eventsBefore: 1234,
    ledger: numbers,
    stream: (id) => streams[id],
  }).bytes;
}

const incarnation = {
  seq: 5,
  checkpoint: 3,
  writer: WRITER,
  incarnation: INCARNATION,
  parent: PARENT,
  parentLasts: [{ id: MAPPED, lane: "live" as const, last: 12 }],
  forgotten: [UNMAPPED],
};

const checkpoint: Checkpoint = {
  writer: WRITER,
  incarnation: INCARNATION,
  events: 99,
  numbers: [{ id: MAPPED, lane: "backlog", last: 7 }],
  state: {
    streams: [
      {
        id: MAPPED,
        name: { scope: "plant", stream: "engines" },
        contentType: "application/json",
        segments: 1,
        createdAtMs: 1_700_000_000_000,
        closed: true,
        deleted: false,
        nextOrdinal: 500,
        firstOrdinal: 20,
        eras: [],
        streamSeq: "b",
        mapping,
      },
      {
        id: UNMAPPED,
        name: { scope: "plant", stream: "old" },
        contentType: "text/plain",
        segments: 3,
        createdAtMs: 1,
        closed: false,
        deleted: true,
        nextOrdinal: 2 ** 33,
        firstOrdinal: 0,
        eras: [],
        streamSeq: "",
        mapping: undefined,
      },
    ],
    producers: [{ streamId: MAPPED, producerId: "p", epoch: 1, seq: 9 }],
    packetIds: [{ clientId: "c", packetIds: [3, 1], digests: [-1, -1] }],
  },
  fold: {
    position: 4,
    events: 30,
    cursors: [[MAPPED, [PARENT, 12], null]],
    chains: [[MAPPED, TARGET, 2, [["1.live", PARENT, 12]]]],
  },
  gaps: {
    pending: [
      {
        localId: MAPPED,
        lane: "live",
        incarnation: PARENT,
        reason: "quota",
        segments: 2,
        first: 13,
        last: 15,
        count: 3,
        parts: [{ segment: 1, first: 13, last: 15, count: 3 }],
        timeMinMs: 5,
        timeMaxMs: 6,
        nextOrdinal: 23,
      },
    ],
    local: [[MAPPED, [{ ordinal: 20, count: 3, lane: "live", incarnation: PARENT, first: 13, reason: "quota" }]]],
  },
  truncateThrough: 4,
  checkpoints: [2, 3],
};

/** What later versions of format 1 added. */
const extended: Checkpoint = {
  ...checkpoint,
  state: {
    ...checkpoint.state,
    streams: checkpoint.state.streams.map((stream) =>
      stream.id === MAPPED
        ? {
            ...stream,
            eras: [
              { ordinal: 8, count: 15, incarnation: PARENT, lane: "live", first: 1 },
              { ordinal: 400, count: 100, incarnation: INCARNATION, lane: "live", first: 1 },
            ],
          }
        : stream,
    ),
    packetIds: [{ clientId: "c", packetIds: [3, 1], digests: [4_000_000_000, -1] }],
  },
};

/** Written once by the encoder of that version, and never again. */
function golden(name: string): Uint8Array {
  return new Uint8Array(readFileSync(new URL(`golden/${name}.bin`, import.meta.url)));
}

function checkCommit(bytes: Uint8Array): void {
  const commit = decodeEntry({ seq: 2 ** 40, data: bytes }) as CommitRecord;
  expect(commit).toMatchObject({ kind: "commit", lane: "backlog", checkpoint: 77, eventsBefore: 1234, events: 4, changes });
  expect(commit.streams).toEqual([
    { localId: MAPPED, blockId: TARGET, segments: 2, first: 42, last: 43, shift: 58 },
    { localId: UNMAPPED, blockId: UNMAPPED, segments: 1, first: 1, last: 2, shift: -1 },
  ]);
  const found = commit.blocks.flatMap((block) =>
    [...block.slices].flatMap((slice) => {
      if (slice.kind === "gap") return [];
      const columns = openChunk(block, slice.chunk);
      return Array.from({ length: slice.count }, (_, i) => Buffer.from(payloadOf(columns, slice.start + i)).toString());
    }),
  );
  expect(found.sort()).toEqual(events.map(({ text }) => text).sort());
}

describe("records of the edge log", () => {
  it("reads what earlier versions wrote", () => {
    checkCommit(golden("commit-1"));
    const begun = golden("incarnation-1");
    expect(decodeEntry({ seq: 5, data: begun })).toEqual({ kind: "incarnation", bytes: begun.length, ...incarnation });
    const raw = decodeRecord(golden("checkpoint-1"), 6);
    expect(decodeCheckpoint(raw)).toEqual(checkpoint);
    expect(decodeCheckpoint(decodeRecord(golden("checkpoint-1-eras"), 6))).toEqual(extended);
    expect([MAPPED, UNMAPPED, TARGET].map((id) => ordinalAt(raw.body, id))).toEqual([500, 2 ** 33, 0]);
  });

  it("reads what it writes now", () => {
    checkCommit(commitBytes());
    expect(decodeEntry({ seq: 5, data: encodeIncarnation(incarnation) })).toMatchObject(incarnation);
    for (const written of [checkpoint, extended]) {
      expect(decodeCheckpoint(decodeRecord(encodeCheckpoint(6, 3, written).bytes, 6))).toEqual(written);
    }
  });

  it("takes every flipped bit, every truncation and every wrong place for damage", () => {
    const bytes = commitBytes();
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const damaged = Uint8Array.from(bytes);
      damaged[bit >> 3] = (damaged[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(decodeEntry({ seq: 2 ** 40, data: damaged })).toBeUndefined();
    }
    for (let length = 0; length < bytes.length; length++) {
      expect(decodeEntry({ seq: 2 ** 40, data: bytes.subarray(0, length) })).toBeUndefined();
    }
    expect(decodeEntry({ seq: 2 ** 40 + 1, data: bytes })).toBeUndefined();
  });

  it("answers garbage with STORE_CORRUPT", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (garbage) => {
        try {
          decodeRecord(garbage, 1);
          return false;
        } catch (error) {
          return hasCode(error, "STORE_CORRUPT");
        }
      }),
    );
  });
});
