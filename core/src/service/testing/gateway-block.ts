import { encodeBlock } from "@tributary/common/format/block";
import type { EventColumns } from "@tributary/common/format/event-columns";
import type { Id } from "@tributary/common/names";

export interface BlockSlice {
  readonly streamId: Id;
  readonly segment?: number;
  /** Number of the first event; the slice's previous number is the one before. */
  readonly first: number;
  readonly texts: readonly string[];
}

/** A gateway's block of text events, as it stands on the wire. */
export function gatewayBlock(writer: Id, incarnation: Id, slices: readonly BlockSlice[]): Uint8Array {
  const rows = slices.flatMap((slice) => slice.texts.map((text, i) => ({ data: Buffer.from(text), number: slice.first + i })));
  let at = 0;
  const starts = rows.map((row) => {
    at += row.data.length;
    return at - row.data.length;
  });
  const columns: EventColumns = {
    count: rows.length,
    keys: ["k"],
    keyIndex: new Uint32Array(rows.length),
    timeMs: Float64Array.from(rows, (_, i) => 1_000 + i),
    number: Float64Array.from(rows, (row) => row.number),
    starts: Uint32Array.from(starts),
    ends: Uint32Array.from(rows, (row, i) => (starts[i] as number) + row.data.length),
    payload: Buffer.concat(rows.map((row) => row.data)),
  };
  let row = 0;
  const inputs = slices.map(({ streamId, segment, first, texts }) => ({
    kind: "events" as const,
    streamId,
    segment: { generation: 0, epoch: 0, number: segment ?? 0 },
    previous: first - 1,
    rows: Uint32Array.from(texts, () => row++),
  }));
  return encodeBlock({ writer, incarnation, lane: "live" }, columns, inputs);
}
