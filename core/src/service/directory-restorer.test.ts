import type { Clock } from "@tributary/common/clock";
import { TributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import { ManualClock } from "@tributary/common/testing/manual-clock";
import { expect, it } from "vitest";
import type { Container } from "../container/container.ts";
import { DirectoryRestorer } from "./directory-restorer.ts";
import { StreamDirectory } from "./stream-directory.ts";
import type { StreamRegistrar } from "./stream-registrar.ts";
import { FakeContainer, FakeWal } from "./testing/fake-container.ts";
import { fastClock, seededRandom } from "./testing/fast-clock.ts";
import { MemoryMetaStore } from "./testing/memory-meta-store.ts";

const NAME = { scope: "plant", stream: "press" };
const ID = "a".repeat(32);
const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} };

async function setUp(clock: Clock = fastClock()) {
  const store = new MemoryMetaStore();
  const access = { meta: store, clock, random: seededRandom(1) };
  const directory = new StreamDirectory(access, SILENT);
  await directory.start();
  const container = new FakeContainer(0, 1, new FakeWal());
  await container.open();
  let held = true;
  const host = {
    get(): Container {
      if (!held) throw new TributaryError("CONTAINER_NOT_OWNED", "the lease ran out");
      return container;
    },
  };
  const ended = new AbortController();
  const restorer = new DirectoryRestorer({ access, directory, registrar: {} as StreamRegistrar, host, log: SILENT });
  const begin = (id = 0) => restorer.opened({ container: id, epoch: 1, ended: ended.signal });
  const end = async () => {
    ended.abort();
    await restorer.close();
    await directory.close();
  };
  const hold = (holds: boolean) => {
    held = holds;
  };
  const register = async () => {
    await directory.create(NAME, { id: ID, contentType: "", segments: 1, containers: [0], createdAtMs: 5, closed: false });
    const origin = { name: NAME, createdAtMs: 5, containers: [0] };
    await container.ensureStream({ id: ID, segments: [{ generation: 0, epoch: 0, number: 0 }], contentType: "", closed: false, origin });
  };
  const named = async () => (await new StreamDirectory(access, SILENT).find(NAME))?.record.id === ID;
  return { store, begin, end, hold, register, named };
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  for (let turns = 0; !(await condition()); turns++) {
    if (turns > 2_000) throw new Error("it never came true");
    await new Promise((resolve) => setImmediate(resolve));
  }
}

it("gives a stream its name back that the MetaStore forgot while the container was open, without anybody noticing", async () => {
  const { store, begin, end, register, named } = await setUp();
  const before = store.save();
  begin();
  await register();
  expect(await named()).toBe(true);
  store.restore(before);
  expect(await named()).toBe(false);
  await until(named);
  await end();
});

it("goes on comparing after a lease ran out and was renewed", async () => {
  const { store, begin, end, hold, register, named } = await setUp();
  const before = store.save();
  await register();
  hold(false);
  begin();
  store.restore(before);
  for (let turns = 0; turns < 50; turns++) await new Promise((resolve) => setImmediate(resolve));
  hold(true);
  await until(named);
  await end();
});

it("spends little of the time on it, however many containers a node has", async () => {
  const clock = new ManualClock();
  const { store, begin, end, register } = await setUp(clock);
  await register();
  const list = store.list.bind(store);
  const takesMs = 100;
  let listings = 0;
  store.list = async (prefix) => {
    listings++;
    await new Promise<void>((resolve) => clock.setTimer(takesMs, resolve));
    return list(prefix);
  };
  for (let id = 0; id < 100; id++) begin(id);
  const minutes = 10;
  for (let ms = 0; ms < minutes * 60_000; ms += takesMs) {
    clock.advance(takesMs);
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(listings).toBeGreaterThan(100);
  expect(listings * takesMs).toBeLessThan((minutes * 60_000) / 10);
  await end();
});
