import { openChunk, type Slice } from "@tributary/common/format/block";
import { payloadOf } from "@tributary/common/format/event-columns";
import { formatSegmentId } from "@tributary/common/names";
import { decodeFrame, frameHash } from "@tributary/core/container/wal-frame";
import { digestOf, type Ledger, type Seen } from "./ledger.ts";

interface StoredBlock {
  readonly bytes: Uint8Array;
  readonly ids: readonly number[];
  /** Names of undamaged objects that hold it. */
  readonly objects: Set<string>;
}

/** The log of one container as the judge sees it: every record that landed, in order. */
class WalHistory {
  epoch = 0;
  attempt = 0;
  hash = "0".repeat(32);
  /** Blocks of counting frames, and how far the newest counting checkpoint reaches. */
  readonly blocks: Map<number, StoredBlock[]> = new Map();
  checkpointedThrough = 0;
  readonly unstored: Set<StoredBlock> = new Set();
}

/**
 * Watches the write-ahead logs and the lake from outside and says what must be readable: the events of the frames that count by
 * rule C2, in the order of the log. It shares the codec with the implementation, and no decision.
 */
export class LakeWatch {
  readonly #ledger: Ledger;
  readonly #wals = new Map<number, WalHistory>();
  /** Records by stream, segment and ordinal, as the counting frames have them. */
  readonly #records = new Map<string, { readonly digest: number; readonly landedMs: number }>();
  readonly #nowMs: () => number;
  readonly committed: Set<number> = new Set();
  readonly tiered: Set<number> = new Set();
  frames = 0;
  voidFrames = 0;

  constructor(ledger: Ledger, nowMs: () => number) {
    this.#ledger = ledger;
    this.#nowMs = nowMs;
  }

  landed(container: number, seq: number, data: Uint8Array): void {
    const wal = this.#wal(container);
    const frame = decodeFrame(data);
    this.frames++;
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
          this.#add(slice.streamId, { ...common, ordinal: decision.ordinal, number: slice.last, key: "", gap, id: -1 });
          continue;
        }
        const events = openChunk(operation.block, slice.chunk);
        for (let i = decision.skip; i < slice.count; i++) {
          const row = slice.start + i;
          const id = this.#ledger.identify(payloadOf(events, row));
          const key = events.keys[events.keyIndex[row] as number] as string;
          ids.push(id);
          this.committed.add(id);
          const number = events.number[row] as number;
          this.#add(slice.streamId, { ...common, ordinal: decision.ordinal + i - decision.skip, number, key, gap: undefined, id });
        }
      }
      const block: StoredBlock = { bytes: operation.block.bytes.slice(), ids, objects: new Set() };
      blocks.push(block);
      wal.unstored.add(block);
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

  /** Invariant 7: what goes is in the lake, and a checkpoint that says so is durable. */
  truncating(container: number, first: number, throughSeq: number): void {
    const wal = this.#wal(container);
    if (wal.checkpointedThrough < throughSeq) {
      this.#ledger.violate(
        7,
        "truncated early",
        `WAL ${container} loses records through ${throughSeq}, its checkpoint reaches ${wal.checkpointedThrough}`,
      );
    }
    for (let seq = first; seq <= throughSeq; seq++) {
      for (const block of wal.blocks.get(seq) ?? []) {
        if (block.objects.size === 0) {
          this.#ledger.violate(
            7,
            "truncated early",
            `WAL ${container} record ${seq} goes, and its events (${block.ids.slice(0, 3)} …) are not in the lake`,
          );
        }
      }
      wal.blocks.delete(seq);
    }
  }

  /** Invariants 3 and 5: nothing is read that no counting frame holds, at the place where it holds it. */
  judgeRead(seen: Seen, reader: string): void {
    const record = this.#records.get(`${seen.streamId} ${seen.segment} ${seen.ordinal}`);
    if (!record) {
      this.#ledger.violate(
        5,
        "read what is not durable",
        `${reader} read event ${seen.id} at ${seen.stream} ${seen.segment} ${seen.ordinal}, which no counting frame holds`,
      );
    } else if (record.digest !== seen.digest) {
      this.#ledger.violate(
        5,
        "read what does not count",
        `${reader} read event ${seen.id} at ${seen.stream} ${seen.segment} ${seen.ordinal}; the counting frames hold another record there`,
      );
    }
  }

  /** Records that a complete read of the stream must give. */
  countOf(streamId: string): number {
    let count = 0;
    for (const key of this.#records.keys()) if (key.startsWith(`${streamId} `)) count++;
    return count;
  }

  #add(streamId: string, record: Omit<Seen, "digest" | "stream" | "streamId">): void {
    this.#records.set(`${streamId} ${record.segment} ${record.ordinal}`, { digest: digestOf(record), landedMs: this.#nowMs() });
  }

  #wal(container: number): WalHistory {
    let wal = this.#wals.get(container);
    if (!wal) {
      wal = new WalHistory();
      this.#wals.set(container, wal);
    }
    return wal;
  }
}
