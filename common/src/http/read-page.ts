import { LIMITS } from "../limits.ts";
import type { StreamName } from "../names.ts";
import type { ReadEvent, ReadLevel, StreamInfo } from "../stream-service.ts";
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
  readonly level: ReadLevel | undefined;
}

/** A page as the reader sees it: without gap records where the format has no room for them. */
export interface VisiblePage {
  readonly events: readonly ReadEvent[];
  readonly nextOffset: string;
  readonly upToDate: boolean;
  readonly closed: boolean;
}

/** The next page with something to see; an empty one only at the end. */
export async function readVisible({ plane, name, format, level }: LiveRead, offset: string): Promise<VisiblePage> {
  const bounds = { eventsMax: LIMITS.readPageEventsMax, bytesMax: LIMITS.readPageBytesMax, level };
  let from = offset;
  for (;;) {
    const page = await plane.streams.read(name, { offset: from, ...bounds });
    const hidesGaps = !format.showsGaps && page.events.some((event) => event.gap);
    const events = hidesGaps ? page.events.filter((event) => !event.gap) : page.events;
    if (events.length > 0 || page.upToDate || page.nextOffset === from) return { ...page, events };
    from = page.nextOffset;
  }
}
