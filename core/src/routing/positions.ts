import { fieldsOf, hex, invalid, list, natural } from "@tributary/common/format/fields";
import { LIMITS } from "@tributary/common/limits";
import { READ_LEVELS, type ReadLevel } from "@tributary/common/stream-service";
import { NONCE_BYTES, type NonceRange, type Position } from "../container/nonces.ts";

// Positions, take-overs and levels as core nodes tell each other. All throw INVALID_REQUEST.

export function positionOf(value: unknown): Position {
  const fields = fieldsOf(value, "a position");
  return { chain: natural(fields["chain"], "chain"), ancestry: nonceRanges(fields["ancestry"]) };
}

export function nonceRanges(value: unknown): NonceRange[] {
  return list(value, LIMITS.nonceRangesPerStreamMax, "take-overs").map((range) => ({
    nonce: hex(range["nonce"], NONCE_BYTES, "nonce"),
    from: natural(range["from"], "from"),
  }));
}

/** A node of an earlier version says nothing: all that it knows is what is committed. */
export function levelOf(value: unknown = "committed"): ReadLevel {
  const level = READ_LEVELS.find((known) => known === value);
  if (!level) throw invalid("unknown level of a read");
  return level;
}
