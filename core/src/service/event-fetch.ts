import { TributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import type { StreamService } from "@tributary/common/stream-service";
import type { FetchAnswer, FetchRequest } from "@tributary/common/uplink-protocol";

const PAGE_EVENTS_MAX = 4_096;
/** Names of fields, ids and numbers of one event in CBOR. */
const EVENT_OVERHEAD_BYTES = 128;

/**
 * Reads back a writer's own events. Each call walks through a bounded number of pages, so that a writer with few events in a
 * long stream gets an empty answer and an offset to go on from, rather than holding up everybody else.
 * @throws STREAM_GONE, and as StreamService.read
 */
export async function fetchEvents(streams: StreamService, request: FetchRequest): Promise<FetchAnswer> {
  const bytesMax = Math.min(request.bytesMax, LIMITS.readPageBytesMax);
  const streamId = (await streams.describe(request.name)).id;
  const events: FetchAnswer["events"][number][] = [];
  const gaps: FetchAnswer["gaps"][number][] = [];
  let bytes = 0;
  let offset = request.offset;
  let upToDate = false;
  // Smaller pages than a reader's: an answer must fit into one frame with all that stands around the payloads.
  for (let pages = 0; pages < LIMITS.fetchPagesMax && bytes < bytesMax && !upToDate; pages++) {
    // Never more than what the answer may still take: an event that is read is answered.
    const page = await streams.read(request.name, { offset, eventsMax: PAGE_EVENTS_MAX, bytesMax: bytesMax - bytes });
    for (const event of page.events) {
      if (event.writer !== request.writer) continue;
      const { key, timeMs, incarnation, lane, number, data, gap } = event;
      if (gap) gaps.push({ incarnation, lane, first: gap.first, last: number, count: gap.count, reason: gap.reason });
      else events.push({ key, timeMs, incarnation, lane, number, data });
      bytes += data.length + key.length + EVENT_OVERHEAD_BYTES;
    }
    offset = page.nextOffset;
    upToDate = page.upToDate;
  }
  // Ids do not come back: the same one before and after is that of everything between.
  if ((await streams.describe(request.name)).id !== streamId) {
    throw new TributaryError("STREAM_GONE", "the stream was replaced by another of its name while it was read");
  }
  return { streamId, events, gaps, nextOffset: offset, upToDate };
}
