import { hasCode } from "@tributary/common/errors";
import { openChunk, type Slice } from "@tributary/common/format/block";
import { payloadOf } from "@tributary/common/format/event-columns";
import { formatSegmentId } from "@tributary/common/names";
import type { Operation } from "@tributary/core/container/operations";
import { decodeFrame, type Frame, frameHash } from "@tributary/core/container/wal-frame";
import { Places } from "./places.ts";
import { digestOf, type PlainRecord, type Violate } from "./plain.ts";

interface StoredBlock {
  readonly bytes: Uint8Array;
  readonly ids: readonly number[];
  /** Names of undamaged objects that hold it. */
  readonly objects: Set<string>;
}

/** The log of one container as the judge sees it: every record that landed, in order. */
interface WalHistory {
  epoch: number;
  attempt: number;
  hash: string;
  /** Blocks of counting frames that were not truncated yet. */
  readonly blocks: Map<number, StoredBlock[]>;
  /** Blocks whose records were truncated: the lake alone has them. */
  readonly inLakeAlone: Omit<StoredBlock, "bytes">[];
  /** How far the newest counting checkpoint reaches. */
  checkpointedThrough: number;
}

/** Where a log begins whose first records are gone: behind this frame. */
export interface WalStart {
  readonly epoch: number;
  readonly attempt: number;
  readonly hash: string;
}

const WAL_START: WalStart = { epoch: 0, attempt: 0, hash: "0".repeat(32) };
const NO_BYTES = new Uint8Array();

/**
 * Watches the write-ahead logs and the lake from outside and says what must be readable: the events of the frames that count by
 * rule C2, in the order of the log. It shares the codec with the implementation, and no decision. Give it each WAL record as it lands,
 * or a whole log record by record; and each object as it is stored.
 */
export class LakeWatch {
  readonly #violate: Violate;
  readonly #identify: (data: Uint8Array) => number;
  readonly #wals = new Map<number, WalHistory>();
  /** Records by stream, segment and ordinal, as the counting frames have them. */
  readonly #records = new Map<string, Places>();
  readonly committed: Set<number> = new Set();
  readonly tiered: Set<number> = new Set();
  /** Of each counting frame: its operations, and which streams hold which events whose bytes carry an id. */
  onOperation: (operation: Operation) => void = () => {};
  onEvent: (id: number, streamId: string) => void = () => {};
  frames = 0;
  voidFrames = 0;

  /** `identify` gives the id that an event's bytes carry, −1 if they carry none. */
  constructor(violate: Violate, identify: (data: Uint8Array) => number = () => -1) {
    this.#violate = violate;
    this.#identify = identify;
  }

  /** For a log that was truncated before the watch began. */
  begins(container: number, { epoch, attempt, hash }: WalStart): void {
    this.#wals.set(container, { epoch, attempt, hash, blocks: new Map(), inLakeAlone: [], checkpointedThrough: 0 });
  }

  landed(container: number, seq: number, data: Uint8Array): void {
    const wal = this.#wal(container);
    this.frames++;
    let frame: Frame;
    try {
      frame = decodeFrame(data);
    } catch (error) {
      if (!hasCode(error, "FRAME_CORRUPT")) throw error;
      this.#violate(5, "no frame", `WAL ${container} record ${seq} was written damaged: ${error.message}`);
      return;
    }
    const behind = frame.epoch - wal.epoch || frame.attempt - wal.attempt;
    if (behind < 0 || frame.previousHash !== wal.hash) {
      this.voidFrames++;
      return;
    }
    wal.epoch = frame.epoch;
    wal.attempt = frame.attempt;
    wal.hash = frameHash(data);
    const blocks: StoredBlock[] = [];
    for (const operation of frame.operations) {
      this.onOperation(operation);
      if (operation.type === "tiered") wal.checkpointedThrough = Math.max(wal.checkpointedThrough, operation.checkpoint.position.seq);
      if (operation.type !== "append-block") continue;
      const ids: number[] = [];
      const { writer, incarnation, lane } = operation.block;
      for (const decision of operation.decisions) {
        const slice = operation.block.slices[decision.slice] as Slice;
        const segment = formatSegmentId(slice.segment);
        const common = { segment, writer, incarnation, lane };
        if (slice.kind === "gap") {
          const first = slice.first + decision.skip;
          const gap = { first, count: Math.min(slice.count, slice.last - first + 1) };
          this.#add(slice.streamId, { ...common, ordinal: decision.ordinal, number: slice.last, key: "", gap }, NO_BYTES);
          continue;
        }
        const events = openChunk(operation.block, slice.chunk);
        for (let i = decision.skip; i < slice.count; i++) {
          const row = slice.start + i;
          const payload = payloadOf(events, row);
          const id = this.#identify(payload);
          const key = events.keys[events.keyIndex[row] as number] as string;
          if (id >= 0) {
            ids.push(id);
            this.committed.add(id);
            this.onEvent(id, slice.streamId);
          }
          const number = events.number[row] as number;
          this.#add(slice.streamId, { ...common, ordinal: decision.ordinal + i - decision.skip, number, key }, payload);
        }
      }
      blocks.push({ bytes: operation.block.bytes.slice(), ids, objects: new Set() });
    }
    wal.blocks.set(seq, blocks);
  }

