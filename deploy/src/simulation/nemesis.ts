import { decodeOwnerRecord } from "@tributary/core/cluster/cluster-codec";
import { ownerKey } from "@tributary/core/service/cluster-record";
import { decodeStreamRecord, STREAMS_PREFIX } from "@tributary/core/service/stream-record";
import type { CoreNode, WireName } from "./core-node.ts";
import { GatewayNode } from "./gateway-node.ts";
import type { SimBus } from "./ports/sim-bus.ts";
import { flipBit } from "./ports/sim-log.ts";
import type { SimProcess, Wire } from "./process.ts";
import type { World } from "./world.ts";

/** A fault of the whole world, decided before the story begins. */
interface Plan {
  readonly kind: string;
  /** How many of it a seed has, at least and at most. */
  readonly count: readonly [number, number];
  /** Share of the seeds that have any. */
  readonly share: number;
  act(world: World, site: string): void;
}

function gateway(world: World, site: string): GatewayNode {
  return world.dice.pick(`${site} which`, world.gateways);
}

function core(world: World, site: string): CoreNode {
  return world.dice.pick(`${site} which`, world.cores.members);
}

function ms(world: World, site: string, from: number, to: number): number {
  return world.dice.between(`${site} ms`, from, to);
}

/** Mostly a moment, sometimes long. */
function shortly(world: World, site: string, longestMs: number): number {
  return 5 + world.dice.float(`${site} ms`) ** 3 * longestMs;
}

function later(world: World, delayMs: number, act: () => void): void {
  world.scheduler.schedule(delayMs, undefined, act);
}

function pauseFor(world: World, process: SimProcess | undefined, forMs: number): void {
  if (!process?.alive) return;
  world.trace(process.name, `is paused for ${(forMs / 1000).toFixed(2)} s`);
  process.pause();
  later(world, forMs, () => {
    if (process.alive && process.paused) world.trace(process.name, "goes on");
    process.resume();
  });
}

function cut(world: World, who: string, bus: SimBus | undefined, site: string): void {
  if (bus?.cut !== "none") return;
  const how = world.dice.pick(`${site} how`, ["both", "both", "in", "out"] as const);
  const forMs = ms(world, site, 300, 7_000);
  world.trace(who, `is cut off (${how}) for ${(forMs / 1000).toFixed(2)} s`);
  bus.cut = how;
  const notice = () => bus.process.deliver(world.dice.between(`${site} notices`, 0, 2_000), () => bus.setConnected(bus.cut === "none"));
  if (how === "both") notice();
  later(world, forMs, () => {
    world.trace(who, "is connected again");
    bus.cut = "none";
    notice();
  });
}

const PLANS: readonly Plan[] = [
  {
    kind: "gateway crash",
    count: [1, 5],
    share: 1,
    act: (world, site) => gateway(world, site).crash("power cut", shortly(world, site, 4_000)),
  },
  { kind: "gateway restart", count: [0, 2], share: 1, act: (world, site) => gateway(world, site).restart() },
  {
    kind: "gateway pause",
    count: [0, 2],
    share: 1,
    act: (world, site) => pauseFor(world, gateway(world, site).process, ms(world, site, 200, 6_000)),
  },
  {
    kind: "gateway cut off",
    count: [0, 3],
    share: 1,
    act(world, site) {
      const node = gateway(world, site);
      cut(world, node.name, node.bus, site);
    },
  },
  { kind: "core crash", count: [0, 4], share: 1, act: (world, site) => core(world, site).crash("power cut", shortly(world, site, 4_000)) },
  { kind: "core restart", count: [0, 2], share: 1, act: (world, site) => core(world, site).restart() },
  {
    kind: "core pause",
    count: [0, 2],
    share: 1,
    act: (world, site) => pauseFor(world, core(world, site).process, ms(world, site, 200, 2_000)),
  },
  {
    // Others have taken its containers when it wakes up.
    kind: "core sleeps longer than its lease",
    count: [1, 2],
    share: 0.8,
    act: (world, site) =>
      pauseFor(world, core(world, site).process, ms(world, site, 1.2, 4) * (world.shape.cluster.shared?.leaseMs ?? 1_000)),
  },
  { kind: "core cut off", count: [0, 2], share: 1, act: (world, site) => cutCore(world, site, ["bus"]) },
  { kind: "core cut off from the MetaStore", count: [0, 2], share: 1, act: (world, site) => cutCore(world, site, ["meta"]) },
  { kind: "core cut off from NATS", count: [0, 2], share: 0.7, act: (world, site) => cutCore(world, site, ["bus", "meta", "wal"]) },
  { kind: "core node lost for good", count: [1, 1], share: 0.2, act: replaceCore },
  {
    kind: "clock jump",
    count: [0, 3],
    share: 1,
    act(world, site) {
      const process = world.dice.float(`${site} who`) < 0.5 ? core(world, site).process : gateway(world, site).process;
      if (!process) return;
      process.clockSkewMs += ms(world, site, -3_600_000, 3_600_000);
      world.trace(process.name, "its clock jumps");
    },
  },
  {
    kind: "gateway disk full",
    count: [1, 2],
    share: 0.4,
    act(world, site) {
      const node = gateway(world, site);
      world.trace(node.name, "its disk is full");
      node.limitDisk(node.disk.bytes + 20_000);
      later(world, ms(world, site, 500, 5_000), () => {
        world.trace(node.name, "its disk has room again");
        node.limitDisk(Number.POSITIVE_INFINITY);
      });
    },
  },
  {
    kind: "object store full",
    count: [1, 1],
    share: 0.3,
    act(world, site) {
      world.trace("lake", "is full");
      world.shelf.full = true;
      later(world, ms(world, site, 500, 6_000), () => {
        world.trace("lake", "has room again");
        world.shelf.full = false;
      });
    },
  },
  { kind: "gateway cloned", count: [1, 1], share: 0.15, act: clone },
  { kind: "gateway restored from a backup", count: [1, 1], share: 0.15, act: restore },
  { kind: "gateway disk damaged", count: [1, 2], share: 0.1, act: damage },
  { kind: "WAL damaged at rest", count: [1, 1], share: 0.07, act: damageWal },
  { kind: "lake object damaged at rest", count: [1, 1], share: 0.07, act: damageObject },
  { kind: "core set back", count: [1, 2], share: 0.2, act: setBack },
  { kind: "core set back past a take-over", count: [1, 1], share: 0.15, act: setBackPastTakeOver },
];

