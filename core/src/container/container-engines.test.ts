import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@tributary/common/clock";
import { openFsObjectStore } from "@tributary/common/engines/fs-object-store";
import { openSqliteLog } from "@tributary/common/engines/sqlite-log";
import { systemRandom } from "@tributary/common/random";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Container } from "./container.ts";
import { createContainer } from "./create-container.ts";
import { request, STREAM } from "./testing/bench.ts";
import { SEGMENT } from "./testing/gateway.ts";

let dir = "";
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "container-"));
});
afterEach(async () => {
  await rm(dir, { recursive: true });
});

async function readAll(container: Container): Promise<string[]> {
  const texts: string[] = [];
  for (;;) {
    const page = await container.read(STREAM, texts.length, { eventsMax: 1_000, bytesMax: 1_000_000 });
    if (page.events.length === 0) return texts;
    texts.push(...page.events.map((event) => Buffer.from(event.data).toString()));
  }
}

describe("a container on SQLite and the file system", () => {
  it("loses and doubles nothing when its log is torn away again and again", async () => {
    const objects = await openFsObjectStore(join(dir, "lake"));
    const acknowledged = [0, 0, 0, 0];
    for (let epoch = 1; epoch <= 6; epoch++) {
      const log = await openSqliteLog(join(dir, "wal.sqlite"));
      const options = { flushBytes: 20_000, flushIntervalMs: 20, checkpointObjectsMax: 2, frameBytesTarget: 4_000, truncateBytes: 1 };
      const container = createContainer({ id: 1, epoch, log, objects, clock: systemClock, random: systemRandom, options });
      await container.open();
      await container.ensureStream({ id: STREAM, segments: [SEGMENT], contentType: "text/plain", closed: false });
      let torn = false;
      const clients = acknowledged.map(async (_, client) => {
        for (;;) {
          const seq = acknowledged[client] as number;
          try {
            await container.append(
              STREAM,
              request([`${client} ${seq} ${"x".repeat(200)}`], { producer: { id: `p${client}`, epoch: 0, seq } }),
            );
            acknowledged[client] = seq + 1;
          } catch {
            return;
          }
          if (torn) return;
        }
      });
      const goal = epoch * 60;
      while (Math.min(...acknowledged) < goal) await new Promise((resolve) => setImmediate(resolve));
      torn = true;
      await log.close();
      await Promise.all(clients);
      await container.close();
    }
    const log = await openSqliteLog(join(dir, "wal.sqlite"));
    const container = createContainer({ id: 1, epoch: 7, log, objects, clock: systemClock, random: systemRandom });
    await container.open();
    expect(container.status().walFirst).toBeGreaterThan(1);
    const texts = await readAll(container);
    acknowledged.forEach((count, client) => {
      const own = texts.filter((text) => text.startsWith(`${client} `)).map((text) => Number(text.split(" ")[1]));
      expect(own.length).toBeGreaterThanOrEqual(count);
      expect(own).toEqual(own.map((_, i) => i));
    });
    await container.close();
    await log.close();
    await objects.close();
  });
});
