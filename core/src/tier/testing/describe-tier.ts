import type { readSnapshot } from "../snapshot.ts";

/** A snapshot in plain words: what its golden file says in JSON. */
export function describeTier({ container, position, state, index }: ReturnType<typeof readSnapshot>): unknown {
  const streams = Array.from(state.streams.values(), (stream) => ({
    ...stream,
    segments: stream.segments.map((segment) => ({ ...segment, writers: Object.fromEntries(segment.writers) })),
    producers: [...stream.producers],
  }));
  return JSON.parse(JSON.stringify({ container, position, events: state.events, streams, objects: index.objects, runs: [...index.runs] }));
}
