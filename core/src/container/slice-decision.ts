import { TributaryError } from "@tributary/common/errors";
import { type Block, type EventSlice, openChunk, type Slice } from "@tributary/common/format/block";
import { type EventColumns, eventHash } from "@tributary/common/format/event-columns";
import type { Id, SegmentId } from "@tributary/common/names";
import { SLICE_STATUS, type SliceStatus } from "@tributary/common/uplink-protocol";
import type { SegmentHead } from "./decided.ts";
import { writerKey } from "./state.ts";
import { NO_HASH } from "./writer-table.ts";

/** What the rules W1, W2 and W6 need to know. */
export interface WriterView {
  head(streamId: Id): { readonly chain: number; readonly closed: boolean } | undefined;
  segment(streamId: Id, segment: SegmentId): SegmentHead | undefined;
}

export type SliceVerdict =
  | { readonly append: false; readonly status: SliceStatus; readonly number: number }
  | { readonly append: true; readonly skip: number; readonly added: number; readonly ordinal: number; readonly chain: number };

const refuse = (status: SliceStatus, number: number): SliceVerdict => ({ append: false, status, number });

/**
 * Decides one slice of a gateway's block against what the container has of its writer.
 *
 * - All numbers known → accepted again, nothing appended; another event under the last known number → forked.
 * - Its previous number not reached → refused with the number that the container has; so is the first slice of an incarnation
 *   while the parent's numbers are not reached.
 * - Partly known → the known events are skipped. This alone opens a chunk; otherwise a block is taken without being unpacked.
 *
 * A slice whose previous number lies *below* what the container has is accepted: a gateway that lost a damaged record of its own
 * log no longer knows that it sent it, and refusing would hold back everything after it for ever.
 *
 * @throws BLOCK_CORRUPT if the chunk has to be opened and contradicts the index
 */
export function decideSlice(view: WriterView, block: Block, slice: Slice, key: string): SliceVerdict {
  const head = view.head(slice.streamId);
  if (!head) return refuse(SLICE_STATUS.streamGone, 0);
  const segment = view.segment(slice.streamId, slice.segment);
  if (!segment) return refuse(SLICE_STATUS.wrongContainer, 0);
  const entry = segment.writer(key);
  const last = entry?.last ?? 0;
  if (entry && slice.last <= last) {
    const forked = slice.last === last && slice.kind === "events" && entry.hash !== NO_HASH && entry.hash !== slice.lastHash;
    return refuse(forked ? SLICE_STATUS.forked : SLICE_STATUS.accepted, last);
  }
  if (!entry && slice.parent) {
    const parentLast = segment.writer(writerKey(block, slice.parent.incarnation))?.last ?? 0;
    if (parentLast < slice.parent.last) return refuse(SLICE_STATUS.parentNotReached, parentLast);
  }
  if (slice.previous > last) return refuse(SLICE_STATUS.previousNotReached, last);
  let skip = 0;
  if (slice.first <= last) {
    if (slice.kind === "gap") skip = last - slice.first + 1;
    else {
      const events = openSlice(block, slice);
      skip = knownEvents(events, slice, last);
      if (skip > 0 && entry && entry.hash !== NO_HASH) {
        const row = slice.start + skip - 1;
        if (events.number[row] === last && eventHash(events, row) !== entry.hash) return refuse(SLICE_STATUS.forked, last);
      }
    }
  }
  if (head.closed) return refuse(SLICE_STATUS.sealed, last);
  return { append: true, skip, added: slice.kind === "gap" ? 1 : slice.count - skip, ordinal: segment.length, chain: head.chain };
}

function openSlice(block: Block, slice: EventSlice): EventColumns {
  const events = openChunk(block, slice.chunk);
  const end = slice.start + slice.count;
  let before = slice.first - 1;
  for (let row = slice.start; row < end; row++) {
    const number = events.number[row] as number;
    if (number <= before) throw new TributaryError("BLOCK_CORRUPT", "block: numbers of a slice do not ascend");
    before = number;
  }
  if (events.number[slice.start] !== slice.first || before !== slice.last) {
    throw new TributaryError("BLOCK_CORRUPT", "block: a chunk has other numbers than its index says");
  }
  return events;
}

function knownEvents(events: EventColumns, slice: EventSlice, last: number): number {
  let low = 0;
  let high = slice.count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((events.number[slice.start + middle] as number) <= last) low = middle + 1;
    else high = middle;
  }
  return low;
}
