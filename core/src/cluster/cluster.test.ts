import { afterEach, describe, expect, it } from "vitest";
import { CONTAINERS_KEY, ownerKey, releaseContainer, winEpoch } from "../service/cluster-record.ts";
import { decodeStreamRecord, encodeStreamRecord, nameOfKey, streamKey } from "../service/stream-record.ts";
import { seededRandom } from "../service/testing/fast-clock.ts";
import { decodeOwnerRecord, encodeOwnerRecord } from "./cluster-codec.ts";
import { HANDOVER_MS, LEASE_MS, type MetaFault, NodeWorld, STEP_MS, serves, type TestNode } from "./testing/node-world.ts";

const CONTAINERS = 4;

let world = new NodeWorld();
afterEach(() => {
  // Nothing of it goes on: its time stands still.
  world = new NodeWorld();
});

async function threeNodes(): Promise<[TestNode, TestNode, TestNode]> {
  const one = await world.start("one");
  const two = await world.start("two");
  const three = await world.start("three");
  await world.until(() => world.balanced(CONTAINERS), 10_000);
  return [one, two, three];
}

function epochs(node: TestNode): number[] {
  return node.core?.status().containers.map((hosted) => hosted.epoch) ?? [];
}

/** Sum over the containers of how often they have changed hands. */
function takeOvers(): number {
  return world.nodes.reduce((sum, node) => sum + node.instances.length, 0);
}

function owned(node: TestNode): number[] {
  return Array.from({ length: 16 }, (_, id) => id).filter((id) => serves(node, id));
}

/** The node knows where the container is served. */
function finds(node: TestNode, id: number): boolean {
  const owner = node.core?.cluster.ownerOf(id)?.node;
  return world.serving(id).some(({ core }) => core?.status().node === owner);
}

/** No container is answered for by two nodes: the later one has taken it only once the earlier one knew. */
function atMostOneEach(containers = CONTAINERS): void {
  for (let id = 0; id < containers; id++) {
    const names = world.serving(id).map((node) => node.name);
    expect(names.length, `container ${id} served by ${names.join(" and ")}`).toBeLessThanOrEqual(1);
  }
}

