import { type Block, decodeBlock, type Slice } from "@tributary/common/format/block";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { MalformedBytes } from "@tributary/common/format/varint";
import { hexToBytes, type Id, type SegmentId, STREAM_ID_BYTES } from "@tributary/common/names";
import type { WalPosition } from "./counting.ts";
import { NONCE_BYTES } from "./nonces.ts";
import { decodeOrigin, encodeOrigin, type StreamOrigin } from "./stream-origin.ts";
import { asArray, asBoolean, asCount, asCounts, asHex, asSegments, asText, flattenSegments } from "./wire.ts";

/** What a frame does to a container's state. Decisions are in it, so that replay applies and never decides. */
export type Operation = RegisterStream | AppendBlock | CloseStream | DeleteStream | SetProducer | SetStreamSeq | Tiered | TakeOver;

interface RegisterStream {
  readonly type: "register-stream";
  readonly streamId: Id;
  readonly segments: readonly SegmentId[];
  readonly contentType: string;
  readonly closed: boolean;
  /** undefined where it was written before registrations told. */
  readonly origin?: StreamOrigin | undefined;
}

/** Slices of the block that are not in `decisions` were refused or known: their events are not part of any stream. */
export interface AppendBlock {
  readonly type: "append-block";
  readonly block: Block;
  /** Written by the container itself: not entered in the writer tables, since nobody sends it twice. */
  readonly own: boolean;
  readonly decisions: readonly SliceDecision[];
}

export interface SliceDecision {
  /** Position of the slice in the block. */
  readonly slice: number;
  /** Leading events of the slice that were known already (of a gap: leading numbers). */
  readonly skip: number;
  /** Segment ordinal and chain ordinal of the first event that is not skipped. */
  readonly ordinal: number;
  readonly chain: number;
}

interface CloseStream {
  readonly type: "close-stream";
  readonly streamId: Id;
}

interface DeleteStream {
  readonly type: "delete-stream";
  readonly streamId: Id;
}

interface SetProducer {
  readonly type: "set-producer";
  readonly streamId: Id;
  readonly producerId: string;
  readonly epoch: number;
  readonly seq: number;
}

interface SetStreamSeq {
  readonly type: "set-stream-seq";
  readonly streamId: Id;
  readonly streamSeq: string;
}

interface Tiered {
  readonly type: "tiered";
  readonly checkpoint: Checkpoint;
}

/** In each fence but those that were written before there were nonces. */
interface TakeOver {
  readonly type: "take-over";
  readonly nonce: Id;
  /** No frame behind this one counts: the container goes on in the next generation. */
  readonly endsGeneration: boolean;
}

/** An object of the tier. Its name follows from container and these numbers: see tier/object-names.ts. */
export interface ObjectRef {
  readonly epoch: number;
  readonly attempt: number;
  /** WAL sequence through which it holds everything that its predecessors do not. */
  readonly through: number;
  readonly bytes: number;
  /** Bytes at its end that hold the footer and the trailer. */
  readonly footerBytes: number;
}

/** Everything through `position` is in the tier: the snapshot, then what the footers of `objects` add, gives the state there. */
export interface Checkpoint {
  readonly position: WalPosition;
  readonly snapshot: ObjectRef | undefined;
  /** Objects since the snapshot, oldest first. */
  readonly objects: readonly ObjectRef[];
}

/** Persisted: append only. 16 to 31 are reserved for transactions. */
const OPERATION = {
  registerStream: 1,
  appendBlock: 2,
  closeStream: 3,
  deleteStream: 4,
  setProducer: 5,
  setStreamSeq: 6,
  tiered: 7,
} as const;

const HASH_BYTES = 16;