/** The world's great faults, all decided before it begins. */
export function planFaults(world: World): void {
  const { dice, shape, faults } = world;
  for (const plan of PLANS) {
    if (dice.float(`plan ${plan.kind}`) >= plan.share) continue;
    const count = dice.integer(`plan ${plan.kind} count`, ...plan.count);
    for (let i = 0; i < count; i++) {
      const site = `plan ${plan.kind} ${i}`;
      const atMs = dice.between(`${site} at`, 500, shape.activeMs);
      later(world, atMs, () => {
        if (faults.active && faults.note(plan.kind, site)) plan.act(world, site);
      });
    }
  }
}

/** A node is gone with its machine; an empty one takes its place. */
function replaceCore(world: World, site: string): void {
  // Nobody else may use its MetaStore: its disk is all that there is.
  if (!world.shape.cluster.shared) return;
  core(world, site).retire();
  const next = world.cores.add();
  world.trace(next.name, "takes its place");
  later(world, ms(world, `${site} start`, 100, 5_000), () => next.start());
}

/** Nothing comes through to it, from it, or both. */
function cutCore(world: World, site: string, wires: readonly WireName[]): void {
  const how = world.dice.pick(`${site} how`, ["both", "both", "in", "out"] as const);
  cutWires(world, core(world, site), wires, { site, how, forMs: ms(world, site, 300, 7_000) });
}

function cutWires(
  world: World,
  node: CoreNode,
  wires: readonly WireName[],
  { site, how, forMs }: { readonly site: string; readonly how: Wire["cut"]; readonly forMs: number },
): void {
  const { process, bus } = node;
  const cutNow = wires.map((name) => node.wire(name));
  if (!process?.alive || cutNow.some((wire) => wire?.cut !== "none")) return;
  world.trace(node.name, `is cut off from ${wires.join(" and ")} (${how}) for ${(forMs / 1000).toFixed(2)} s`);
  const set = (cut: Wire["cut"]) => {
    for (const wire of cutNow) if (wire) wire.cut = cut;
    const notice = () => bus?.setConnected(bus.cut === "none");
    if (how === "both" && wires.includes("bus")) process.deliver(world.dice.between(`${site} notices`, 0, 2_000), notice);
  };
  set(how);
  later(world, forMs, () => {
    if (process.alive) world.trace(node.name, "is connected again");
    set("none");
  });
}

function clone(world: World, site: string): void {
  const original = gateway(world, site);
  const name = `${original.name}c`;
  world.trace(name, `is a copy of ${original.name}`);
  const node = new GatewayNode(world, { ...original.shape, name }, original.disk.copy(`disk of ${name}`, {}));
  world.logs.copied(original.disk.name, node.disk.name);
  world.gateways.push(node);
  node.start();
  world.populate(node);
}

