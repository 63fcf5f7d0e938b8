import { LIMITS } from "../limits.ts";
import type { StreamName } from "../names.ts";
import type { ReadEvent, StreamInfo, StreamService } from "../stream-service.ts";
import type { PageFormat } from "./page-format.ts";
import type { Plane } from "./plane.ts";

/** Everything that a read needs. */
export interface LiveRead {
  readonly plane: Plane;
  readonly name: StreamName;
  readonly request: Request;
  readonly closing: AbortSignal | undefined;
  readonly info: StreamInfo;
  readonly format: PageFormat;
  readonly offset: string;
  readonly cursor: string | undefined;
}

/** A page as the reader sees it: without gap records where the format has no room for them. */
export interface VisiblePage {
  readonly events: readonly ReadEvent[];
  readonly nextOffset: string;
  readonly upToDate: boolean;
  readonly closed: boolean;
}

/** The next page with something to see; an empty one only at the end. */
export async function readVisible(streams: StreamService, name: StreamName, offset: string, format: PageFormat): Promise<VisiblePage> {
  let from = offset;
  for (;;) {
    const page = await streams.read(name, { offset: from, eventsMax: LIMITS.readPageEventsMax, bytesMax: LIMITS.readPageBytesMax });
    const hidesGaps = !format.showsGaps && page.events.some((event) => event.gap);
    const events = hidesGaps ? page.events.filter((event) => !event.gap) : page.events;
    if (events.length > 0 || page.upToDate || page.nextOffset === from) return { ...page, events };
    from = page.nextOffset;
  }
}
