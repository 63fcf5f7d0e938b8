import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import type { Id } from "@tributary/common/names";
import type { Bus } from "@tributary/common/ports/bus";
import {
  type FetchAnswer,
  type FetchRequest,
  type ResolveAnswer,
  type ResolveRequest,
  UPLINK_SUBJECTS,
} from "@tributary/common/uplink-protocol";
import type { LocalEvent, LocalPage } from "../store/edge-store.ts";
import type { StreamState } from "./stream-table.ts";

/** Places in the core's copy that are remembered for each stream, and streams for which they are. */
const PLACES_MAX = 512;
const STREAMS_MAX = 256;
/** Pages one read may walk through on its way to an ordinal that nobody read before. */
const PAGES_PER_READ_MAX = 64;
/** Payload bytes of later events that may stand before an event: more than the events of one block. */
const OUT_OF_ORDER_BYTES_MAX = 16_777_216;

/** No event of this ordinal or a later one lies before the core offset. */
interface Place {
  readonly ordinal: number;
  readonly coreOffset: string;
  /** Incarnation of the events before this place, and the ordinal of its number 1. */
  readonly incarnation: Id | undefined;
  readonly base: number;
}

const BEGINNING: Place = { ordinal: 0, coreOffset: "-1", incarnation: undefined, base: 0 };

/**
 * Reads back from the core what this gateway wrote and has freed. An event's ordinal follows from its number and from where its
 * incarnation began, which is behind the last event of the one before. The core keeps the order of a segment; events of several
 * segments may stand a little out of order there and are sorted. Places where pages began are kept, since the core knows no ordinals.
 */
export class CoreHistory {
  readonly #bus: Bus;
  readonly #cluster: string;
  readonly #timeoutMs: number;
  /** Ascending by ordinal; least recently used stream first. */
  readonly #places = new Map<Id, Place[]>();

  constructor(bus: Bus, cluster: string, timeoutMs: number) {
    this.#bus = bus;
    this.#cluster = cluster;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Events from an ordinal on, below `endOrdinal`. undefined if the core does not have them, or not yet.
   * @throws what the bus or the core throws
   */
  async read(stream: StreamState, writer: Id, fromOrdinal: number, endOrdinal: number, bytesMax: number): Promise<LocalPage | undefined> {
    if (!stream.mapping) return undefined;
    const found: LocalEvent[] = [];
    let foundBytes = 0;
    let place = this.#nearest(stream.id, fromOrdinal);
    // Every other offset names its stream.
    if (place === BEGINNING && !(await this.#isUnderItsName(stream))) return undefined;
    for (let pages = 0; pages < PAGES_PER_READ_MAX; pages++) {
      const answer = await this.#fetch({ type: "fetch", name: stream.name, writer, offset: place.coreOffset, bytesMax });
      let { ordinal: behind, incarnation, base } = place;
      for (const event of answer.events) {
        if (event.incarnation !== incarnation) {
          incarnation = event.incarnation;
          base = behind;
        }
        const ordinal = base + event.number - 1;
        behind = Math.max(behind, ordinal + 1);
        if (ordinal < fromOrdinal || ordinal >= endOrdinal) continue;
        found.push({ ...event, ordinal });
        foundBytes += event.data.length;
      }
      const stuck = answer.nextOffset === place.coreOffset;
      place = { ordinal: behind, coreOffset: answer.nextOffset, incarnation, base };
      this.#remember(stream.id, place);
      const run = contiguousRun(found, fromOrdinal);
      if (run.length > 0) return toPage(run);
      // What has not come behind so much that is later was given up: the next that there is goes on.
      if (answer.upToDate || stuck || foundBytes >= OUT_OF_ORDER_BYTES_MAX) return toPage(contiguousRun(found, found[0]?.ordinal ?? 0));
    }
    return undefined;
  }

  /** A stream whose name was taken at the core is kept there under another: then the name leads to events of somebody else. */
  async #isUnderItsName({ id: provisionalId, name, contentType, segments, createdAtMs, mapping }: StreamState): Promise<boolean> {
    const wish = { name, provisionalId, contentType, segments, createdAtMs, create: false };
    const answer = (await this.#ask({ type: "resolve", streams: [wish] })) as ResolveAnswer;
    return answer.streams[0]?.id === mapping?.id;
  }

  async #fetch(request: FetchRequest): Promise<FetchAnswer> {
    return (await this.#ask(request)) as FetchAnswer;
  }

  async #ask(request: FetchRequest | ResolveRequest): Promise<unknown> {
    return decodeCbor(await this.#bus.request(UPLINK_SUBJECTS.control(this.#cluster), encodeCbor(request), { timeoutMs: this.#timeoutMs }));
  }

  #nearest(streamId: Id, ordinal: number): Place {
    const places = this.#places.get(streamId) ?? [];
    return places.findLast((place) => place.ordinal <= ordinal) ?? BEGINNING;
  }

  #remember(streamId: Id, place: Place): void {
    let places = this.#places.get(streamId) ?? [];
    const at = places.findLastIndex((known) => known.ordinal <= place.ordinal);
    if (places[at]?.ordinal !== place.ordinal) places.splice(at + 1, 0, place);
    // Thinned out evenly: a place less costs a page more to walk through.
    if (places.length > PLACES_MAX) places = places.filter((_, i) => i % 2 === 0);
    this.#places.delete(streamId);
    this.#places.set(streamId, places);
    if (this.#places.size <= STREAMS_MAX) return;
    const oldest = this.#places.keys().next();
    if (!oldest.done) this.#places.delete(oldest.value);
  }
}

/** Sorts the events, and returns those that follow each other without a hole from an ordinal on. */
function contiguousRun(events: LocalEvent[], fromOrdinal: number): LocalEvent[] {
  events.sort((a, b) => a.ordinal - b.ordinal);
  const run: LocalEvent[] = [];
  for (const event of events) {
    if (event.ordinal === fromOrdinal + run.length) run.push(event);
  }
  return run;
}

function toPage(events: readonly LocalEvent[]): LocalPage | undefined {
  const last = events.at(-1);
  return last && { events, nextOrdinal: last.ordinal + 1 };
}
