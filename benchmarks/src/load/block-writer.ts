import { type BlockWriter, encodeBlock, type SliceInput } from "@tributary/common/format/block";
import type { EventColumns } from "@tributary/common/format/event-columns";
import { evenRangeIndex, keyHash } from "@tributary/common/key-hash";
import { type Id, INCARNATION_BYTES, newId, WRITER_ID_BYTES } from "@tributary/common/names";
import { systemRandom } from "@tributary/common/random";

export interface WriterStream {
  readonly id: Id;
  readonly segments: number;
  readonly container: number;
}

/** A routing key and the segment that it belongs to. */
export interface KeyedPlace {
  readonly stream: number;
  readonly key: number;
  readonly segment: number;
  /** Number of the segment among those of all streams. */
  readonly slot: number;
}

/** The place of each key; keys go to the streams in turn. */
export function placesOf(streams: readonly WriterStream[], keys: readonly string[]): KeyedPlace[] {
  const firstSlots = streams.map((_, n) => streams.slice(0, n).reduce((sum, { segments }) => sum + segments, 0));
  return keys.map((key, i) => {
    const stream = i % streams.length;
    const segment = evenRangeIndex(keyHash(key), (streams[stream] as WriterStream).segments);
    return { stream, key: i, segment, slot: (firstSlots[stream] as number) + segment };
  });
}

/** What all writers of a run have in common: a table of each writer's own would be most of what the load process keeps. */
export interface WriterLoad {
  readonly streams: readonly WriterStream[];
  readonly keys: readonly string[];
  readonly places: readonly KeyedPlace[];
  /** Incompressible bytes that events are cut from, longer than one event. */
  readonly payload: Uint8Array;
  readonly eventBytes: number;
}

/**
 * One writer as the core sees a gateway: numbers its events in each stream and puts those of many segments of one container into a block.
 * It keeps nothing on a disk: this measures the core.
 */
export class BlockMaker {
  readonly #identity: BlockWriter = {
    writer: newId(systemRandom, WRITER_ID_BYTES),
    incarnation: newId(systemRandom, INCARNATION_BYTES),
    lane: "live",
  };
  readonly #load: WriterLoad;
  /** Last number by stream; and by stream and segment. */
  readonly #lastInStream: Float64Array;
  readonly #lastInSegment: readonly Float64Array[];
  #next: number;

  /** @param offset place of the first event */
  constructor(load: WriterLoad, offset: number) {
    this.#load = load;
    this.#lastInStream = new Float64Array(load.streams.length);
    this.#lastInSegment = load.streams.map(({ segments }) => new Float64Array(segments));
    this.#next = offset % load.places.length;
  }

  /** Blocks with `count` events in all, one for each container that gets some. Keys come in turn, so that all segments are written alike. */
  make(count: number, timeMs: number): { readonly container: number; readonly events: number; readonly bytes: Uint8Array }[] {
    const { streams, keys, places, payload, eventBytes } = this.#load;
    const groups = new Map<number, Map<number, { place: KeyedPlace; rows: number[] }>>();
    const columns: EventColumns = {
      count,
      keys,
      keyIndex: new Uint32Array(count),
      timeMs: new Float64Array(count).fill(timeMs),
      number: new Float64Array(count),
      starts: new Uint32Array(count),
      ends: new Uint32Array(count),
      payload,
    };
    for (let row = 0; row < count; row++) {
      const place = places[this.#next] as KeyedPlace;
      this.#next = (this.#next + 1) % places.length;
      columns.keyIndex[row] = place.key;
      const start = (row * 7919) % (payload.length - eventBytes);
      columns.starts[row] = start;
      columns.ends[row] = start + eventBytes;
      columns.number[row] = this.#lastInStream[place.stream] = (this.#lastInStream[place.stream] as number) + 1;
      const { container } = streams[place.stream] as WriterStream;
      let slices = groups.get(container);
      if (!slices) {
        slices = new Map();
        groups.set(container, slices);
      }
      const slice = slices.get(place.slot);
      if (slice) slice.rows.push(row);
      else slices.set(place.slot, { place, rows: [row] });
    }
    return [...groups].map(([container, slices]) => {
      let events = 0;
      const inputs = [...slices.values()].map(({ place, rows }): SliceInput => {
        const lasts = this.#lastInSegment[place.stream] as Float64Array;
        const previous = lasts[place.segment] as number;
        lasts[place.segment] = columns.number[rows.at(-1) as number] as number;
        events += rows.length;
        return {
          kind: "events",
          streamId: (streams[place.stream] as WriterStream).id,
          segment: { generation: 0, epoch: 0, number: place.segment },
          previous,
          rows: new Uint32Array(rows),
        };
      });
      return { container, events, bytes: encodeBlock(this.#identity, columns, inputs) };
    });
  }
}
