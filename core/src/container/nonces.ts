import { LIMITS } from "@tributary/common/limits";
import type { Id } from "@tributary/common/names";

/**
 * Under which take-over each event of a stream was appended (rule L6). Each owner draws a nonce when it takes a container over; its
 * fences carry it. If a log goes back, other events take the places of those that were lost, but under another nonce: so (segment,
 * nonce, ordinal) never names two events, and a position that carries the nonce before it is never taken for one on another history.
 */
export interface NonceRange {
  readonly nonce: Id;
  /** Chain ordinal of the first event appended under it; the range ends where the next one begins. */
  readonly from: number;
}

export const NONCE_BYTES = 8;
/** Stands for what was written before there were nonces, … */
export const NO_NONCE: Id = "0".repeat(2 * NONCE_BYTES);
/** … and for ranges that were forgotten because there were too many. */
const FORGOTTEN: Id = "f".repeat(2 * NONCE_BYTES);
const FORGOTTEN_AT_ONCE = 2;

/** What a position tells of the ranges that lead to it: that of the event before it, then those before, newest first. */
export interface Position {
  readonly chain: number;
  readonly ancestry: readonly NonceRange[];
}

/** Ranges that an offset names. If the ranges of more take-overs were lost with their events, the reader begins anew. */
const ANCESTRY_MAX = 6;

/** Notes that the event at `chain`, the next one of the stream, is appended under the nonce. */
export function noteNonce(ranges: NonceRange[], nonce: Id, chain: number): void {
  if (ranges.at(-1)?.nonce === nonce) return;
  // Ranges cover the stream from its beginning.
  if (ranges.length === 0 && chain > 0) ranges.push({ nonce: NO_NONCE, from: 0 });
  ranges.push({ nonce, from: chain });
  if (ranges.length > LIMITS.nonceRangesPerStreamMax) ranges.splice(0, FORGOTTEN_AT_ONCE, { nonce: FORGOTTEN, from: 0 });
}

/** The nonce under which the event at `chain` was appended. */
export function nonceAt(ranges: readonly NonceRange[], chain: number): Id {
  return ranges[indexAt(ranges, chain)]?.nonce ?? NO_NONCE;
}

/** The position behind the event at `chain - 1`. */
export function positionAt(ranges: readonly NonceRange[], chain: number): Position {
  if (chain === 0) return { chain, ancestry: [] };
  const newest = indexAt(ranges, chain - 1);
  return { chain, ancestry: ranges.slice(Math.max(0, newest + 1 - ANCESTRY_MAX), newest + 1).reverse() };
}

/**
 * How far the history that led to the position is this stream's as well: its own chain ordinal if all of it is. Never too far: where
 * nothing of the position's ancestry is known here, it is the beginning.
 */
export function commonChain(position: Position, ranges: readonly NonceRange[], end: number): number {
  const { chain, ancestry } = position;
  // Of positions that were given before there were nonces nothing else is known.
  if (ancestry.length === 0) return Math.min(chain, end);
  let upper = chain;
  for (const { nonce, from } of ancestry) {
    const known = ranges.findIndex((range) => range.nonce === nonce);
    if (known >= 0) return Math.min(upper, ranges[known + 1]?.from ?? end);
    if (ranges[0]?.nonce === FORGOTTEN && upper <= (ranges[1]?.from ?? end)) return upper;
    upper = from;
  }
  return 0;
}

function indexAt(ranges: readonly NonceRange[], chain: number): number {
  let low = 0;
  let high = ranges.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((ranges[middle] as NonceRange).from <= chain) low = middle;
    else high = middle - 1;
  }
  return low;
}
