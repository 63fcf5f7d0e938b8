import type { Id } from "@tributary/common/names";
import type { GapLedger } from "./gap-ledger.ts";
import { Uplink } from "./uplink.ts";
import type { UplinkFold } from "./uplink-fold.ts";

/** What a record takes in the log beside its bytes, about. */
const RECORD_OVERHEAD_BYTES = 64;
/** Bytes of records between two breaths. */
const BREATH_BYTES = 256 * 1024;

/** A drop that is not durable yet. */
export interface PlannedDrop {
  /** The freed position behind the drop. Its chains stand where they stood: the gaps are still to be sent. */
  readonly freed: UplinkFold;
  readonly gaps: GapLedger;
  readonly eventsDropped: number;
}

/** Reads the oldest records that are not freed, until they make up `bytes`, and turns their events into gaps (rule W6). */
export async function planDrop(uplink: Uplink, bytes: number, end: number): Promise<PlannedDrop> {
  const freed = uplink.freed.clone();
  const gaps = uplink.gaps.clone();
  const cursor = uplink.cursorFrom(freed.position + 1);
  let collected = 0;
  let passedDamage = false;
  let nextBreath = BREATH_BYTES;
  // What nobody will ask for at the core needs no gap there.
  const cut = (localId: Id) => {
    const destination = uplink.destination(localId);
    if (destination.kind === "skip") return undefined;
    return destination.kind === "unresolved" ? 0 : destination.mapping.segments;
  };
  while (collected < bytes) {
    const entry = await cursor.peek(end);
    if (!entry) break;
    const { missing, cursorMoves } = Uplink.moves(freed, entry, passedDamage);
    for (const numbers of missing) if (cut(numbers.localId) !== undefined) gaps.addMissing(numbers);
    for (const move of cursorMoves) freed.moveCursor(move);
    if (entry.kind === "damaged") passedDamage = true;
    if (entry.kind === "checkpoint") passedDamage = false;
    if (entry.kind === "commit") {
      gaps.addCommit(entry, "quota", cut);
      freed.events = entry.eventsBefore + entry.events;
    }
    freed.position = entry.seq;
    collected += entry.bytes + RECORD_OVERHEAD_BYTES;
    cursor.advance();
    if (collected < nextBreath) continue;
    nextBreath = collected + BREATH_BYTES;
    await uplink.breathe();
  }
  return { freed, gaps, eventsDropped: freed.events - uplink.freed.events };
}
