import type { StreamState } from "../../container/state.ts";
import type { WriterEntry } from "../../container/writer-table.ts";
import type { readSnapshot } from "../snapshot.ts";

function writersIn({ writers }: StreamState, position: number): Record<string, WriterEntry> {
  return Object.fromEntries(
    [...writers].flatMap(([key, entries]) => {
      const entry = new Map(entries).get(position);
      return entry ? [[key, entry]] : [];
    }),
  );
}

/** A snapshot in plain words: what its golden file says in JSON. */
export function describeTier({ container, position, state, index }: ReturnType<typeof readSnapshot>): unknown {
  const streams = Array.from(state.streams.values(), (stream) => ({
    ...stream,
    segments: stream.segments.map((segment, position) => ({ ...segment, writers: writersIn(stream, position) })),
    writers: undefined,
    producers: [...stream.producers],
  }));
  return JSON.parse(JSON.stringify({ container, position, events: state.events, streams, objects: index.objects, runs: [...index.runs] }));
}
