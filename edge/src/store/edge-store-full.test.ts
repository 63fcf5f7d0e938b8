import { systemClock } from "@tributary/common/clock";
import { describe, expect, it } from "vitest";
import { createEdgeStore, type DiskReserve } from "./log-edge-store.ts";
import { seededRandom } from "./testing/gateway-model.ts";
import { MemoryLog } from "./testing/memory-log.ts";
import { Site } from "./testing/site.ts";

async function fillUp(site: Site): Promise<void> {
  for (;;) {
    try {
      await site.gateway.commit(site.store, site.events([{ stream: 0, key: 1, size: 300 }]));
    } catch (error) {
      expect(error).toMatchObject({ code: "STORAGE_FULL" });
      return;
    }
  }
}

describe("edge store on a full disk", () => {
  it("fails the commit and those behind it, keeps what it has, and goes on once there is room", async () => {
    const site = new Site(8);
    await site.open();
    await site.create(1);
    site.disk.bytesMax = 8_000;
    await fillUp(site);
    await expect(site.gateway.commit(site.store, site.events([{ stream: 0, key: 1, size: 1 }]))).rejects.toMatchObject({
      code: "LOG_CLOSED",
    });
    await expect(site.store.uplinkNext(1)).rejects.toMatchObject({ code: "LOG_CLOSED" });
    site.disk.bytesMax = 10_000;
    await site.reopen();
    await site.gateway.commit(site.store, site.events([{ stream: 0, key: 1, size: 10 }]));
    site.disk.bytesMax = Number.POSITIVE_INFINITY;
    await site.drain();
    site.checkCore();
  });

  it("gives up its reserve to open and to drop, and takes it back when there is room", async () => {
    const site = new Site(8);
    const { disk } = site;
    let held = true;
    const reserve: DiskReserve = {
      release() {
        const had = held;
        if (held) disk.bytesMax += 4_000;
        held = false;
        return had;
      },
      restore() {
        if (held || disk.bytes + 4_000 > disk.bytesMax) return;
        disk.bytesMax -= 4_000;
        held = true;
      },
    };
    site.store = createEdgeStore({
      log: async () => ({ log: new MemoryLog(disk), report: { recordsQuarantined: 0, quarantinePath: "" } }),
      random: seededRandom(1),
      clock: systemClock,
      reserve,
      checkpointBytesMin: 1_000_000,
    });
    await site.open();
    await site.create(1);
    disk.bytesMax = 8_000;
    await fillUp(site);
    disk.bytesMax = disk.bytes;
    await site.reopen();
    expect(held).toBe(false);
    disk.bytesMax = disk.bytes + 4_000;
    reserve.restore();
    expect(held).toBe(true);
    // Full to the last byte: the drop has nothing but the reserve.
    disk.bytesMax = disk.bytes;
    const { eventsDropped } = await site.store.dropOldest(4_000);
    expect(eventsDropped).toBeGreaterThan(0);
    expect(held).toBe(true);
    disk.bytesMax = Number.POSITIVE_INFINITY;
    await site.drain();
    site.checkCore({ withGaps: true });
  });

  it("reclaims what was freed and is kept, and nothing that is held", async () => {
    const site = new Site(13);
    site.store = createEdgeStore({
      log: async () => ({ log: new MemoryLog(site.disk), report: { recordsQuarantined: 0, quarantinePath: "" } }),
      random: seededRandom(1),
      clock: systemClock,
      checkpointBytesMin: 1_000_000,
    });
    await site.open();
    await site.create(1);
    await site.gateway.commit(site.store, [], site.mapping(0, false, 1));
    const append = () => site.gateway.commit(site.store, site.events(Array.from({ length: 9 }, () => ({ stream: 0, key: 1, size: 900 }))));
    await append();
    await site.drain();
    await append();
    const before = await site.store.usage();
    expect(before.eventsHeld).toBe(9);
    // Below the target nothing is done.
    expect((await site.store.reclaim(before.diskBytes)).bytesFreed).toBe(0);
    const { bytesFreed, eventsDropped } = await site.store.reclaim(0);
    expect(eventsDropped).toBe(0);
    expect(bytesFreed).toBeGreaterThan(0);
    expect(await site.store.usage()).toMatchObject({ eventsHeld: 9, diskBytes: before.diskBytes - bytesFreed });
    await site.restart();
    await site.drain();
    site.checkCore();
  });
});
