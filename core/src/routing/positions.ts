import { fieldsOf, hex, list, natural } from "@tributary/common/format/fields";
import { LIMITS } from "@tributary/common/limits";
import { NONCE_BYTES, type NonceRange, type Position } from "../container/nonces.ts";

// Positions and take-overs as core nodes tell each other. All throw INVALID_REQUEST.

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
