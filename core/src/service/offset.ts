import { assert } from "@tributary/common/assert";
import { TributaryError } from "@tributary/common/errors";
import type { Id } from "@tributary/common/names";
import { commonChain, type NonceRange, type Position, positionAt } from "../container/nonces.ts";

/**
 * Offsets of the core. The chain is the one order in which a container appended a stream's events, so one number stands for a
 * cut through all segments.
 *
 *   offset   => "c2_" chain "_" tag ancestor*       ("c1_" chain "_" tag before there were nonces)
 *     chain    => 16 decimal digits: chain ordinal of the next event to read; zero-padded, so that offsets sort as text
 *     tag      => first 8 hex digits of the stream id: tells the offsets of a deleted and re-created name apart
 *     ancestor => "_" nonce from: newest first, at most 6; the take-overs under which the events before the offset were appended
 *       nonce    => 16 hex digits
 *       from     => base 36: chain ordinal of the stream's first event under it
 */
const CHAIN_DIGITS = 16;
const TAG_CHARS = 8;
const OFFSET_PATTERN = /^c(?:1_(\d{16})_([0-9a-f]{8})|2_(\d{16})_([0-9a-f]{8})((?:_[0-9a-f]{16}(?:0|[1-9a-z][0-9a-z]{0,10})){0,6}))$/;
const NONCE_CHARS = 16;
const FROM_RADIX = 36;
const GATEWAY_PREFIX = /^g\d+_/;

export const OFFSET_BEGIN = "-1";
export const OFFSET_NOW = "now";

/** The offset at `chain` of a stream with these ranges of take-overs. */
export function formatOffset(streamId: Id, chain: number, nonces: readonly NonceRange[]): string {
  return formatPosition(streamId, positionAt(nonces, chain));
}

export function formatPosition(streamId: Id, { chain, ancestry }: Position): string {
  assert(Number.isSafeInteger(chain) && chain >= 0, "a chain ordinal is a natural number");
  const ancestors = ancestry.map(({ nonce, from }) => `_${nonce}${from.toString(FROM_RADIX)}`).join("");
  return `c2_${String(chain).padStart(CHAIN_DIGITS, "0")}_${streamId.slice(0, TAG_CHARS)}${ancestors}`;
}

/** What an offset of this stream says. @throws OFFSET_FOREIGN, OFFSET_INVALID */
export function parseOffset(streamId: Id, offset: string): Position {
  const match = OFFSET_PATTERN.exec(offset);
  if (!match) {
    if (GATEWAY_PREFIX.test(offset)) throw new TributaryError("OFFSET_FOREIGN", "the offset was given by a gateway");
    throw invalid(`'${offset.slice(0, 64)}' is not an offset`);
  }
  const [, digits1, tag1, digits2, tag2, rest = ""] = match;
  const tag = tag1 ?? tag2;
  const chain = Number(digits1 ?? digits2);
  if (!Number.isSafeInteger(chain)) throw invalid("the offset lies beyond every number");
  const ancestry = rest
    .split("_")
    .slice(1)
    .map((text) => ({ nonce: text.slice(0, NONCE_CHARS), from: Number.parseInt(text.slice(NONCE_CHARS), FROM_RADIX) }));
  let before = chain;
  for (const { from } of ancestry) {
    if (from >= before) throw invalid("the offset contradicts itself");
    before = from;
  }
  if (tag !== streamId.slice(0, TAG_CHARS)) {
    throw new TributaryError("OFFSET_FOREIGN", "the offset belongs to another stream, perhaps to one that had this name before");
  }
  return { chain, ancestry };
}

/** What a stream says of itself wherever it is read. */
export interface OffsetBounds {
  readonly firstChain: number;
  readonly nextChain: number;
  readonly nonces: readonly NonceRange[];
}

/**
 * The position is one on the stream's own history.
 * @throws OFFSET_UNKNOWN with details nextOffset: how far the histories are the same; OFFSET_GONE with details firstOffset
 */
export function checkPosition(streamId: Id, position: Position, { firstChain, nextChain, nonces }: OffsetBounds): void {
  const common = Math.max(firstChain, commonChain(position, nonces, nextChain));
  if (position.chain > common) {
    const nextOffset = formatOffset(streamId, common, nonces);
    throw new TributaryError("OFFSET_UNKNOWN", `the offset lies on events that are lost; what is known goes to ${nextOffset}`, {
      nextOffset,
    });
  }
  if (position.chain < firstChain) {
    const firstOffset = formatOffset(streamId, firstChain, nonces);
    throw new TributaryError("OFFSET_GONE", `the stream begins at ${firstOffset} now`, { firstOffset });
  }
}

function invalid(detail: string): TributaryError {
  return new TributaryError("OFFSET_INVALID", detail);
}
