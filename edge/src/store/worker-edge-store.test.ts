import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { openSqliteLog } from "@tributary/common/engines/sqlite-log";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createStream, GatewayModel, mapStream } from "./testing/gateway-model.ts";
import { ModelCore } from "./testing/model-core.ts";
import { createWorkerEdgeStore } from "./worker-edge-store.ts";

const STREAM = "ab".repeat(16);
const CHILD = new URL("testing/commit-forever.ts", import.meta.url).pathname;
const MAPPING = { id: STREAM, segments: 1, containers: [0] };

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "edge-store-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const paths = () => ({ path: join(folder, "edge.sqlite"), quarantineDir: join(folder, "quarantine") });

/** Runs a store under load in a process of its own, and kills it at some moment after so many acknowledgements. */
async function killedAfter(acknowledgements: number, from: number): Promise<string[]> {
  const { path, quarantineDir } = paths();
  const child = spawn(process.execPath, [CHILD, path, quarantineDir, STREAM, String(from)], { stdio: ["ignore", "pipe", "inherit"] });
  const acked: string[] = [];
  const lines = createInterface({ input: child.stdout });
  lines.on("line", (line) => {
    acked.push(line);
    if (acked.length === acknowledgements) child.kill("SIGKILL");
  });
  await Promise.all([once(lines, "close"), once(child, "exit")]);
  return acked;
}

describe("worker edge store", () => {
  it("has every acknowledged event after SIGKILLs, exactly once and in order", async () => {
    const core = new ModelCore();
    core.register(STREAM, 1, [0]);
    const acked: string[] = [];
    for (const acknowledgements of [1, 40, 333, 1_000]) {
      acked.push(...(await killedAfter(acknowledgements, acked.length * 1_000)));
      const store = createWorkerEdgeStore(paths());
      const gateway = new GatewayModel();
      const opened = await store.open();
      gateway.began(opened);
      expect(opened.report).toMatchObject({ recordsQuarantined: 0, quarantinePath: "" });
      await gateway.commit(store, [], [mapStream(STREAM, MAPPING)]);
      for (const unit of await store.uplinkNext(50_000)) {
        for (const block of unit.blocks) core.append(block);
        await store.uplinkFree(unit.unit);
      }
      await store.close();
    }
    const texts = core.streams.get(STREAM)?.events.map((event) => event.text) ?? [];
    const known = new Set(acked);
    expect(texts.filter((text) => known.has(text))).toEqual(acked);
    expect(new Set(texts).size).toBe(texts.length);
  });

  it("hands over buffers both ways, and closes", async () => {
    const store = createWorkerEdgeStore(paths());
    const gateway = new GatewayModel();
    gateway.began(await store.open());
    await gateway.commit(store, [], [createStream(STREAM), mapStream(STREAM, MAPPING)]);
    const batch = gateway.batch([{ stream: STREAM, key: "k", text: "hello" }]);
    // A part of a larger buffer is copied: what lies beside it stays.
    const arena = new Uint8Array(100).fill(7);
    arena.set(Buffer.from("hello"), 10);
    const { storedBytes } = await store.commit({ ...batch, columns: { ...batch.columns, payload: arena.subarray(10, 15) } });
    expect(storedBytes).toBeGreaterThan(5);
    expect(arena[99]).toBe(7);
    expect(batch.columns.number.length).toBe(0);
    const page = await store.readLocal(STREAM, 0, { eventsMax: 10, bytesMax: 1000 });
    expect(page).toMatchObject({ nextOrdinal: 1, events: [{ ordinal: 0, key: "k", number: 1 }] });
    expect(Buffer.from(page.events[0]?.data ?? []).toString()).toBe("hello");
    const core = new ModelCore();
    core.register(STREAM, 1, [0]);
    for (const unit of await store.uplinkNext(1)) for (const block of unit.blocks) core.append(block);
    expect(core.streams.get(STREAM)?.events).toHaveLength(1);
    await store.close();
    await expect(store.usage()).rejects.toMatchObject({ code: "LOG_CLOSED" });
    const reopened = await store.reopen();
    expect(reopened.state.streams).toMatchObject([{ id: STREAM, nextOrdinal: 1 }]);
    await store.close();
  });

  it("has no thread left when it was closed while one started", async () => {
    const store = createWorkerEdgeStore(paths());
    const opening = store.open();
    await store.close();
    await expect(opening).rejects.toMatchObject({ code: "LOG_CLOSED" });
    // Nobody holds the log.
    await (await openSqliteLog(paths().path)).close();
  });

  it("carries errors over with code and details, and puts damaged records aside", async () => {
    const { path } = paths();
    const log = await openSqliteLog(path);
    await log.append(new Uint8Array([1, 2, 3]), 0);
    await log.close();
    const store = createWorkerEdgeStore(paths());
    const opened = await store.open();
    expect(opened.report).toMatchObject({ recordsQuarantined: 1, quarantinePath: paths().quarantineDir });
    expect(readdirSync(paths().quarantineDir)).toEqual([expect.stringMatching(/^edge-record-1-[0-9a-f]{8}\.bin$/)]);
    const batch = new GatewayModel().batch([{ stream: STREAM, key: "", text: "no such stream" }]);
    await expect(store.commit(batch)).rejects.toMatchObject({ code: "INTERNAL" });
    await expect(store.uplinkNext(1)).rejects.toMatchObject({ code: "LOG_CLOSED" });
    await store.close();
  });
});
