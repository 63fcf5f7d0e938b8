import { hasCode } from "@tributary/common/errors";
import { type Block, type EventSlice, type GapSlice, openChunk, type Slice } from "@tributary/common/format/block";
import { type EventColumns, payloadOf } from "@tributary/common/format/event-columns";
import { formatSegmentId, type Id } from "@tributary/common/names";
import type { ReadEvent } from "@tributary/common/stream-service";
import { Lru } from "./lru.ts";
import type { Extent } from "./unflushed.ts";

/** Numbers and offsets that an open chunk holds beside its raw bytes, an event. */
const ROW_BYTES = 28;

export interface PageBounds {
  readonly eventsMax: number;
  readonly bytesMax: number;
}

/** Makes events out of extents, with the chunks opened last kept open: readers of a tail share them. */
export class EventReader {
  readonly #chunks: Lru<EventColumns>;
  readonly #blockNumbers = new WeakMap<Block, number>();
  #blocksSeen = 0;

  constructor(cacheBytesMax: number) {
    this.#chunks = new Lru(cacheBytesMax);
  }

  /** Appends events of the extent from `chain` on to `page`, at least one. Returns the payload bytes added. */
  read(extent: Extent, nonce: Id, chain: number, bounds: PageBounds, page: ReadEvent[]): number {
    const { writer, incarnation, lane } = extent.block;
    const slice = extent.block.slices.at(extent.slice) as Slice;
    const common = { segment: formatSegmentId(extent.segment), nonce, writer, incarnation, lane };
    if (slice.kind === "gap") {
      page.push({ ...gapEvent(slice, extent), ...common });
      return 0;
    }
    const events = this.#open(extent.block, slice);
    let bytes = 0;
    for (let i = chain - extent.chain; i < extent.count && page.length < bounds.eventsMax; i++) {
      const ordinal = extent.ordinal + i;
      if (!events) {
        const number = i === extent.count - 1 ? slice.last : slice.first + extent.skip + i;
        const gap = { first: number, count: 1, reason: "corrupt" } as const;
        page.push({ key: "", timeMs: slice.timeMinMs, ...common, ordinal, number, data: new Uint8Array(0), gap });
        continue;
      }
      const row = slice.start + extent.skip + i;
      const data = payloadOf(events, row);
      if (page.length > 0 && bytes + data.length > bounds.bytesMax) break;
      bytes += data.length;
      page.push({
        key: events.keys[events.keyIndex[row] as number] as string,
        timeMs: events.timeMs[row] as number,
        ...common,
        ordinal,
        number: events.number[row] as number,
        data,
      });
    }
    return bytes;
  }

  /**
   * undefined if the chunk cannot be read although its block's checksum holds: then its writer made it so, and it will never be
   * readable. Its events are given as gap records, so that they neither vanish silently nor bar what lies behind them.
   */
  #open(block: Block, slice: EventSlice): EventColumns | undefined {
    let number = this.#blockNumbers.get(block);
    if (number === undefined) {
      number = this.#blocksSeen++;
      this.#blockNumbers.set(block, number);
    }
    const key = `${number} ${slice.chunk}`;
    const cached = this.#chunks.get(key);
    if (cached) return cached;
    try {
      const events = openChunk(block, slice.chunk);
      this.#chunks.put(key, events, events.payload.length + events.count * ROW_BYTES);
      return events;
    } catch (error) {
      if (hasCode(error, "BLOCK_CORRUPT")) return undefined;
      throw error;
    }
  }
}

function gapEvent(slice: GapSlice, extent: Extent) {
  const first = slice.first + extent.skip;
  return {
    key: "",
    timeMs: slice.timeMaxMs,
    ordinal: extent.ordinal,
    number: slice.last,
    data: new Uint8Array(0),
    gap: { first, count: Math.min(slice.count, slice.last - first + 1), reason: slice.reason },
  };
}
