import { hasCode } from "@tributary/common/errors";
import { encodeCbor } from "@tributary/common/format/cbor";
import { LIMITS } from "@tributary/common/limits";
import type { Id } from "@tributary/common/names";
import type { Bus } from "@tributary/common/ports/bus";
import { type FetchAnswer, type FetchRequest, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import type { LocalEvent, LocalPage } from "../store/edge-store.ts";
import { decodeFetchAnswer } from "../uplink/answers.ts";
import { LocalOrder, type LocalRange } from "./local-order.ts";
import type { StreamState } from "./stream-table.ts";

/** Places in the core's copy that are remembered for each stream, and streams for which they are. */
const PLACES_MAX = 512;
const STREAMS_MAX = 256;
/** Pages one read may walk through on its way to an ordinal that nobody read before, and how many of them are as small as it asked. */
const PAGES_PER_READ_MAX = 64;
const SMALL_PAGES_MAX = 8;
/** Payload bytes of later events that may stand before an event: more than the events of one block. */
const OUT_OF_ORDER_BYTES_MAX = 16_777_216;

/** Nothing of this ordinal or a later one lies before the core offset. */
interface Place {
  readonly ordinal: number;
  readonly coreOffset: string;
}

/** Ascending by ordinal, in the core's stream of that id. */
interface Places {
  readonly coreId: Id;
  places: Place[];
}

const BEGINNING: Place = { ordinal: 0, coreOffset: "-1" };

/**
 * Reads back from the core what this gateway wrote and has freed. Which ordinal an event had follows from the eras that the log
 * keeps; what is in none of them was written by a copy of the log, or by a branch of it that is lost, and is left out. The core keeps
 * the order of a segment; events of several segments may stand a little out of order there and are sorted. Places where pages began
 * are kept, since the core knows no ordinals.
 */
export class CoreHistory {
  readonly #bus: Bus;
  readonly #cluster: string;
  readonly #timeoutMs: number;
  /** Least recently used stream first. */
  readonly #places = new Map<Id, Places>();

  constructor(bus: Bus, cluster: string, timeoutMs: number) {
    this.#bus = bus;
    this.#cluster = cluster;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Events and gaps from an ordinal on, below `endOrdinal`, without a hole between them; if the core does not have the first, from the
   * next one on that it has. undefined if it has none, or not yet.
   * @throws what the bus or the core throws
   */
  async read(stream: StreamState, writer: Id, fromOrdinal: number, endOrdinal: number, bytesMax: number): Promise<LocalPage | undefined> {
    const { mapping } = stream;
    if (!mapping) return undefined;
    const coreId = mapping.id;
    const order = new LocalOrder(stream.eras, fromOrdinal, endOrdinal);
    const found = new Findings();
    let place = this.#nearest(stream.id, coreId, fromOrdinal);
    for (let pages = 0; pages < PAGES_PER_READ_MAX; pages++) {
      const pageBytesMax = pages < SMALL_PAGES_MAX ? bytesMax : LIMITS.readPageBytesMax;
      const answer = await this.#fetchFor(stream.id, {
        type: "fetch",
        name: stream.name,
        writer,
        offset: place.coreOffset,
        bytesMax: pageBytesMax,
      });
      // A stream whose name was taken at the core is kept there under another: then the name leads to events of somebody else.
      if (answer.streamId !== coreId) return undefined;
      let behind = place.ordinal;
      for (const event of answer.events) {
        const ordinal = order.ordinalOf(event.incarnation, event.lane, event.number);
        if (ordinal === undefined) continue;
        behind = Math.max(behind, ordinal + 1);
        if (order.asksFor(ordinal)) found.addEvent({ ...event, ordinal });
      }
      for (const gap of answer.gaps) {
        for (const range of order.rangesOf(gap.incarnation, gap.lane, gap.first, gap.last)) {
          behind = Math.max(behind, range.ordinal + range.count);
          found.addGap({ ...range, lane: gap.lane, reason: gap.reason, isExact: mapping.segments === 1 });
        }
      }
      const stuck = answer.nextOffset === place.coreOffset;
      place = { ordinal: behind, coreOffset: answer.nextOffset };
      this.#remember(stream.id, coreId, place);
      const run = found.run(order, fromOrdinal, false);
      if (run.length > 0) return toPage(run);
      if (!answer.upToDate && !stuck && found.bytes < OUT_OF_ORDER_BYTES_MAX) continue;
      // What has not come behind so much that is later will not come.
      const settled = found.run(order, fromOrdinal, true);
      return toPage(settled.length > 0 ? settled : found.run(order, found.firstFrom(fromOrdinal), true));
    }
    return undefined;
  }

  async #fetch(request: FetchRequest): Promise<FetchAnswer> {
    const payload = await this.#bus.request(UPLINK_SUBJECTS.control(this.#cluster), encodeCbor(request), { timeoutMs: this.#timeoutMs });
    return decodeFetchAnswer(payload);
  }

  /** The core's history may have gone back, or the stream may be another: what was remembered of it is of no use then. */
  async #fetchFor(streamId: Id, request: FetchRequest): Promise<FetchAnswer> {
    try {
      return await this.#fetch(request);
    } catch (error) {
      if (hasCode(error, "OFFSET_FOREIGN", "OFFSET_GONE", "OFFSET_INVALID", "OFFSET_UNKNOWN")) this.#places.delete(streamId);
      throw error;
    }
  }

  #nearest(streamId: Id, coreId: Id, ordinal: number): Place {
    const known = this.#places.get(streamId);
    if (known?.coreId !== coreId) return BEGINNING;
    return known.places.findLast((place) => place.ordinal <= ordinal) ?? BEGINNING;
  }

  #remember(streamId: Id, coreId: Id, place: Place): void {
    const before = this.#places.get(streamId);
    const known = before?.coreId === coreId ? before : { coreId, places: [] };
    const at = known.places.findLastIndex(({ ordinal }) => ordinal <= place.ordinal);
    if (known.places[at]?.ordinal !== place.ordinal) known.places.splice(at + 1, 0, place);
    // Thinned out evenly: a place less costs a page more to walk through.
    if (known.places.length > PLACES_MAX) known.places = known.places.filter((_, i) => i % 2 === 0);
    this.#places.delete(streamId);
    this.#places.set(streamId, known);
    if (this.#places.size <= STREAMS_MAX) return;
    const oldest = this.#places.keys().next();
    if (!oldest.done) this.#places.delete(oldest.value);
  }
}