function restore(world: World, site: string): void {
  const node = gateway(world, site);
  const backup = node.disk.copy("", {});
  world.trace(node.name, `is backed up at record ${backup.last}`);
  later(world, ms(world, site, 500, 8_000), () => {
    const lost = node.disk;
    world.ledger.losses.push({
      writer: lost.name,
      fromSeq: backup.last + 1,
      throughSeq: lost.last,
      atMs: world.nowMs,
      reason: "restored from a backup",
    });
    node.crash("its disk is replaced by a backup", ms(world, `${site} down`, 50, 3_000));
    world.logs.replaced(lost.name, backup.last);
    node.replaceDisk(backup.copy(lost.name, {}));
  });
}

/** A stored record gets other bytes, or cannot be read any more. */
function damage(world: World, site: string): void {
  const node = gateway(world, site);
  const { disk, name } = node;
  node.damaged = true;
  const seqs = [...disk.records.keys()];
  const seq = seqs[Math.floor(world.dice.float(`${site} seq`) * seqs.length)];
  if (seq === undefined) return;
  const hole = world.dice.float(`${site} how`) < 0.4;
  world.trace(name, `record ${seq} of its disk ${hole ? "cannot be read any more" : "changes a bit"}`);
  world.ledger.losses.push({ writer: disk.name, fromSeq: seq, throughSeq: seq, atMs: world.nowMs, reason: "damaged" });
  world.logs.damaged(disk.name, seq, false);
  if (hole) disk.unreadable.add(seq);
  else disk.damage(seq, flipped(world, site, disk.records.get(seq)));
}

/** A stored record of a container's log gets other bytes, cannot be read any more, or is gone. Mostly its owner has to read it soon. */
function damageWal(world: World, site: string): void {
  const container = world.dice.integer(`${site} which`, 0, world.shape.containers - 1);
  const wal = world.wals.newest(container);
  const seqs = [...(wal?.records.keys() ?? [])];
  // Mostly a late one: the early ones are not needed any more.
  const seq = seqs[Math.floor(world.dice.float(`${site} seq`) ** 0.5 * seqs.length)];
  if (!wal || seq === undefined) return;
  const how = world.dice.pick(`${site} how`, ["changes a bit", "changes a bit", "cannot be read any more", "is gone"]);
  world.trace(wal.name, `record ${seq} of ${wal.first} to ${wal.last} ${how}`);
  world.loseCore();
  if (how === "is gone") wal.remove(seq);
  else if (how === "changes a bit") wal.damage(seq, flipped(world, site, wal.records.get(seq)));
  else wal.unreadable.add(seq);
  if (world.dice.float(`${site} soon`) < 0.8) for (const node of world.cores.members) node.crash("to read what is damaged", 100);
}

/** The longest that the disks of the core's stores go back. */
const BACK_MS_MAX = 8_000;

/**
 * All servers of a store are lost at once, and earlier copies of their disks take their places: of some or all logs and of the
 * MetaStore, each of a moment of its own. Core nodes live on, stand still meanwhile, or die.
 */
function setBack(world: World, site: string): void {
  const { dice, shape } = world;
  const afterMs =
    dice.float(`${site} how long`) < 0.5 ? shortly(world, `${site} span`, BACK_MS_MAX) : ms(world, `${site} span`, 200, BACK_MS_MAX);
  const what = dice.pick(`${site} what`, ["logs", "logs", "logs", "MetaStore", "both", "both"] as const);
  const restores: (() => void)[] = [];
  const moment = (which: string) => afterMs * dice.float(`${site} moment of ${which}`);
  if (what !== "MetaStore") {
    const all = dice.float(`${site} all`) < 0.5;
    const one = dice.integer(`${site} which`, 0, shape.containers - 1);
    for (let container = 0; container < shape.containers; container++) {
      const sinceMs = moment(`log ${container}`);
      if (all || container === one) later(world, sinceMs, () => restores.push(world.wals.snapshot(container)));
    }
  }
  const metaSinceMs = world.nowMs + moment("MetaStore");
  const nodes = dice.pick(`${site} nodes`, ["live on", "live on", "stand still", "die"] as const);
  const awayMs = shortly(world, `${site} away`, 5_000);
  if (nodes === "stand still") {
    const early = afterMs * dice.float(`${site} still`);
    later(world, early, () => {
      for (const { process } of world.cores.members) pauseFor(world, process, afterMs - early + awayMs);
    });
  }
  later(world, afterMs, () => {
    if (!world.faults.active) return;
    if (nodes === "die") for (const node of world.cores.members) node.crash("its stores are lost", awayMs);
    world.trace(
      "world",
      `${what} of the core ${what === "both" ? "go" : "goes"} back by up to ${(afterMs / 1000).toFixed(2)} s, nodes ${nodes}`,
    );
    goBack(world, restores, what === "logs" ? undefined : metaSinceMs);
  });
}

