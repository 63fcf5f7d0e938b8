import type { EventSlice } from "@tributary/common/format/block";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DecidedState } from "./decided.ts";
import { ContainerState, writerTable } from "./state.ts";
import { SEGMENT } from "./testing/gateway.ts";

const STREAM = "a".repeat(32);
const KEYS = ["x", "y", "z"] as const;

function slice(first: number, last: number): EventSlice {
  const times = { timeMinMs: 0, timeMaxMs: 0 };
  const place = { streamId: STREAM, segment: SEGMENT, chunk: 0, start: 0 };
  return { kind: "events", ...place, ...times, previous: first - 1, first, last, count: last - first + 1, lastHash: last };
}

describe("speculative state", () => {
  it("is what all frames so far say of each writer of a segment, settled ones and later ones", () => {
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.record({ key: fc.constantFrom(...KEYS), count: fc.integer({ min: 1, max: 3 }) }) },
      fc.constant("next frame" as const),
      fc.constant("settle" as const),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const durable = new ContainerState();
        const stream = durable.register({ streamId: STREAM, segments: [SEGMENT], contentType: "text/plain", closed: false });
        const decided = new DecidedState(durable);
        const lasts = new Map<string, number>();
        const frames: { key: string; last: number; length: number }[][] = [[]];
        let [settled, length] = [0, 0];
        for (const what of steps) {
          if (what === "next frame") frames.push([]);
          else if (what === "settle") {
            if (settled + 1 >= frames.length) continue;
            for (const { key, last, length: behind } of frames[settled] as (typeof frames)[number]) {
              const [segment] = stream.segments;
              if (segment) segment.length = behind;
              writerTable(stream, key).set(0, last, last);
              stream.chain = behind;
            }
            decided.settle(settled++);
          } else {
            const first = (lasts.get(what.key) ?? 0) + 1;
            const last = first + what.count - 1;
            lasts.set(what.key, last);
            decided.applySlice(
              slice(first, last),
              { slice: 0, skip: 0, ordinal: length, chain: length },
              what.count,
              what.key,
              frames.length - 1,
            );
            length += what.count;
            frames.at(-1)?.push({ key: what.key, last, length });
          }
          const view = decided.segment(STREAM, SEGMENT);
          expect(view?.length).toBe(length);
          for (const key of KEYS) expect(view?.writer(key)?.last).toBe(lasts.get(key));
          expect(decided.head(STREAM)?.chain).toBe(length);
        }
      }),
      { numRuns: 500 },
    );
  });
});