describe("containers", () => {
  it("are all served by a node that is alone", async () => {
    const one = await world.start("one");
    expect(owned(one)).toEqual([0, 1, 2, 3]);
    expect(world.clock.monotonicMs()).toBeLessThan(200);
    expect(one.core?.status()).toMatchObject({ member: true, draining: false, leasesLost: 0, members: [{ name: "one" }] });
  });

  it("of a node that dies are served again within 3 s, and the others stay where they are", async () => {
    const [one, two, three] = await threeNodes();
    const stayed = [...owned(one), ...owned(three)];
    const before = epochs(one);
    world.kill(two);
    expect(await world.until(() => world.allServed(CONTAINERS), 10_000)).toBeLessThanOrEqual(3_000);
    await world.pass(5_000);
    expect(world.balanced(CONTAINERS)).toBe(true);
    for (const id of stayed) expect(epochs(one)[id]).toBe(before[id]);
  });

  it("of a node that dies in the middle of a deletion are taken over with it", async () => {
    const one = await world.start("one");
    const two = await world.start("two");
    await world.until(() => world.balanced(CONTAINERS), 10_000);
    // Two cannot ask one here: a stream of one's own containers is wanted.
    const records = async () => (await world.store.list("streams")).map(({ key, value }) => decodeStreamRecord(key, value));
    for (let i = 0; i < 16; i++) one.core?.streams.create({ scope: "s", stream: `s${i}` }, {}).catch(() => {});
    await world.pass(1_000);
    const streams = await world.store.list("streams");
    const mine = streams.find(({ key, value }) => owned(one).includes(decodeStreamRecord(key, value).containers[0] ?? -1));
    const name = nameOfKey(mine?.key ?? "");
    one.meta.faults = (operation, key) => {
      if (operation === "update" && key === mine?.key) world.kill(one);
      return undefined;
    };
    void one.core?.streams.delete(name);
    await world.until(() => one.process.dead, 1_000);
    const states = async () => (await records()).map(({ state }) => state);
    expect(await states()).toContain("deleting");
    await world.until(() => owned(two).length === CONTAINERS, 10_000);
    await world.pass(1_000);
    expect(await states()).toContain("deleted");
    expect(await states()).not.toContain("deleting");
  });

  it("move no more than they must while nodes start one after the other", async () => {
    for (const name of ["one", "two", "three"]) await world.start(name, { containers: 16 });
    await world.until(() => world.balanced(16), 10_000);
    await world.pass(5_000);
    // 16 were opened by the first, and 10 or 11 of them moved once.
    expect(takeOvers()).toBeLessThanOrEqual(16 + 11);
  });

  it("are given away by a node that stops, at once and without a gap in the table", async () => {
    const [one, two, three] = await threeNodes();
    const mine = owned(one);
    const closing = one.core?.close();
    await world.until(() => mine.every((id) => serves(two, id) || serves(three, id)), 1_000);
    await world.until(() => two.core?.status().members.length === 2, 1_000);
    await closing;
    expect(world.logged.some((line) => line.includes("declared dead"))).toBe(false);
    expect(world.logged.some((line) => line.includes("did not release"))).toBe(false);
  });

  it("are flushed and closed by the last node that stops, which waits for nobody", async () => {
    const one = await world.start("one");
    const closing = one.core?.close();
    await world.pass(200);
    await closing;
    const next = await world.start("next");
    expect(owned(next)).toEqual([0, 1, 2, 3]);
    expect(world.clock.monotonicMs()).toBeLessThan(1_000);
  });

  it("of a node that was killed while alone are served when it starts again", async () => {
    world.kill(await world.start("one"));
    const next = await world.start("next");
    expect(owned(next)).toEqual([0, 1, 2, 3]);
    expect(world.clock.monotonicMs()).toBeLessThan(3_000);
  });

  it("become more while the cluster runs", async () => {
    const [one, two, three] = await threeNodes();
    const raised = one.core?.raiseContainers(16);
    await world.until(() => world.allServed(16), 3_000);
    expect(await raised).toBe(16);
    await world.until(() => world.balanced(16), 5_000);
    expect([one, two, three].map((node) => node.core?.cluster.containers)).toEqual([16, 16, 16]);
    await expect(one.core?.raiseContainers(100_000)).rejects.toMatchObject({ code: "INVALID_REQUEST" });
  });

  it("become more when a node starts that wants more", async () => {
    await threeNodes();
    await world.start("four", { containers: 9 });
    await world.until(() => world.balanced(9), 10_000);
  });

  it("of which a node that was behind won an epoch that it gave back unused are found again by everybody", async () => {
    const nodes = await threeNodes();
    const [one] = nodes;
    const id = owned(one)[0] ?? -1;
    const access = { meta: world.store, clock: world.clock, random: seededRandom(1) };
    const behind = "0000000000000000";
    const epoch = (await winEpoch(access, { container: id, node: behind, above: 0, mayTake: () => true })) ?? 0;
    await releaseContainer(access, id, behind, epoch);
    const finds = (node: TestNode) => node.core?.cluster.ownerOf(id)?.node === one.core?.status().node;
    await world.until(() => serves(one, id) && nodes.every(finds), 5_000);
    expect(epochs(one)[id]).toBeGreaterThan(epoch);
    expect(world.balanced(CONTAINERS)).toBe(true);
  });

  it("that their owner does not release are taken from it after a while", async () => {
    const one = await world.start("one");
    // Its records of owners cannot be written any more.
    one.meta.faults = (operation, key) => (operation === "update" && key.endsWith("/owner") ? "unreachable" : undefined);
    const two = await world.start("two");
    await world.until(() => owned(two).length === 2, LEASE_MS + HANDOVER_MS + 2_000);
    expect(world.logged.some((line) => line.includes("did not release"))).toBe(true);
    expect(one.core?.status().leasesLost).toBe(0);
  });
});

