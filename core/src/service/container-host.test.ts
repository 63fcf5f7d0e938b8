import type { Logger } from "@tributary/common/logger";
import { ManualClock } from "@tributary/common/testing/manual-clock";
import { afterEach, describe, expect, test, vi } from "vitest";
import type { Cluster } from "../cluster/cluster.ts";
import { winEpoch } from "./cluster-record.ts";
import { ContainerHost } from "./container-host.ts";
import { FakeContainer, FakeWal } from "./testing/fake-container.ts";
import { seededRandom } from "./testing/fast-clock.ts";
import { MemoryMetaStore } from "./testing/memory-meta-store.ts";

const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} };

/** A cluster that says what the test wants. */
class Says implements Cluster {
  readonly node = "aa";
  readonly containers = 1;
  handoverMs = 4_000;
  readonly shared = true;
  readonly draining = false;
  assigned = true;
  lease = true;
  won = 0;
  readonly #changed: (() => void)[] = [];
  readonly #lost: (() => void)[] = [];

  holds(): boolean {
    return this.lease;
  }
  isAssigned(): boolean {
    return this.assigned;
  }
  mayTake(): boolean {
    return true;
  }
  onChange(listener: () => void): () => void {
    this.#changed.push(listener);
    return () => {};
  }
  onLost(listener: () => void): void {
    this.#lost.push(listener);
  }
  change(): void {
    for (const listener of this.#changed) listener();
  }
  lose(): void {
    this.assigned = false;
    for (const listener of this.#lost) listener();
  }
  members() {
    return [];
  }
  ownerOf(): undefined {}
  epochWon(): number {
    return this.won;
  }
  tookOwner(): void {}
  async start(): Promise<void> {}
  announce(): void {}
  async raise(): Promise<number> {
    return 1;
  }
  setDraining(): void {}
  async drain(): Promise<void> {}
  async leave(): Promise<void> {}
}

async function hosting(cluster = new Says()) {
  const meta = new MemoryMetaStore();
  const wal = new FakeWal();
  const instances: FakeContainer[] = [];
  const factory = (id: number, epoch: number) => {
    const container = new FakeContainer(id, epoch, wal);
    instances.push(container);
    return container;
  };
  const clock = new ManualClock();
  const access = { meta, clock, random: seededRandom(1) };
  const host = new ContainerHost(access, cluster, factory, SILENT);
  await host.start();
  const closed = vi.spyOn(FakeContainer.prototype, "close");
  const released = async () => Buffer.from((await meta.get("containers/0/owner"))?.value ?? []).includes(Buffer.from([0xf5]));
  return { cluster, host, instances, closed, released, access };
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe("a host of containers", () => {
  test("answers for none of them while the node does not hold its lease, and keeps them open", async () => {
    const { cluster, host, instances } = await hosting();
    expect(host.get(0)).toBe(instances[0]);
    cluster.lease = false;
    expect(() => host.get(0)).toThrow(expect.objectContaining({ code: "CONTAINER_NOT_OWNED" }));
    cluster.lease = true;
    expect(host.get(0)).toBe(instances[0]);
    await host.close();
  });

  test("flushes what it gives away for a bounded time, and then says that it is released", async () => {
    const { cluster, host, closed, released } = await hosting();
    cluster.assigned = false;
    cluster.change();
    await vi.waitFor(() => expect(host.isEmpty).toBe(true));
    expect(() => host.get(0)).toThrow(expect.objectContaining({ code: "CONTAINER_NOT_OWNED" }));
    expect(closed.mock.calls).toEqual([[{ withinMs: 2_000 }]]);
    expect(await released()).toBe(true);
  });

  test("drops everything at once when the node was declared dead, and writes nothing", async () => {
    const { cluster, host, closed, released } = await hosting();
    cluster.lose();
    await vi.waitFor(() => expect(host.isEmpty).toBe(true));
    expect(closed.mock.calls).toEqual([[{ withinMs: 0 }]]);
    expect(await released()).toBe(false);
  });

  test("does not speak of an owner that kept a container where there is none, however soon it would take it by force", async () => {
    const warn = vi.spyOn(SILENT, "warn");
    const cluster = new Says();
    cluster.handoverMs = 0;
    const { host, instances } = await hosting(cluster);
    expect(host.get(0)).toBe(instances[0]);
    expect(warn).not.toHaveBeenCalled();
    await host.close();
  });

  test("takes a container again of which somebody else won a later epoch and never used it", async () => {
    const { cluster, host, instances, closed, access } = await hosting();
    expect(await winEpoch(access, { container: 0, node: "bb", above: 3, mayTake: () => true })).toBe(4);
    cluster.won = 4;
    cluster.change();
    await vi.waitFor(() => expect(closed.mock.calls).toEqual([[{ withinMs: 0 }]]));
    await vi.waitFor(() => {
      access.clock.advance(100);
      expect(host.get(0)).toBe(instances[1]);
    });
    expect(host.status()[0]?.epoch).toBe(5);
    await host.close();
  });

  test("opens again what comes back while it is being given away", async () => {
    const { cluster, host, instances } = await hosting();
    cluster.assigned = false;
    cluster.change();
    cluster.assigned = true;
    cluster.change();
    await vi.waitFor(() => expect(host.get(0)).toBe(instances[1]));
    expect(instances).toHaveLength(2);
    await host.close();
  });
});
