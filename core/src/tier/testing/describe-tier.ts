import { type StreamState, writerEntry } from "../../container/state.ts";
import type { WriterEntry } from "../../container/writer-table.ts";
import type { readSnapshot } from "../snapshot.ts";

function writersIn(stream: StreamState, position: number): Record<string, WriterEntry> {
  return Object.fromEntries(
    [...stream.writers.keys()].flatMap((key) => {
      const entry = writerEntry(stream, position, key);
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
