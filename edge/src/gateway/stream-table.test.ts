import { expect, test } from "vitest";
import type { StateChange } from "../store/edge-store.ts";
import { StreamTable } from "./stream-table.ts";

test("a stream of the core stays taken by one that was deleted while the core was asked for it (seed 1145)", () => {
  const table = new StreamTable({ streams: [], producers: [], packetIds: [] });
  const [first, next, core] = ["aa", "bb", "cc"].map((byte) => byte.repeat(16)) as [string, string, string];
  const create = (id: string): StateChange => {
    const name = { scope: "default", stream: "s" };
    return { type: "create-stream", id, name, contentType: "text/plain", segments: 1, createdAtMs: 0, closed: false };
  };
  const commit = (...changes: StateChange[]) => {
    for (const change of changes) table.accept(change, 1);
    table.durable([], [], changes, "dd".repeat(8), "live");
  };
  commit(create(first));
  commit({ type: "delete-stream", id: first });
  expect(table.unresolved()).toEqual([]);
  commit(create(next), { type: "map-stream", id: first, mapping: { id: core, segments: 1, containers: [0] } });
  expect(table.unresolved().map(({ id }) => id)).toEqual([next]);
  // The log would not take it: it has the first one as mapped there.
  expect(table.isMappedByAnother(core, next)).toBe(true);
  expect(table.isMappedByAnother(core, first)).toBe(false);
});
