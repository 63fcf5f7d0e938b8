import { TributaryError } from "@tributary/common/errors";
import type { Id } from "@tributary/common/names";

/**
 * Offsets of a gateway: "g1_" ordinal "_" tag. The ordinal is the event's place in the local order, 16 decimal digits, so that
 * offsets sort as text; the tag is 8 hex digits of the stream's local id and 8 of the writer's, so that an offset of another
 * stream or gateway is told apart.
 */
const PATTERN = /^g1_(\d{16})_([0-9a-f]{16})$/;
/** Offsets of any Tributary server begin with a letter, a version and "_". */
const FAMILY = /^[a-z]\d+_/;

export function formatOffset(ordinal: number, streamId: Id, writer: Id): string {
  return `g1_${String(ordinal).padStart(16, "0")}_${streamId.slice(0, 8)}${writer.slice(0, 8)}`;
}

/** The ordinal; "now" for the end. "-1" is ordinal 0. @throws OFFSET_INVALID, OFFSET_FOREIGN */
export function parseOffset(offset: string, streamId: Id, writer: Id): number | "now" {
  if (offset === "-1") return 0;
  if (offset === "now") return "now";
  const match = PATTERN.exec(offset);
  if (!match) {
    if (FAMILY.test(offset)) throw new TributaryError("OFFSET_FOREIGN", `'${offset.slice(0, 80)}' is not an offset of this gateway`);
    throw new TributaryError("OFFSET_INVALID", `'${offset.slice(0, 80)}' is not an offset`);
  }
  if (match[2] !== streamId.slice(0, 8) + writer.slice(0, 8)) {
    throw new TributaryError("OFFSET_FOREIGN", "the offset belongs to another stream or another gateway");
  }
  const ordinal = Number(match[1]);
  if (!Number.isSafeInteger(ordinal)) throw new TributaryError("OFFSET_INVALID", "the offset lies beyond every stream");
  return ordinal;
}
