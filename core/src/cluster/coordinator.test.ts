import { ManualClock } from "@tributary/common/testing/manual-clock";
import { expect, it } from "vitest";
import { seededRandom } from "../service/testing/fast-clock.ts";
import { MemoryMetaStore } from "../service/testing/memory-meta-store.ts";
import { ASSIGNMENT_KEY, encodeAssignment, encodeNodeRecord, nodeKey } from "./cluster-codec.ts";
import { ClusterState } from "./cluster-state.ts";
import { Coordinator } from "./coordinator.ts";

it("forgets no container of an assignment that has more than it has heard of", async () => {
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  const meta = new MemoryMetaStore();
  const clock = new ManualClock();
  const state = new ClusterState(log);
  state.containers = 2;
  const value = encodeAssignment({ version: 7, owners: ["gone", "here", "here", "gone"] });
  state.take({ key: ASSIGNMENT_KEY, value, revision: await meta.create(ASSIGNMENT_KEY, value) }, 0);
  const node = encodeNodeRecord({ name: "a", url: "", draining: false, beat: 1, leaseMs: 1_500, version: "1", formatMax: 1 });
  state.take({ key: nodeKey("here"), value: node, revision: 2 }, 0);
  const coordinator = new Coordinator({ meta, clock, random: seededRandom(1) }, state, { settleMs: 1_500, timeoutMs: 750 }, log);
  expect(await coordinator.step("here")).toBe(true);
  expect(state.assignment).toEqual({ version: 8, owners: ["here", "here", "here", "here"] });
});
