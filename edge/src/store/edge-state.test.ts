import { LIMITS } from "@tributary/common/limits";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { applyChange, emptyEdgeState, restoreEdgeState, snapshotEdgeState } from "./edge-state.ts";
import type { StateChange } from "./edge-store.ts";
import { createStream } from "./testing/gateway-model.ts";

const A = "aa".repeat(16);
const B = "bb".repeat(16);

const id = fc.constantFrom(A, B);
const clientId = fc.constantFrom("c1", "c2", "c3");
const packetId = fc.integer({ min: 1, max: 5 });
const change: fc.Arbitrary<StateChange> = fc.oneof(
  id.map((stream) => createStream(stream)),
  fc.record({ type: fc.constant("close-stream" as const), id }),
  fc.record({ type: fc.constant("delete-stream" as const), id }),
  fc.record({ type: fc.constant("stream-seq" as const), id, streamSeq: fc.string({ maxLength: 3 }) }),
  fc.record({ type: fc.constant("producer" as const), id, producerId: fc.constantFrom("p", "q", "r"), epoch: fc.nat(3), seq: fc.nat(9) }),
  fc.record({ type: fc.constant("packet-id" as const), clientId, packetId }),
  fc.record({ type: fc.constant("release-packet-id" as const), clientId, packetId }),
  fc.record({ type: fc.constant("clear-packet-ids" as const), clientId }),
  fc.record({ type: fc.constant("map-stream" as const), id, mapping: fc.constant({ id: B, segments: 1, containers: [0] }) }),
);

describe("edge state", () => {
  it("goes on after a snapshot as if there had been none, order of use included", () => {
    fc.assert(
      fc.property(fc.array(change, { maxLength: 40 }), fc.array(change, { maxLength: 40 }), (before, after) => {
        const whole = emptyEdgeState();
        for (const one of before) applyChange(whole, one);
        const resumed = restoreEdgeState(snapshotEdgeState(whole));
        for (const one of after) {
          applyChange(whole, one);
          applyChange(resumed, one);
        }
        expect(snapshotEdgeState(resumed)).toEqual(snapshotEdgeState(whole));
        expect(resumed.packetIdCount).toBe(snapshotEdgeState(whole).packetIds.reduce((sum, client) => sum + client.packetIds.length, 0));
      }),
    );
  });

  it("forgets the least recently used producer of a stream, and only that", () => {
    const state = emptyEdgeState();
    applyChange(state, createStream(A));
    const use = (n: number) => applyChange(state, { type: "producer", id: A, producerId: `p${n}`, epoch: 0, seq: n });
    for (let n = 0; n < LIMITS.producersPerStreamMax; n++) use(n);
    use(0);
    use(LIMITS.producersPerStreamMax);
    const producers = state.producers.get(A);
    expect(producers?.size).toBe(LIMITS.producersPerStreamMax);
    expect(producers?.has("p0")).toBe(true);
    expect(producers?.has("p1")).toBe(false);
    expect(producers?.has("p2")).toBe(true);
  });

  it("forgets the packet ids of the client that took one longest ago", () => {
    const state = emptyEdgeState();
    const perClient = 65_535;
    const take = (client: string, count: number) => {
      for (let n = 1; n <= count; n++) applyChange(state, { type: "packet-id", clientId: client, packetId: n });
    };
    const clients = Math.ceil(LIMITS.packetIdsMax / perClient);
    for (let n = 0; n < clients; n++) take(`c${n}`, n === 0 ? 1 : perClient);
    take("c0", 2);
    take("last", perClient);
    expect(state.packetIdCount).toBeLessThanOrEqual(LIMITS.packetIdsMax);
    expect(state.packetIds.has("c0")).toBe(true);
    expect(state.packetIds.has("c1")).toBe(false);
    expect(state.packetIds.get("last")?.size).toBe(perClient);
  });
});