describe("a node that was paused", () => {
  it("for longer than its lease and then declared dead serves nothing of what it had", async () => {
    const [one, two, three] = await threeNodes();
    const node = one.core?.status().node;
    one.process.pause();
    await world.until(() => [0, 1, 2, 3].every((id) => serves(two, id) || serves(three, id)), 3_000);
    expect(owned(one)).toEqual([]);
    one.process.resume();
    for (let turn = 0; turn < 20; turn++) {
      await new Promise((resolve) => setImmediate(resolve));
      atMostOneEach();
    }
    await world.pass(5_000, atMostOneEach);
    expect(world.balanced(CONTAINERS)).toBe(true);
    expect(one.core?.status()).toMatchObject({ leasesLost: 1, member: true });
    expect(one.core?.status().node).not.toBe(node);
  });

  it("serves nothing until it has renewed its lease, even if nobody declared it dead", async () => {
    const one = await world.start("one");
    one.process.pause();
    await world.pass(LEASE_MS + 10);
    expect(owned(one)).toEqual([]);
    expect(() => one.core?.status().member).not.toThrow();
    one.process.resume();
    await world.until(() => owned(one).length === CONTAINERS, 1_000);
    expect(one.core?.status().leasesLost).toBe(0);
    expect(takeOvers()).toBe(CONTAINERS);
  });

  it("serves what it is given after it joined again, also if its watches tell it so before it can read the records", async () => {
    // Of this seed the other one has the lower id, and assigns.
    world = new NodeWorld(2);
    const one = await world.start("one");
    await world.start("two");
    await world.until(() => world.balanced(CONTAINERS), 10_000);
    one.process.pause();
    await world.until(() => world.nodes.some((node) => owned(node).length === CONTAINERS), 5_000);
    const joinsAgain = () => world.logged.some((line) => line.includes("joins the cluster anew"));
    one.meta.faults = (operation) => (operation === "list" && joinsAgain() ? "unreachable" : undefined);
    one.process.resume();
    const assignments = () => world.logged.filter((line) => line.includes("containers were assigned")).length;
    const before = assignments();
    await world.until(() => assignments() > before, 5_000);
    await world.pass(100);
    expect(owned(one)).toEqual([]);
    one.meta.faults = () => undefined;
    await world.until(() => world.balanced(CONTAINERS), 5_000);
  });

  it("does not take the others for dead because it has not seen them", async () => {
    const [one] = await threeNodes();
    one.process.pause();
    await world.pass(10_000);
    one.process.resume();
    await world.pass(5_000, atMostOneEach);
    const deaths = world.logged.filter((line) => line.includes("a node was declared dead"));
    expect(deaths.every((line) => line.includes('"name":"one"'))).toBe(true);
    expect(world.balanced(CONTAINERS)).toBe(true);
  });
});

