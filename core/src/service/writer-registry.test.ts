import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import { expect, test } from "vitest";
import { fastClock, seededRandom } from "./testing/fast-clock.ts";
import { MemoryMetaStore } from "./testing/memory-meta-store.ts";
import { WriterRegistry } from "./writer-registry.ts";

const WRITER = "a".repeat(16);
const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} };

const incarnationOf = (i: number) => i.toString(16).padStart(16, "0");

test("of too many incarnations the oldest are forgotten, and the newest found as a sibling, though the clock went back", async () => {
  let wallMs = 10_000_000;
  const meta = new MemoryMetaStore();
  const clock = { ...fastClock(), nowMs: () => wallMs };
  const registry = new WriterRegistry({ meta, clock, random: seededRandom(1) }, SILENT);
  const hello = (i: number, parent: number) =>
    registry.hello({
      type: "hello",
      writer: WRITER,
      incarnation: incarnationOf(i),
      parent: parent < 0 ? undefined : incarnationOf(parent),
      name: "gw",
      version: "1",
    });
  for (let i = 0; i < LIMITS.incarnationsPerWriterMax; i++) expect(await hello(i, i - 1)).toEqual([]);
  // Each start comes an hour before the one before it: by the clock the newest are the oldest.
  for (let i = 0; i < 3; i++) {
    wallMs -= 3_600_000;
    const started = LIMITS.incarnationsPerWriterMax + i;
    expect(await hello(started, started - 1)).toEqual([]);
  }
  // A clone of the last state starts: the one that it was copied from is still known.
  const last = LIMITS.incarnationsPerWriterMax + 2;
  expect(await hello(last + 1, last - 1)).toEqual([incarnationOf(last)]);
  const kept = (await meta.list(`writers/${WRITER}`)).map(({ key }) => key);
  expect(kept).toHaveLength(LIMITS.incarnationsPerWriterMax);
  expect(kept[0]).toBe(`writers/${WRITER}/${incarnationOf(4)}`);
});
