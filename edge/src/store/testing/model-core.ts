import { type Block, decodeBlock, openChunk, type Slice } from "@tributary/common/format/block";
import { payloadOf } from "@tributary/common/format/event-columns";
import { evenRangeIndex, keyHash } from "@tributary/common/key-hash";
import type { Id } from "@tributary/common/names";
import type { UplinkUnit } from "../edge-store.ts";

export interface CoreEvent {
  readonly key: string;
  readonly text: string;
  readonly incarnation: Id;
  readonly lane: string;
  readonly number: number;
}

export interface CoreGap {
  readonly incarnation: Id;
  readonly lane: string;
  readonly segment: number;
  readonly first: number;
  readonly last: number;
  readonly count: number;
  readonly reason: string;
}

export interface CoreStream {
  readonly segments: number;
  readonly containers: readonly number[];
  readonly events: CoreEvent[];
  readonly gaps: CoreGap[];
}

/**
 * The core as rules W1 and W2 describe it, as strict as can be: of an append that is neither known nor an overlap the previous
 * number must be exactly the core's last one, and a new incarnation must name exactly the latest one before it, fully reached.
 */
export class ModelCore {
  readonly streams: Map<Id, CoreStream> = new Map();
  /** By stream, segment and lane: incarnations in the order in which they came, each with its last number. */
  readonly #writers = new Map<string, { incarnation: Id; last: number }[]>();
  duplicates = 0;

  /** Creates the stream, or finds it as it is. */
  register(id: Id, segments: number, containers: readonly number[]): CoreStream {
    const known = this.streams.get(id);
    if (known) return known;
    const stream = { segments, containers, events: [], gaps: [] };
    this.streams.set(id, stream);
    return stream;
  }

  /** Takes one block. @throws Error if it breaks a rule */
  append(block: UplinkUnit["blocks"][number]): void {
    const decoded = decodeBlock(block.bytes);
    for (const slice of decoded.slices) this.#slice(decoded, slice, block.container);
    for (const need of block.needs) {
      const key = `${need.streamId}.${need.segment.number}.${need.lane}`;
      const last = this.#writers.get(key)?.find(({ incarnation }) => incarnation === need.incarnation)?.last ?? 0;
      if (last < need.last) throw new Error(`the block does not reach what it needs: ${last} < ${need.last}`);
    }
  }

  #slice(block: Block, slice: Slice, container: number): void {
    const stream = this.streams.get(slice.streamId);
    if (!stream) throw new Error(`unknown stream ${slice.streamId}`);
    const segment = slice.segment.number;
    if (stream.containers[segment] !== container) throw new Error("wrong container");
    const key = `${slice.streamId}.${segment}.${block.lane}`;
    const incarnations = this.#writers.get(key) ?? [];
    this.#writers.set(key, incarnations);
    let own = incarnations.find(({ incarnation }) => incarnation === block.incarnation);
    if (!own) {
      const latest = incarnations.at(-1);
      if (slice.previous !== 0) throw new Error(`a new incarnation begins behind ${slice.previous}`);
      if (latest?.incarnation !== slice.parent?.incarnation || latest?.last !== slice.parent?.last) {
        throw new Error(`parent is ${JSON.stringify(slice.parent)}, should be ${JSON.stringify(latest)}`);
      }
      own = { incarnation: block.incarnation, last: 0 };
      incarnations.push(own);
    } else {
      if (slice.previous > own.last) throw new Error(`previous ${slice.previous} is not reached, it is ${own.last}`);
      if (slice.previous < own.last && slice.last > own.last && slice.first > own.last) {
        throw new Error(`previous is ${slice.previous} but must be ${own.last}`);
      }
    }
    if (slice.last <= own.last) {
      this.duplicates++;
      return;
    }
    const known = own.last;
    own.last = slice.last;
    const { incarnation, lane } = block;
    if (slice.kind === "gap") {
      const { first, last, count, reason } = slice;
      stream.gaps.push({ incarnation, lane, segment, first: Math.max(first, known + 1), last, count, reason });
      return;
    }
    const columns = openChunk(block, slice.chunk);
    for (let row = slice.start; row < slice.start + slice.count; row++) {
      const number = columns.number[row] as number;
      if (number <= known) continue;
      const eventKey = columns.keys[columns.keyIndex[row] as number] as string;
      if (evenRangeIndex(keyHash(eventKey), stream.segments) !== segment) throw new Error("an event is in the wrong segment");
      stream.events.push({ key: eventKey, text: Buffer.from(payloadOf(columns, row)).toString(), incarnation, lane, number });
    }
  }
}