/** `metaMs`: undefined where the MetaStore is left as it is. */
function goBack(world: World, restores: readonly (() => void)[], metaMs: number | undefined): void {
  world.loseCore();
  for (const restore of restores) restore();
  if (metaMs === undefined) return;
  world.meta.rollBack(metaMs);
  world.cores.metaWentBack();
}

/** So long it is waited for somebody to take over what a node held that stopped. */
const TAKE_OVER_MS_MAX = 12_000;
const TAKE_OVER_LOOK_MS = 50;

/**
 * The MetaStore, mostly with the logs, goes back behind a moment at which containers changed hands: epochs that were won are won again,
 * while those who had them live on, sleep or see nothing of the MetaStore.
 */
function setBackPastTakeOver(world: World, site: string): void {
  const { dice, shape } = world;
  const containers = Array.from({ length: shape.containers }, (_, container) => container);
  const withLogs = dice.float(`${site} what`) < 0.7;
  const restores = withLogs ? containers.map((container) => world.wals.snapshot(container)) : [];
  const metaMs = world.nowMs;
  const epochs = () => containers.map((container) => epochWon(world, container));
  const before = epochs();
  const stopped = core(world, site);
  if (dice.float(`${site} how`) < 0.5) stopped.restart();
  else stopped.crash("power cut", shortly(world, `${site} down`, 4_000));
  // Those who took over have served for a while, or have hardly begun.
  const servedMs = shortly(world, `${site} served`, 4_000);
  const awayMs = ms(world, `${site} away`, 500, 6_000);
  const nodes = dice.pick(`${site} nodes`, ["live on", "sleep", "see no MetaStore", "die"] as const);
  const named = streamIds(world);
  const back = () => {
    // A stream whose name is forgotten is another story: what producers send again meets the next stream of the name.
    if (!world.faults.active || [...streamIds(world)].some((id) => !named.has(id))) return;
    world.trace("world", `MetaStore${withLogs ? " and logs" : ""} of the core go back past a take-over, nodes ${nodes}`);
    for (const [i, node] of world.cores.members.entries()) {
      if (nodes === "die") node.crash("its stores are lost", awayMs);
      // The others take again what was taken.
      else if (nodes !== "live on" && dice.float(`${site} node ${i}`) < 0.5) {
        if (nodes === "sleep") pauseFor(world, node.process, awayMs);
        else cutWires(world, node, ["meta"], { site, how: "both", forMs: awayMs });
      }
    }
    goBack(world, restores, metaMs);
  };
  const look = () => {
    if (epochs().some((epoch, i) => epoch > (before[i] as number))) later(world, servedMs, back);
    else if (world.nowMs < metaMs + TAKE_OVER_MS_MAX) later(world, TAKE_OVER_LOOK_MS, look);
  };
  look();
}

/** As the MetaStore has them. */
function streamIds(world: World): Set<string> {
  return new Set(world.meta.listAt(STREAMS_PREFIX, world.nowMs).map(({ key, value }) => decodeStreamRecord(key, value).id));
}

function epochWon(world: World, container: number): number {
  const key = ownerKey(container);
  const entry = world.meta.at(key, world.nowMs);
  return entry ? decodeOwnerRecord(key, entry.value).epoch : 0;
}

/** An object that was stored well, and perhaps verified, gets other bytes, loses its end, or is gone. */
function damageObject(world: World, site: string): void {
  const { objects } = world.shelf;
  const names = [...objects.keys()].filter((name) => containerOfObject(name) !== undefined);
  const name = names[Math.floor(world.dice.float(`${site} which`) * names.length)];
  const container = name && containerOfObject(name);
  if (name === undefined || !container) return;
  const how = world.dice.pick(`${site} how`, ["changes a bit", "changes a bit", "loses its end", "is gone"]);
  world.trace("lake", `${name} ${how}`);
  world.damaged.add(Number(container));
  const data = objects.get(name) as Uint8Array;
  if (how === "is gone") {
    objects.delete(name);
    world.lake.missing(name);
  } else if (how === "changes a bit") objects.set(name, flipped(world, site, data));
  else objects.set(name, data.slice(0, Math.floor(world.dice.float(`${site} end`) * data.length)));
}

function containerOfObject(name: string): string | undefined {
  return /^g\d+\/c(\d+)\//.exec(name)?.[1];
}

function flipped(world: World, site: string, data: Uint8Array | undefined): Uint8Array {
  const bytes = Uint8Array.from(data ?? []);
  flipBit(bytes, world.dice.float(`${site} bit`));
  return bytes;
}
