import { TributaryError } from "@tributary/common/errors";
import type { Id } from "@tributary/common/names";

/**
 * Offsets of a gateway: "g2_" ordinal "_" tag "_" branch. The ordinal is the event's place in the local order, 16 decimal digits, so
 * that offsets sort as text; the tag is 8 hex digits of the stream's local id and 8 of the writer's, so that an offset of another
 * stream or gateway is told apart; the branch is the first 8 hex digits of the incarnation that wrote the event before the offset.
 * A log that is copied or set back goes on under other incarnations, so an offset from beyond the place where two logs part is not
 * taken for one of the other. "g1" had no branch.
 */
const PATTERN = /^g2_(\d{16})_([0-9a-f]{16})_([0-9a-f]{8})$/;
const BRANCH_CHARS = 8;
/** Stands for the branch where nothing lies before an offset, or nothing tells who wrote it. */
const NO_BRANCH = "0".repeat(BRANCH_CHARS);
/** Offsets of any Tributary server begin with a letter, a version and "_". */
const FAMILY = /^[a-z]\d+_/;

export interface LocalOffset {
  readonly ordinal: number;
  readonly branch: string;
}

const BEGINNING: LocalOffset = { ordinal: 0, branch: NO_BRANCH };

/** `incarnation`: of the event before the offset; undefined if there is none, or none is known. */
export function branchOf(incarnation: Id | undefined): string {
  return incarnation?.slice(0, BRANCH_CHARS) ?? NO_BRANCH;
}

export function formatOffset({ ordinal, branch }: LocalOffset, streamId: Id, writer: Id): string {
  return `g2_${String(ordinal).padStart(16, "0")}_${streamId.slice(0, 8)}${writer.slice(0, 8)}_${branch}`;
}

/** "now" for the end. "-1" is ordinal 0. @throws OFFSET_INVALID, OFFSET_FOREIGN */
export function parseOffset(offset: string, streamId: Id, writer: Id): LocalOffset | "now" {
  if (offset === "-1") return BEGINNING;
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
  return { ordinal, branch: match[3] as string };
}
