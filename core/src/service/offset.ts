import { assert } from "@tributary/common/assert";
import { TributaryError } from "@tributary/common/errors";
import type { Id } from "@tributary/common/names";

/**
 * Offsets of the core. The chain is the one order in which a container appended a stream's events, so one number stands for a
 * cut through all segments.
 *
 *   offset => "c1_" chain "_" tag
 *     chain => 16 decimal digits: chain ordinal of the next event to read; zero-padded, so that offsets sort as text
 *     tag   => first 8 hex digits of the stream id: tells the offsets of a deleted and re-created name apart
 */
const CHAIN_DIGITS = 16;
const TAG_CHARS = 8;
const OFFSET_PATTERN = /^c1_(\d{16})_([0-9a-f]{8})$/;
const GATEWAY_PREFIX = /^g\d+_/;

export const OFFSET_BEGIN = "-1";
export const OFFSET_NOW = "now";

export function formatOffset(streamId: Id, chain: number): string {
  assert(Number.isSafeInteger(chain) && chain >= 0, "a chain ordinal is a natural number");
  return `c1_${String(chain).padStart(CHAIN_DIGITS, "0")}_${streamId.slice(0, TAG_CHARS)}`;
}

/** The chain ordinal of an offset of this stream. @throws OFFSET_FOREIGN, OFFSET_INVALID */
export function parseOffset(streamId: Id, offset: string): number {
  const match = OFFSET_PATTERN.exec(offset);
  if (!match) {
    if (GATEWAY_PREFIX.test(offset)) throw new TributaryError("OFFSET_FOREIGN", "the offset was given by a gateway");
    throw new TributaryError("OFFSET_INVALID", `'${offset.slice(0, 64)}' is not an offset`);
  }
  const chain = Number(match[1]);
  if (!Number.isSafeInteger(chain)) throw new TributaryError("OFFSET_INVALID", "the offset lies beyond every number");
  if (match[2] !== streamId.slice(0, TAG_CHARS)) {
    throw new TributaryError("OFFSET_FOREIGN", "the offset belongs to another stream, perhaps to one that had this name before");
  }
  return chain;
}