/**
 * Operations of a frame (version 1): CBOR map { b: lengths of the blocks, o: rows }, and the blocks as they are. A row is
 *   [1, streamId, [generation, epoch, number]*, contentType, closed, name, createdAtMs, containers*]   the last three may be missing
 *   [2, block, own, [slice, skip, ordinal, chain]*]
 *   [3, streamId]   [4, streamId]
 *   [5, streamId, producerId, epoch, seq]
 *   [6, streamId, streamSeq]
 *   [7, [seq, epoch, attempt, number], hash, snapshot, objects]   snapshot and objects: [epoch, attempt, through, bytes, footerBytes]*
 * Ids are byte strings; lists marked * are flat; containers: [container, of how many segments on]*. A fence also has n, the nonce of the
 * take-over, and x: true if it ends the generation.
 */
export function encodeOperations(operations: readonly Operation[]): { header: Uint8Array; blocks: Uint8Array[] } {
  const blocks: Uint8Array[] = [];
  const rows: unknown[][] = [];
  let takeOver = {};
  for (const operation of operations) {
    if (operation.type === "take-over") {
      takeOver = { n: hexToBytes(operation.nonce), ...(operation.endsGeneration ? { x: true } : {}) };
    } else rows.push(encodeRow(operation, blocks));
  }
  return { header: encodeCbor({ b: blocks.map((block) => block.length), o: rows, ...takeOver }), blocks };
}

function encodeRow(operation: Exclude<Operation, TakeOver>, blocks: Uint8Array[]): unknown[] {
  switch (operation.type) {
    case "register-stream":
      return [
        OPERATION.registerStream,
        hexToBytes(operation.streamId),
        flattenSegments(operation.segments),
        operation.contentType,
        operation.closed,
        ...encodeOrigin(operation.origin),
      ];
    case "append-block": {
      blocks.push(operation.block.bytes);
      const flat: number[] = [];
      for (const decision of operation.decisions) flat.push(decision.slice, decision.skip, decision.ordinal, decision.chain);
      return [OPERATION.appendBlock, blocks.length - 1, operation.own, flat];
    }
    case "close-stream":
      return [OPERATION.closeStream, hexToBytes(operation.streamId)];
    case "delete-stream":
      return [OPERATION.deleteStream, hexToBytes(operation.streamId)];
    case "set-producer":
      return [OPERATION.setProducer, hexToBytes(operation.streamId), operation.producerId, operation.epoch, operation.seq];
    case "set-stream-seq":
      return [OPERATION.setStreamSeq, hexToBytes(operation.streamId), operation.streamSeq];
    case "tiered": {
      const { position, snapshot, objects } = operation.checkpoint;
      return [
        OPERATION.tiered,
        [position.seq, position.epoch, position.attempt, position.number],
        hexToBytes(position.hash),
        flattenRefs(snapshot ? [snapshot] : []),
        flattenRefs(objects),
      ];
    }
  }
}

/** The inverse; blocks are views into `bytes`, which begins with them. @throws MalformedBytes, BLOCK_CORRUPT, FORMAT_UNSUPPORTED */
export function decodeOperations(header: Uint8Array, bytes: Uint8Array): Operation[] {
  const { b, o, n, x } = decodeCbor(header) as { b?: unknown; o?: unknown; n?: unknown; x?: unknown };
  const blocks: Block[] = [];
  let at = 0;
  for (const length of asCounts(b, 1)) {
    if (at + length > bytes.length) throw new MalformedBytes("a block is cut off");
    blocks.push(decodeBlock(bytes.subarray(at, at + length)));
    at += length;
  }
  if (at !== bytes.length) throw new MalformedBytes("bytes are left over behind the blocks");
  const operations = asArray(o).map((row) => decodeRow(asArray(row), blocks));
  if (n === undefined) return operations;
  const endsGeneration = x !== undefined && asBoolean(x);
  return [{ type: "take-over", nonce: asHex(n, NONCE_BYTES), endsGeneration }, ...operations];
}

