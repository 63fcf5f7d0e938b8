import { GAP_REASONS, type GapReason } from "@tributary/common/format/block";
import { readSegments } from "./change-checks.ts";
import type { GapPart, GapSnapshot, LocalGap, PendingGap } from "./gap-ledger.ts";
import {
  type Fields,
  fields,
  incarnationOfHex,
  integer,
  laneNamed,
  list,
  malformed,
  natural,
  row,
  streamIdOfHex,
  text,
} from "./meta-checks.ts";
import type { FoldSnapshot } from "./uplink-fold.ts";

// What checkpoints hold as plain objects, read strictly. All throw MalformedBytes.

export function readFold(value: unknown): FoldSnapshot {
  const fold = fields(value, "fold");
  const tail = (entry: unknown) => {
    if (entry === null) return null;
    const [incarnation, last] = row(entry, 2, "cursor");
    return [incarnationOfHex(incarnation), natural(last, "last number")] as const;
  };
  return {
    position: natural(fold["position"], "position"),
    events: natural(fold["events"], "events"),
    cursors: list(fold["cursors"], "cursors", (entry) => {
      const [id, live, backlog] = row(entry, 3, "cursor");
      return [streamIdOfHex(id), tail(live), tail(backlog)] as const;
    }),
    chains: list(fold["chains"], "chains", (entry) => {
      const [id, target, segments, tails] = row(entry, 4, "chain");
      return [streamIdOfHex(id), streamIdOfHex(target), readSegments(segments), list(tails, "tails", readChainTail)] as const;
    }),
  };
}

function readChainTail(value: unknown): readonly [string, string, number] {
  const [key, incarnation, last] = row(value, 3, "tail");
  return [text(key, "key of a tail"), incarnationOfHex(incarnation), natural(last, "last number")];
}

export function readGaps(value: unknown): GapSnapshot {
  const gaps = fields(value, "gaps");
  return {
    pending: list(gaps["pending"], "gaps", (entry) => readPendingGap(fields(entry, "gap"))),
    local: list(gaps["local"], "gaps", (entry) => {
      const [id, rows] = row(entry, 2, "gaps of a stream");
      return [streamIdOfHex(id), list(rows, "gaps of a stream", (gap) => readLocalGap(fields(gap, "gap")))] as const;
    }),
  };
}

function readPendingGap(gap: Fields): PendingGap {
  const segments = gap["segments"] === 0 ? 0 : readSegments(gap["segments"]);
  return {
    localId: streamIdOfHex(gap["localId"]),
    lane: laneNamed(gap["lane"]),
    incarnation: incarnationOfHex(gap["incarnation"]),
    reason: readReason(gap["reason"]),
    segments,
    ...readRange(gap),
    parts: list(gap["parts"], "parts of a gap", (entry): GapPart => {
      const part = fields(entry, "part of a gap");
      const segment = natural(part["segment"], "segment");
      if (segment >= segments) throw malformed("part of a gap");
      return { segment, ...readRange(part) };
    }),
    timeMinMs: integer(gap["timeMinMs"], "time"),
    timeMaxMs: integer(gap["timeMaxMs"], "time"),
    nextOrdinal: natural(gap["nextOrdinal"], "ordinal"),
  };
}

function readLocalGap(gap: Fields): LocalGap {
  const incarnation = gap["incarnation"];
  return {
    ordinal: natural(gap["ordinal"], "ordinal"),
    count: natural(gap["count"], "count"),
    lane: laneNamed(gap["lane"]),
    incarnation: incarnation === "" ? "" : incarnationOfHex(incarnation),
    first: natural(gap["first"], "first number"),
    reason: readReason(gap["reason"]),
  };
}

function readRange(range: Fields): { readonly first: number; readonly last: number; readonly count: number } {
  const [first, last, count] = [
    natural(range["first"], "first number"),
    natural(range["last"], "last number"),
    natural(range["count"], "count"),
  ];
  if (first < 1 || last < first || count < 1 || count > last - first + 1) throw malformed("gap");
  return { first, last, count };
}

function readReason(value: unknown): GapReason {
  const reason = GAP_REASONS.find((candidate) => candidate === value);
  if (!reason) throw malformed("reason of a gap");
  return reason;
}
