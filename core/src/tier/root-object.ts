import { encodeCbor } from "@tributary/common/format/cbor";
import { MalformedBytes } from "@tributary/common/format/varint";
import { hexToBytes, type Id, type SegmentId } from "@tributary/common/names";
import { type Checkpoint, decodeRefs, flattenRefs } from "../container/operations.ts";
import type { ContainerState } from "../container/state.ts";
import { asCount, asText } from "../container/wire.ts";
import { Numbering } from "./numbering.ts";
import { concatHex, emptyColumns, readColumns, readPosition, splitHex } from "./tier-footer.ts";
import { encodeFooterOnly, OBJECT_KIND } from "./tier-object.ts";

/** By what it was found that a log went back: said by people, told apart by nobody. */
export type GoneBackReason = "lake-ahead" | "log-lost" | "log-damaged" | "generation-ended";
const REASONS: readonly string[] = ["lake-ahead", "log-lost", "log-damaged", "generation-ended"] satisfies GoneBackReason[];

/** Events of a stream that are known to have been there and are lost: chain ordinals [from, to). There may be more. */
export interface KnownLoss {
  readonly streamId: Id;
  readonly from: number;
  readonly to: number;
}

/**
 * From what a generation of a container begins (rules L2, L5). Whoever puts it first decides; nothing of the generation before
 * counts beyond it.
 *
 *   c, g, e      container, generation, epoch of the owner who raised it
 *   p, h, a, o   the state that it begins with: a checkpoint of the generation before: position, its hash, snapshot (none or one), objects
 *   t            ms since 1970
 *   y            why: see GoneBackReason
 *   s            stream ids, 16 bytes each
 *   x            where the segments end that are sealed with it: s stream, g/e/n id, l length
 *   l            what is known to be lost: s stream, f from, t to: chain ordinals
 */
export interface Root {
  readonly container: number;
  readonly generation: number;
  readonly epoch: number;
  readonly base: Checkpoint;
  readonly raisedAtMs: number;
  readonly reason: GoneBackReason;
  readonly ends: readonly { readonly streamId: Id; readonly segment: SegmentId; readonly length: number }[];
  readonly losses: readonly KnownLoss[];
}

const END_COLUMNS = ["s", "g", "e", "n", "l"] as const;
const LOSS_COLUMNS = ["s", "f", "t"] as const;

export function segmentEnds(state: ContainerState): Root["ends"] {
  return [...state.streams.values()].flatMap((stream) =>
    stream.segments.map(({ id, length }) => ({ streamId: stream.id, segment: id, length })),
  );
}

export function encodeRoot(root: Root): Uint8Array {
  const { position, snapshot, objects } = root.base;
  const streams = new Numbering();
  const x = emptyColumns(END_COLUMNS);
  const l = emptyColumns(LOSS_COLUMNS);
  for (const { streamId, segment, length } of root.ends) {
    x.s.push(streams.of(streamId));
    x.g.push(segment.generation);
    x.e.push(segment.epoch);
    x.n.push(segment.number);
    x.l.push(length);
  }
  for (const { streamId, from, to } of root.losses) {
    l.s.push(streams.of(streamId));
    l.f.push(from);
    l.t.push(to);
  }
  const record = {
    c: root.container,
    g: root.generation,
    e: root.epoch,
    p: [position.seq, position.epoch, position.attempt, position.number],
    h: hexToBytes(position.hash),
    a: flattenRefs(snapshot ? [snapshot] : []),
    o: flattenRefs(objects),
    t: root.raisedAtMs,
    y: root.reason,
    s: concatHex(streams.names()),
    x,
    l,
  };
  return encodeFooterOnly(OBJECT_KIND.root, encodeCbor(record)).bytes;
}

/** @throws MalformedBytes */
export function readRoot(value: unknown): Root {
  const record = value as Record<string, unknown>;
  const ids = splitHex(record["s"]);
  const stream = (position: number): Id => {
    const id = ids[position];
    if (id === undefined) throw new MalformedBytes("a root names no stream");
    return id;
  };
  const [snapshot, ...more] = decodeRefs(record["a"]);
  if (more.length > 0) throw new MalformedBytes("a root contradicts itself");
  const reason = asText(record["y"]);
  if (!isReason(reason)) throw new MalformedBytes("a root gives no reason");
  const x = readColumns(record["x"], END_COLUMNS);
  const l = readColumns(record["l"], LOSS_COLUMNS);
  return {
    container: asCount(record["c"]),
    generation: asCount(record["g"]),
    epoch: asCount(record["e"]),
    base: { position: readPosition(record["p"], record["h"]), snapshot, objects: decodeRefs(record["o"]) },
    raisedAtMs: asCount(record["t"]),
    reason,
    ends: x.s.map((position, i) => ({
      streamId: stream(position),
      segment: { generation: x.g[i] as number, epoch: x.e[i] as number, number: x.n[i] as number },
      length: x.l[i] as number,
    })),
    losses: l.s.map((position, i) => ({ streamId: stream(position), from: l.f[i] as number, to: l.t[i] as number })),
  };
}

function isReason(text: string): text is GoneBackReason {
  return REASONS.includes(text);
}
