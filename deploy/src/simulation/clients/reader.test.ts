import { encodeStreamRecord, type StreamRecord, streamKey } from "@tributary/core/service/stream-record";
import { expect, test } from "vitest";
import { MetaState } from "../ports/sim-meta-store.ts";
import type { SimProcess } from "../process.ts";
import type { SimWorld } from "../sim-world.ts";
import { readEverything } from "./reader.ts";

const [OPEN_ID, HALF_DELETED_ID, DELETED_ID] = ["a".repeat(32), "b".repeat(32), "c".repeat(32)] as const;

/** Three streams of container 0, of which the lake has something damaged; whoever is asked for one reads it as empty. */
function readWith(outOfService: readonly number[]): ReturnType<typeof readEverything> {
  const meta = new MetaState();
  const put = (stream: string, id: string, state: StreamRecord["state"]) => {
    const of = { contentType: "text/plain", segments: 1, containers: [0], createdAtMs: 0, closed: false, past: [], deletedAtMs: 0 };
    meta.create(streamKey({ scope: "plant", stream }), encodeStreamRecord({ ...of, id, state }), 0);
  };
  put("open", OPEN_ID, "open");
  put("half-deleted", HALF_DELETED_ID, "deleting");
  put("deleted", DELETED_ID, "deleted");
  const streams = {
    read: async () => ({ events: [], nextOffset: "", upToDate: true }),
    describe: async () => ({ id: OPEN_ID }),
  };
  const request: unknown = (...[, , , work]: Parameters<SimWorld["request"]>) => work(streams);
  const world: unknown = { meta, nowMs: 0, damaged: new Set([0]), outOfService, request };
  return readEverything(world as SimWorld, {} as SimProcess, () => ({ process: undefined, service: undefined }));
}

test("a stream whose deletion waits for a container that damage keeps from being served is unreadable (seed 2227)", async () => {
  const { reads, unreadable } = await readWith([0]);
  expect(reads.map(({ info }) => info.id)).toEqual([OPEN_ID]);
  expect([...unreadable]).toEqual([[HALF_DELETED_ID, "plant/half-deleted"]]);
});

test.each([[[]], [[1]]])(
  "a stream whose container is served has no excuse, also while it is deleted (out of service: %s)",
  async (others) => {
    const { reads, unreadable } = await readWith(others);
    expect(reads.map(({ info }) => info.id)).toEqual([OPEN_ID]);
    expect([...unreadable]).toEqual([]);
  },
);
