import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { UplinkUnit } from "../store/edge-store.ts";
import { LEVELS_ENTRIES_MAX, UnitTracker } from "./unit-tracker.ts";

const WRITER = "ff".repeat(16);
const need = (streamId: string, last: number, incarnation = "i1") => ({
  streamId,
  segment: { generation: 0, epoch: 0, number: 0 },
  incarnation,
  lane: "live" as const,
  last,
});
const unit = (number: number, ...blocks: { container: number; needs: ReturnType<typeof need>[] }[]): UplinkUnit => ({
  unit: number,
  blocks: blocks.map((block) => ({ ...block, bytes: new Uint8Array(10) })),
  events: 1,
  payloadBytes: 10,
});
/** Answers a request out of a table of what is in the tier. */
const tier = (tracker: UnitTracker, container: number, tiered: Record<string, number>) => {
  const question = tracker.levelsQuestion(container, WRITER);
  const { request } = question;
  tracker.confirm(question, {
    entries: request.entries.map(({ streamId, incarnation }) => [1e9, tiered[`${streamId}/${incarnation}`] ?? 0]),
  });
  return request.entries.map(({ streamId, incarnation }) => `${streamId}/${incarnation}`);
};

describe("what may be freed", () => {
  test("at committed: what every container accepted, in order", () => {
    const tracker = new UnitTracker("committed");
    const first = tracker.add(unit(1, { container: 0, needs: [need("a", 1)] }, { container: 1, needs: [need("b", 1)] }));
    const second = tracker.add(unit(2, { container: 0, needs: [need("a", 2)] }));
    second.blocksPending = 0;
    expect(tracker.takeFreeable()).toBeUndefined();
    first.blocksPending = 1;
    expect(tracker.takeFreeable()).toBeUndefined();
    first.blocksPending = 0;
    expect(tracker.takeFreeable()).toEqual({ throughUnit: 2, units: 2, events: 2 });
    expect([tracker.size, tracker.bytes, tracker.needsCount]).toEqual([0, 0, 0]);
    expect(tracker.containersToAsk()).toEqual([]);
  });

  test("at tiered: exactly that number of that incarnation, in every container", () => {
    const tracker = new UnitTracker("tiered");
    const tracked = tracker.add(unit(1, { container: 0, needs: [need("a", 5)] }, { container: 1, needs: [need("b", 3)] }));
    expect(tier(tracker, 0, {})).toEqual([]);
    tracked.blocksPending = 0;
    expect(tracker.containersToAsk()).toEqual([0, 1]);
    tier(tracker, 0, { "a/i1": 4, "a/i2": 9, "b/i1": 9 });
    tier(tracker, 1, { "b/i1": 3 });
    expect(tracker.takeFreeable()).toBeUndefined();
    expect(tier(tracker, 0, { "a/i1": 5 })).toEqual(["a/i1"]);
    expect(tracker.takeFreeable()).toMatchObject({ throughUnit: 1 });
  });

  test("what the container has not accepted is not free, whatever the tier says", () => {
    const tracker = new UnitTracker("tiered");
    const first = tracker.add(unit(1, { container: 0, needs: [need("a", 5)] }));
    first.blocksPending = 0;
    tier(tracker, 0, { "a/i1": 9 });
    tracker.add(unit(2, { container: 0, needs: [need("a", 6)] }));
    expect(tracker.takeFreeable()).toMatchObject({ throughUnit: 1, units: 1 });
    expect(tracker.takeFreeable()).toBeUndefined();
  });

  test("a unit without blocks is free in its turn", () => {
    const tracker = new UnitTracker("tiered");
    const first = tracker.add(unit(1, { container: 0, needs: [need("a", 1)] }));
    tracker.add(unit(2));
    expect(tracker.takeFreeable()).toBeUndefined();
    first.blocksPending = 0;
    tier(tracker, 0, { "a/i1": 1 });
    expect(tracker.takeFreeable()).toMatchObject({ throughUnit: 2, units: 2 });
  });

  test("a container that lacks what it had accepted is noticed, unless that is void", () => {
    const tracker = new UnitTracker("tiered");
    tracker.add(unit(1, { container: 0, needs: [need("a", 5)] })).blocksPending = 0;
    const question = tracker.levelsQuestion(0, WRITER);
    tracker.add(unit(2, { container: 0, needs: [need("a", 9)] })).blocksPending = 0;
    expect(tracker.confirm(question, { entries: [[5, 0]] })).toBe(true);
    expect(tracker.confirm(question, { entries: [[4, 4]] })).toBe(false);
    tracker.clear();
    expect(tracker.confirm(question, { entries: [[4, 4]] })).toBe(true);
  });

  test("requests are bounded, and oldest first", () => {
    const tracker = new UnitTracker("tiered");
    for (let i = 1; i <= 3; i++) {
      const needs = Array.from({ length: LEVELS_ENTRIES_MAX / 2 }, (_, n) => need(`s${i}-${n}`, 1));
      tracker.add(unit(i, { container: 0, needs })).blocksPending = 0;
    }
    const { entries } = tracker.levelsQuestion(0, WRITER).request;
    expect(entries).toHaveLength(LEVELS_ENTRIES_MAX);
    expect(entries.some(({ streamId }) => streamId.startsWith("s3"))).toBe(false);
  });

  test("never more than confirmed, whatever the order of acceptances and levels", () => {
    const step = fc.oneof(
      fc.record({ type: fc.constant("add" as const), stream: fc.constantFrom("a", "b"), container: fc.nat(1) }),
      fc.record({ type: fc.constant("accept" as const), at: fc.nat(5) }),
      fc.record({ type: fc.constant("levels" as const), container: fc.nat(1), a: fc.nat(20), b: fc.nat(20) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const tracker = new UnitTracker("tiered");
        const pending: { unit: ReturnType<typeof tracker.add>; stream: string; last: number }[] = [];
        const lasts: Record<string, number> = { a: 0, b: 0 };
        const confirmed: Record<string, number> = { a: 0, b: 0 };
        let added = 0;
        for (const step of steps) {
          if (step.type === "add") {
            const last = (lasts[step.stream] ?? 0) + 1;
            lasts[step.stream] = last;
            const added_ = tracker.add(unit(++added, { container: step.container, needs: [need(step.stream, last)] }));
            pending.push({ unit: added_, stream: step.stream, last });
          } else if (step.type === "accept") {
            const accepted = pending[step.at];
            if (accepted) accepted.unit.blocksPending = 0;
          } else {
            const asked = tier(tracker, step.container, { "a/i1": step.a, "b/i1": step.b });
            if (asked.includes("a/i1")) confirmed["a"] = Math.max(confirmed["a"] ?? 0, step.a);
            if (asked.includes("b/i1")) confirmed["b"] = Math.max(confirmed["b"] ?? 0, step.b);
          }
          const freed = tracker.takeFreeable();
          for (const { unit, stream, last } of pending.splice(0, freed?.units ?? 0)) {
            expect(unit.blocksPending).toBe(0);
            expect(confirmed[stream]).toBeGreaterThanOrEqual(last);
          }
        }
      }),
    );
  });
});