describe("a cluster", () => {
  it("whose MetaStore is away for a while serves nothing, and then goes on without a single take-over", async () => {
    const nodes = await threeNodes();
    const before = takeOvers();
    for (const node of nodes) node.meta.faults = () => "unreachable";
    await world.pass(20_000, atMostOneEach);
    for (const node of nodes) expect(owned(node)).toEqual([]);
    for (const node of nodes) node.meta.faults = () => undefined;
    await world.until(() => world.balanced(CONTAINERS), 1_000);
    expect(takeOvers()).toBe(before);
  });

  it("whose MetaStore does not answer can be stopped all the same", async () => {
    const [one] = await threeNodes();
    one.meta.faults = () => "silent";
    let closed = false;
    void one.core?.close().then(() => {
      closed = true;
    });
    await world.until(() => closed, 20_000);
  });

  it("whose watches are all lost without a word notices everything by itself, and begins them anew", async () => {
    const [one, two, three] = await threeNodes();
    for (const node of world.nodes) node.meta.forgetWatches();
    world.kill(two);
    expect(await world.until(() => world.allServed(CONTAINERS), 10_000)).toBeLessThanOrEqual(3_000);
    void one.core?.raiseContainers(6);
    await world.until(() => world.allServed(6), 6_000);
    await world.until(
      () => [one, three].every((node) => [0, 1, 2, 3, 4, 5].every((id) => node.core?.cluster.ownerOf(id)?.node !== undefined)),
      6_000,
    );
    expect(world.logged.filter((line) => line.includes("was lost and is begun again")).length).toBeGreaterThan(0);
  });

  it.each([300, 2_000, 20_000])("whose MetaStore goes back by %d ms finds together again", async (backMs) => {
    const nodes = await threeNodes();
    await world.pass(3_000);
    const past = world.store.save();
    const [one, two, three] = nodes;
    // Those who are members and what is assigned changes meanwhile.
    world.kill(two);
    await world.pass(backMs);
    world.store.restore(past);
    await world.until(() => [one, three].every((node) => node.core?.status().members.length === 2) && world.balanced(CONTAINERS), 15_000);
    await world.pass(3_000, atMostOneEach);
    expect(world.balanced(CONTAINERS)).toBe(true);
    const four = await world.start("four");
    await world.until(() => world.balanced(CONTAINERS) && owned(four).length > 0, 10_000);
  });

  it("whose MetaStore goes back finds under a name what has it now, also at a node without containers (simulation, seed 6723)", async () => {
    const [one, two, three] = await threeNodes();
    two.core?.setDraining(true);
    for (const node of world.nodes) node.core?.announce(`http://${node.name}`);
    await world.until(() => owned(two).length === 0 && world.allServed(CONTAINERS), 10_000);
    await world.pass(1_000);
    const past = world.store.save();
    const name = { scope: "plant", stream: "press" };
    const put = (id: string, container: number) => {
      const of = { contentType: "text/plain", createdAtMs: 0, closed: false, past: [], deletedAtMs: 0 };
      const record = encodeStreamRecord({ ...of, id: id.repeat(32), segments: 1, containers: [container], state: "open" });
      return world.store.create(streamKey(name), record);
    };
    await put("a", 0);
    expect(await two.core?.ownerUrl(name)).toBe(`http://${world.serving(0)[0]?.name}`);
    two.meta.forgetWatches();
    await world.pass(2_000);
    world.store.restore(past);
    await world.until(() => two.core?.status().leasesLost === 1 && world.allServed(CONTAINERS), 10_000);
    await world.pass(3_000);
    expect(owned(two)).toEqual([]);
    const other = serves(one, 0) ? three : one;
    await put("b", owned(other)[0] ?? -1);
    expect(await two.core?.ownerUrl(name)).toBe(`http://${other.name}`);
  });

  it.each(["of somebody before", "missing"])(
    "whose MetaStore forgot a take-over, so that its record is %s, finds the container again",
    async (what) => {
      const nodes = await threeNodes();
      const [one] = nodes;
      const id = owned(one)[0] ?? -1;
      const key = ownerKey(id);
      const { value, revision } = world.store.at(key, 0) ?? { value: new Uint8Array(), revision: 0 };
      // Revisions have gone on since, and show nothing.
      if (what === "missing") await world.store.delete(key, revision);
      else await world.store.update(key, encodeOwnerRecord({ ...decodeOwnerRecord(key, value), node: "0000000000000000" }), revision);
      const four = await world.start("four");
      await world.until(() => world.balanced(CONTAINERS) && world.serving(id).length === 1 && finds(four, id), 15_000);
      await world.until(() => nodes.every((node) => finds(node, id)), 5_000);
      await world.pass(10_000, atMostOneEach);
      expect(nodes.map((node) => node.core?.status().leasesLost)).toEqual([1, 0, 0]);
    },
  );

  it("whose MetaStore often gives old records of owners does not take that for records that went back", async () => {
    const nodes = await threeNodes();
    let oldLooks = 0;
    for (const node of nodes) {
      let looks = 0;
      node.meta.faults = (operation, key) => {
        if (operation !== "list" || key !== CONTAINERS_KEY || ++looks % 3 === 0) return undefined;
        oldLooks++;
        return "stale";
      };
    }
    await world.pass(30_000, atMostOneEach);
    expect(oldLooks).toBeGreaterThan(10);
    expect(nodes.map((node) => node.core?.status().leasesLost)).toEqual([0, 0, 0]);
  });

  it("whose MetaStore is slow to list does not take that for records that went back", async () => {
    const nodes = await threeNodes();
    const before = takeOvers();
    for (const node of nodes) node.meta.faults = (operation) => (operation === "list" ? "slow" : undefined);
    await world.pass(15_000, atMostOneEach);
    expect(nodes.map((node) => node.core?.status().leasesLost)).toEqual([0, 0, 0]);
    expect(world.logged.filter((line) => line.includes("went back"))).toEqual([]);
    expect(takeOvers()).toBe(before);
  });

  it("whose MetaStore takes longer for a beat than a beat lasts serves all the same", async () => {
    const nodes = await threeNodes();
    const before = takeOvers();
    for (const node of nodes) node.meta.faults = (operation) => (operation === "update" ? "slow" : undefined);
    let served = 0;
    await world.pass(15_000, () => {
      atMostOneEach();
      served += world.allServed(CONTAINERS) ? STEP_MS : 0;
    });
    expect(served).toBeGreaterThan(14_000);
    for (const node of nodes) node.meta.faults = () => undefined;
    await world.until(() => world.allServed(CONTAINERS), 1_000);
    expect(nodes.map((node) => node.core?.status().leasesLost)).toEqual([0, 0, 0]);
    expect(takeOvers()).toBe(before);
  });

  it("does not care about wall clocks", async () => {
    const [one, two] = await threeNodes();
    const before = takeOvers();
    one.process.wallOffMs = 3_600_000;
    await world.pass(3_000, atMostOneEach);
    two.process.wallOffMs = -3_600_000;
    await world.pass(3_000, atMostOneEach);
    expect(world.balanced(CONTAINERS)).toBe(true);
    expect(takeOvers()).toBe(before);
  });

  it("with two coordinators at once comes to one assignment", async () => {
    const [one, two, three] = await threeNodes();
    // Two of them do not see each other for a while, and both believe that they are the lowest.
    const [low, next] = [one, two, three].sort((a, b) => ((a.core?.status().node ?? "") < (b.core?.status().node ?? "") ? -1 : 1));
    const lowKey = `nodes/${low?.core?.status().node}`;
    next?.meta.forgetWatches();
    if (next)
      next.meta.faults = (operation, key) => (operation === "list" || (operation === "delete" && key === lowKey) ? "stale" : undefined);
    const four = await world.start("four");
    await world.pass(4_000, atMostOneEach);
    if (next) next.meta.faults = () => undefined;
    await world.until(() => world.balanced(CONTAINERS), 10_000);
    const owners = (node: TestNode) => node.core?.status().containers.map((hosted) => hosted.owner);
    await world.pass(3_000);
    for (const node of [one, two, three]) expect(owners(node)).toEqual(owners(four));
  });

  it.each(["landed", "lost", "late"] as const)(
    "starts, moves and drains while half of the changes are of unknown result (%s)",
    async (fault) => {
      const random = seededRandom(7);
      const faults = (operation: string): MetaFault =>
        operation !== "get" && operation !== "list" && random.float() < 0.5 ? fault : undefined;
      for (const name of ["one", "two", "three"]) await world.start(name, { faults });
      await world.until(() => world.balanced(CONTAINERS), 60_000);
      const [one, two] = world.nodes;
      if (two) world.kill(two);
      await world.until(() => world.allServed(CONTAINERS), 30_000);
      void one?.core?.close();
      await world.until(() => world.nodes.some((node) => node !== one && owned(node).length === CONTAINERS), 60_000);
    },
  );

  it("never has two owners of a container answer, whatever happens, and heals", async () => {
    for (let seed = 1; seed <= 25; seed++) {
      world = new NodeWorld(seed);
      const random = seededRandom(seed);
      const kinds: MetaFault[] = ["landed", "lost", "late", "stale", "unreachable"];
      const faults = (): MetaFault => (random.float() < 0.1 ? kinds[Math.floor(random.float() * kinds.length)] : undefined);
      for (let i = 0; i < 3; i++) world.begin(`n${i}`, { faults });
      for (let event = 0; event < 8; event++) {
        await world.pass(Math.floor(random.float() * 3_000), atMostOneEach);
        const node = world.nodes[Math.floor(random.float() * world.nodes.length)];
        const what = Math.floor(random.float() * 6);
        if (what === 0 && node) world.kill(node);
        if (what === 1) node?.process.pause();
        if (what === 2) node?.process.resume();
        if (what === 3) node?.meta.forgetWatches();
        if (what === 4 && node?.core) {
          void node.core.close();
          await world.pass(1_000, atMostOneEach);
        }
        if (what === 5 || world.nodes.length === 0) world.begin(`m${event}`, { faults });
      }
      for (const node of world.nodes) {
        node.meta.faults = () => undefined;
        node.process.resume();
      }
      world.begin("last");
      await world.until(() => world.allServed(CONTAINERS), 20_000);
      await world.pass(2_000, atMostOneEach);
    }
  });
});
