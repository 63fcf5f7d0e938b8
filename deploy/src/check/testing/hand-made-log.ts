import type { GapReason } from "@tributary/common/format/block";
import { block } from "@tributary/core/container/testing/gateway";
import { type Checkpoint, encodeCheckpoint } from "@tributary/edge/store/checkpoint-record";
import type { StateChange } from "@tributary/edge/store/edge-store";
import { encodeIncarnation } from "@tributary/edge/store/incarnation-record";
import { encodeRecord, RECORD_KIND } from "@tributary/edge/store/record";

export const WRITER: string = "b".repeat(32);
export const STREAM_ID: string = "0123456789abcdef0123456789abcdef";

/** An incarnation's id from one letter. */
export function incarnationOf(letter: string): string {
  return letter.repeat(16);
}

/** The record of a start. */
export function startRecord(seq: number, letter: string): Uint8Array {
  const incarnation = incarnationOf(letter);
  return encodeIncarnation({ seq, checkpoint: 0, writer: WRITER, incarnation, parent: undefined, parentLasts: [], forgotten: [] });
}

/** The record of a commit of events with these ids, numbered from `first`. */
export function commitRecord(
  seq: number,
  letter: string,
  first: number,
  ids: readonly number[],
  streamId: string = STREAM_ID,
  key = "k",
): Uint8Array {
  const writer = { writer: WRITER, incarnation: incarnationOf(letter), lane: "live" } as const;
  const events = ids.map((id, i) => ({ number: first + i, data: String(id), key }));
  const { bytes } = block(writer, [{ streamId, previous: first - 1, events }]);
  return encodeRecord(RECORD_KIND.commit, seq, 0, { p: 1, b: [bytes.length], o: [-1] }, [bytes]).bytes;
}

/** The record of a commit that maps a stream of the gateway to one of the core. */
export function mapRecord(seq: number, id: string, coreId: string, segments = 1): Uint8Array {
  return changeRecord(seq, { type: "map-stream", id, mapping: { id: coreId, segments, containers: new Array(segments).fill(0) } });
}

/** The record of a commit that deletes a stream of the gateway. */
export function deleteRecord(seq: number, id: string): Uint8Array {
  return changeRecord(seq, { type: "delete-stream", id });
}

function changeRecord(seq: number, change: StateChange): Uint8Array {
  return encodeRecord(RECORD_KIND.commit, seq, 0, { c: [change] }, []).bytes;
}

/** The record of a checkpoint that gives numbers up. */
export function dropRecord(seq: number, letter: string, first: number, last: number, reason: GapReason = "quota"): Uint8Array {
  const numbers = { first, last, count: last - first + 1 };
  const gap = { localId: STREAM_ID, lane: "live" as const, incarnation: incarnationOf(letter), reason, segments: 1, ...numbers };
  return checkpointRecord(seq, letter, 0, [{ ...gap, parts: [{ segment: 0, ...numbers }], timeMinMs: 0, timeMaxMs: 0, nextOrdinal: 0 }]);
}

/** The record of a checkpoint that says how far the log is freed. */
export function freedRecord(seq: number, letter: string, freed: number): Uint8Array {
  return checkpointRecord(seq, letter, freed, []);
}

function checkpointRecord(seq: number, letter: string, position: number, pending: Checkpoint["gaps"]["pending"]): Uint8Array {
  const { bytes } = encodeCheckpoint(seq, 0, {
    writer: WRITER,
    incarnation: incarnationOf(letter),
    events: 0,
    numbers: [],
    state: { streams: [], producers: [], packetIds: [] },
    fold: { position, events: 0, cursors: [], chains: [] },
    gaps: { pending, local: [] },
    truncateThrough: 0,
    checkpoints: [],
  });
  return bytes;
}