function decodeRow(row: readonly unknown[], blocks: readonly Block[]): Operation {
  const streamId = () => asHex(row[1], STREAM_ID_BYTES);
  switch (row[0]) {
    case OPERATION.registerStream:
      return {
        type: "register-stream",
        streamId: streamId(),
        segments: asSegments(row[2]),
        contentType: asText(row[3]),
        closed: asBoolean(row[4]),
        origin: decodeOrigin(row.slice(5)),
      };
    case OPERATION.appendBlock: {
      const block = blocks[asCount(row[1])];
      if (!block) throw new MalformedBytes("an append names no block");
      return { type: "append-block", block, own: asBoolean(row[2]), decisions: decodeDecisions(row[3], block) };
    }
    case OPERATION.closeStream:
      return { type: "close-stream", streamId: streamId() };
    case OPERATION.deleteStream:
      return { type: "delete-stream", streamId: streamId() };
    case OPERATION.setProducer:
      return {
        type: "set-producer",
        streamId: streamId(),
        producerId: asText(row[2]),
        epoch: asCount(row[3]),
        seq: asCount(row[4]),
      };
    case OPERATION.setStreamSeq:
      return { type: "set-stream-seq", streamId: streamId(), streamSeq: asText(row[2]) };
    case OPERATION.tiered: {
      const numbers = asCounts(row[1], 4);
      const [snapshot, ...more] = decodeRefs(row[3]);
      if (numbers.length !== 4 || more.length > 0) throw new MalformedBytes("a checkpoint contradicts itself");
      const [seq, epoch, attempt, number] = numbers as [number, number, number, number];
      const position = { seq, epoch, attempt, number, hash: asHex(row[2], HASH_BYTES) };
      return { type: "tiered", checkpoint: { position, snapshot, objects: decodeRefs(row[4]) } };
    }
    default:
      throw new MalformedBytes(`operation ${String(row[0])} is unknown`);
  }
}

function decodeDecisions(value: unknown, block: Block): SliceDecision[] {
  const flat = asCounts(value, 4);
  const decisions: SliceDecision[] = [];
  for (let i = 0; i < flat.length; i += 4) {
    const decision = {
      slice: flat[i] as number,
      skip: flat[i + 1] as number,
      ordinal: flat[i + 2] as number,
      chain: flat[i + 3] as number,
    };
    const slice = block.slices.at(decision.slice);
    if (!slice) throw new MalformedBytes("a decision names no slice");
    if (decision.skip >= (slice.kind === "gap" ? slice.last - slice.first + 1 : slice.count)) {
      throw new MalformedBytes("a decision adds nothing");
    }
    decisions.push(decision);
  }
  return decisions;
}

export function flattenRefs(refs: readonly ObjectRef[]): number[] {
  return refs.flatMap((ref) => [ref.epoch, ref.attempt, ref.through, ref.bytes, ref.footerBytes]);
}

export function decodeRefs(value: unknown): ObjectRef[] {
  const flat = asCounts(value, 5);
  return Array.from({ length: flat.length / 5 }, (_, i) => {
    const [epoch, attempt, through, bytes, footerBytes] = flat.slice(i * 5, i * 5 + 5) as [number, number, number, number, number];
    return { epoch, attempt, through, bytes, footerBytes };
  });
}

/** Events that the decision of a slice adds to its stream. */
export function eventsAdded(slice: Slice, decision: SliceDecision): number {
  return slice.kind === "gap" ? 1 : slice.count - decision.skip;
}

/** What an operation adds to a frame at most, blocks apart. */
export function headerBytesMax(operation: Operation): number {
  switch (operation.type) {
    case "append-block":
      return 64 + operation.decisions.length * 32;
    case "register-stream":
      // A name has at most 257 characters, and each run of containers two numbers.
      return 512 + operation.contentType.length * 3 + operation.segments.length * 15 + (operation.origin?.containers.length ?? 0) * 10;
    case "set-producer":
      return 96 + operation.producerId.length * 3;
    case "set-stream-seq":
      return 96 + operation.streamSeq.length * 3;
    case "tiered":
      return 256 + operation.checkpoint.objects.length * 45;
    default:
      return 64;
  }
}