  /** An object was stored with these bytes. */
  stored(name: string, data: Uint8Array): void {
    const container = Number(/^g\d+\/c(\d+)\/blocks\//.exec(name)?.[1] ?? -1);
    const wal = this.#wals.get(container);
    if (!wal) return;
    const object = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    for (const blocks of wal.blocks.values()) {
      for (const block of blocks) {
        if (object.indexOf(block.bytes) < 0) continue;
        block.objects.add(name);
        for (const id of block.ids) this.tiered.add(id);
      }
    }
  }

  /** An object was deleted. Invariant 7: nothing that the log let go lay in it alone. */
  deleted(name: string): void {
    for (const [container, { blocks, inLakeAlone }] of this.#wals) {
      for (const block of [...blocks.values()].flat()) block.objects.delete(name);
      for (const { ids, objects } of inLakeAlone) {
        if (!objects.delete(name) || objects.size > 0) continue;
        this.#violate(
          7,
          "gone from the lake",
          `${name} was deleted, and events (${ids.slice(0, 3)} …) of WAL ${container} were in it alone`,
        );
      }
    }
  }

  /** Invariant 7: what goes is in the lake, and a checkpoint that says so is durable. */
  truncating(container: number, first: number, throughSeq: number): void {
    const wal = this.#wal(container);
    if (wal.checkpointedThrough < throughSeq) {
      this.#violate(
        7,
        "truncated early",
        `WAL ${container} loses records through ${throughSeq}, its checkpoint reaches ${wal.checkpointedThrough}`,
      );
    }
    for (let seq = first; seq <= throughSeq; seq++) {
      for (const block of wal.blocks.get(seq) ?? []) {
        if (block.objects.size === 0) {
          this.#violate(
            7,
            "truncated early",
            `WAL ${container} record ${seq} goes, and its events (${block.ids.slice(0, 3)} …) are not in the lake`,
          );
        }
        wal.inLakeAlone.push({ ids: block.ids, objects: block.objects });
      }
      wal.blocks.delete(seq);
    }
  }

  /**
   * Invariants 3 and 5: nothing is read that no counting frame holds, at the place where it holds it. Of a watch that began late only
   * what it saw can be judged.
   */
  judgeRead(streamId: string, record: PlainRecord & { readonly digest: number }, who: string): void {
    const frames = this.#records.get(streamId);
    const { segment, ordinal, digest } = record;
    if (frames?.at(segment, ordinal) === undefined) {
      this.#violate(5, "read what is not durable", `${who} ${segment} ${ordinal}, which no counting frame holds`);
    } else if (!frames.isSame(segment, ordinal, digest)) {
      this.#violate(5, "read what does not count", `${who} ${segment} ${ordinal}; the counting frames hold another record there`);
    }
  }

  /** Records that a complete read of the stream must give. */
  countOf(streamId: string): number {
    return this.#records.get(streamId)?.count ?? 0;
  }

  #add(streamId: string, record: PlainRecord, data: Uint8Array): void {
    let places = this.#records.get(streamId);
    if (!places) {
      places = new Places();
      this.#records.set(streamId, places);
    }
    places.put(record.segment, record.ordinal, digestOf(record, data));
  }

  #wal(container: number): WalHistory {
    if (!this.#wals.has(container)) this.begins(container, WAL_START);
    return this.#wals.get(container) as WalHistory;
  }
}
