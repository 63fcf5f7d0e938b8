import {
  type Block,
  type BlockWriter,
  decodeBlock,
  encodeBlock,
  type GapSlice,
  type SliceInput,
  type SliceTarget,
} from "@tributary/common/format/block";
import type { EventColumns } from "@tributary/common/format/event-columns";
import type { Id, SegmentId } from "@tributary/common/names";

export const SEGMENT: SegmentId = { generation: 0, epoch: 0, number: 0 };

export interface TestEvent {
  readonly number: number;
  readonly data: string;
  readonly key?: string;
}

export interface TestSlice {
  readonly streamId: Id;
  readonly segment?: SegmentId;
  readonly previous: number;
  readonly parent?: SliceTarget["parent"];
  readonly events: readonly TestEvent[];
}

const text = new TextEncoder();

/** A block as a gateway would send it. */
export function block(writer: BlockWriter, slices: readonly TestSlice[], gaps: readonly GapSlice[] = []): Block {
  const events = slices.flatMap((slice) => slice.events);
  const payloads = events.map((event) => text.encode(event.data));
  const keys = [...new Set(events.map((event) => event.key ?? ""))];
  const ends = new Uint32Array(events.length);
  let at = 0;
  payloads.forEach((payload, i) => {
    at += payload.length;
    ends[i] = at;
  });
  const columns: EventColumns = {
    count: events.length,
    keys,
    keyIndex: Uint32Array.from(events, (event) => keys.indexOf(event.key ?? "")),
    timeMs: Float64Array.from(events, (event) => 1_000_000 + event.number),
    number: Float64Array.from(events, (event) => event.number),
    starts: Uint32Array.from(ends, (_, i) => (i === 0 ? 0 : (ends[i - 1] as number))),
    ends,
    payload: Buffer.concat(payloads),
  };
  let row = 0;
  const inputs = slices.map((slice): SliceInput => {
    const rows = Uint32Array.from(slice.events, () => row++);
    const { streamId, segment = SEGMENT, previous, parent } = slice;
    return { kind: "events", streamId, segment, previous, rows, ...(parent ? { parent } : {}) };
  });
  return decodeBlock(encodeBlock(writer, columns, [...inputs, ...gaps]));
}

/** Events `from` to `to`, each with a payload of its own. */
export function numbered(from: number, to: number, tag = ""): TestEvent[] {
  return Array.from({ length: to - from + 1 }, (_, i) => ({ number: from + i, data: `${tag}${from + i}` }));
}