type Gap = LocalRange & Pick<LocalEvent, "lane"> & Pick<NonNullable<LocalEvent["gap"]>, "reason"> & { readonly isExact: boolean };

/** What the pages of one read brought. */
class Findings {
  bytes = 0;
  readonly #events = new Map<number, LocalEvent>();
  readonly #gaps: Gap[] = [];

  addEvent(event: LocalEvent): void {
    this.#events.set(event.ordinal, event);
    this.bytes += event.data.length;
  }

  addGap(gap: Gap): void {
    this.#gaps.push(gap);
  }

  /**
   * What follows without a hole from an ordinal on. In a stream of several segments a gap names the first and the last number that one
   * of them lost: those between may be events of others, which count as gone only once it is `settled` that they do not come.
   */
  run(order: LocalOrder, fromOrdinal: number, settled: boolean): LocalEvent[] {
    const run: LocalEvent[] = [];
    for (let ordinal = fromOrdinal; order.asksFor(ordinal); ) {
      const event = this.#events.get(ordinal) ?? this.#gapAt(order, ordinal, settled);
      if (!event) break;
      run.push(event);
      ordinal += event.gap?.count ?? 1;
    }
    return run;
  }

  /** The first ordinal from one on of which anything was found; else that one. */
  firstFrom(fromOrdinal: number): number {
    let first = Number.POSITIVE_INFINITY;
    for (const ordinal of this.#events.keys()) if (ordinal >= fromOrdinal) first = Math.min(first, ordinal);
    for (const { ordinal } of this.#gaps) if (ordinal >= fromOrdinal) first = Math.min(first, ordinal);
    return Number.isFinite(first) ? first : fromOrdinal;
  }

  #gapAt(order: LocalOrder, ordinal: number, settled: boolean): LocalEvent | undefined {
    const lost = order.lostAt(ordinal);
    if (lost) return gapEvent({ ...lost, lane: "live", reason: "corrupt", isExact: true }, ordinal, lost.ordinal + lost.count);
    const gap = this.#gaps.find(
      (gap) => (settled || gap.isExact) && ordinal >= gap.ordinal && ordinal < gap.ordinal + gap.count && order.asksFor(ordinal),
    );
    if (!gap) return undefined;
    let end = ordinal + 1;
    while (end < gap.ordinal + gap.count && order.asksFor(end) && !this.#events.has(end)) end++;
    return gapEvent(gap, ordinal, end);
  }
}

/** The part of a gap from an ordinal to another. */
function gapEvent(gap: Gap, ordinal: number, end: number): LocalEvent {
  const first = gap.first + (gap.incarnation === "" ? 0 : ordinal - gap.ordinal);
  const count = end - ordinal;
  const { incarnation, lane, reason } = gap;
  const number = incarnation === "" ? 0 : first + count - 1;
  return { ordinal, key: "", timeMs: 0, incarnation, lane, number, data: new Uint8Array(0), gap: { first, count, reason } };
}

function toPage(events: readonly LocalEvent[]): LocalPage | undefined {
  const last = events.at(-1);
  return last && { events, nextOrdinal: last.ordinal + (last.gap?.count ?? 1) };
}
