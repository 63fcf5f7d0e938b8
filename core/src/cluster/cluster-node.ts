import { sleep } from "@tributary/common/clock";
import { hasCode, toTributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { MetaEntry } from "@tributary/common/ports/meta-store";
import { CONTAINERS_KEY, ensureContainerCount, ownerKey } from "../service/cluster-record.ts";
import type { MetaAccess } from "../service/meta-change.ts";
import type { Cluster } from "./cluster.ts";
import { ASSIGNMENT_KEY, decodeOwnerRecord, encodeNodeRecord, NODES_PREFIX, nodeKey, type OwnerRecord } from "./cluster-codec.ts";
import { ClusterState, type Sighting } from "./cluster-state.ts";
import type { Member, Owner } from "./cluster-view.ts";
import { Coordinator } from "./coordinator.ts";
import { Membership } from "./membership.ts";
import { Poke } from "./poke.ts";
import { RecordWatch } from "./record-watch.ts";
import { within } from "./within.ts";

export interface ClusterNodeOptions {
  /** What operators call this node. */
  readonly name: string;
  /** Of the program. */
  readonly version: string;
  /** Containers at least; more if the cluster has more already. */
  readonly containers: number;
  readonly leaseMs: number;
  readonly handoverMs: number;
}

/** Nobody's monotonic clock runs that much faster than another's; and what a record needs to come through to everybody. */
const CLOCKS_DIFFER = 1.1;
const MARGIN_MS = 100;
/** As in the settings; what a damaged record says must not keep a node alive for ever. */
const LEASE_MS_MAX = 60_000;
/** Owner records only route, so a look at all of them comes at times: so long, or more where there are many. */
const OWNERS_LOOK_MS = 2_000;
const OWNER_LOOK_MS = 4;
/** Least time between two tries of what failed. */
const RETRY_MS = 50;
/** Records that stay lower than they were seen for so many leases show that the MetaStore went back: old reads pass sooner. */
const BEHIND_LEASES = 4;
/** For a look: it may need several requests. */
const LOOK_TIMEOUT_MS = 2_000;

/**
 * A core node among others: beats for its lease, sees who else is there, declares dead who stands still, coordinates if it is the
 * lowest, and knows what is assigned to it.
 *
 * Everything it knows comes by watch and, in case a watch is lost, by a look every beat. It beats only while its looks succeed:
 * a node that cannot see what was taken from it must not go on serving.
 *
 * Should the MetaStore go back in time (a restored backup), then what was seen is of a past that is no more, and revisions count
 * anew. A node notices by its own record, which is not as it left it, by others' that stay lower than they were, or by containers of
 * its own that stay somebody else's as of an earlier epoch: it then drops everything it knew and had, and joins as after a restart.
 */
export class ClusterNode implements Cluster {
  readonly shared = true;
  readonly handoverMs: number;
  readonly #access: MetaAccess;
  readonly #options: ClusterNodeOptions;
  readonly #log: Logger;
  readonly #membership: Membership;
  readonly #state: ClusterState;
  readonly #coordinator: Coordinator;
  readonly #watches: readonly RecordWatch[];
  readonly #stopping = new AbortController();
  readonly #listeners = new Set<() => void>();
  readonly #lostListeners: (() => void)[] = [];
  readonly #beatPoke: Poke;
  readonly #workPoke: Poke;
  #loops: Promise<unknown> | undefined;
  #lookedMs = 0;
  #ownersLookedMs = Number.NEGATIVE_INFINITY;
  #lookBroken = false;
  /** A look has succeeded since this node last joined. */
  #seesOthers = false;
  /** Times that everything was forgotten: a look begun before shows nothing. */
  #forgotten = 0;
  #behindSinceMs = Number.POSITIVE_INFINITY;
  /** As looks at the owner records show it, which come seldom. */
  #ownersBehindSinceMs = Number.POSITIVE_INFINITY;
  /** The epochs of the containers that this node has won and not released. */
  readonly #won = new Map<number, number>();

  constructor(access: MetaAccess, options: ClusterNodeOptions, log: Logger) {
    this.#access = access;
    this.#options = options;
    this.#log = log;
    this.handoverMs = options.handoverMs;
    this.#membership = new Membership(access, options, log);
    this.#state = new ClusterState(log);
    const { leaseMs } = options;
    this.#coordinator = new Coordinator(access, this.#state, { settleMs: leaseMs, timeoutMs: leaseMs / 2 }, log);
    this.#watches = [NODES_PREFIX, ASSIGNMENT_KEY, CONTAINERS_KEY].map(
      (prefix) => new RecordWatch(access, prefix, (change) => this.#take(change), log),
    );
    this.#beatPoke = new Poke(access.clock);
    this.#workPoke = new Poke(access.clock);
  }

  get node(): Id {
    return this.#membership.node;
  }

  get draining(): boolean {
    return this.#membership.draining;
  }

  get containers(): number {
    return this.#state.containers;
  }

  members(): Member[] {
    return [...this.#state.nodes]
      .map(([node, { record }]) => ({ node, name: record.name, url: record.url, draining: record.draining }))
      .sort((a, b) => (a.node < b.node ? -1 : 1));
  }

  ownerOf(container: number): Owner | undefined {
    const owner = this.#state.owners.get(container);
    if (!owner || owner.released) return undefined;
    return { container, epoch: owner.epoch, node: owner.node, url: this.#state.nodes.get(owner.node)?.record.url ?? "" };
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  onLost(listener: () => void): void {
    this.#lostListeners.push(listener);
  }

  holds(): boolean {
    return this.#membership.holds();
  }

  isAssigned(container: number): boolean {
    return this.#seesOthers && this.#state.nodes.has(this.node) && this.#state.assignment.owners[container] === this.node;
  }

  mayTake(before: OwnerRecord): boolean {
    return before.released || before.node === this.node || !this.#state.nodes.has(before.node);
  }

  epochWon(container: number): number {
    return this.#state.owners.get(container)?.epoch ?? 0;
  }

  tookOwner(container: number, { epoch, released }: Pick<OwnerRecord, "epoch" | "released">): void {
    if (released) this.#won.delete(container);
    else this.#won.set(container, epoch);
    const known = this.#state.owners.get(container);
    if (known && (known.epoch > epoch || (known.epoch === epoch && known.released))) return;
    this.#state.owners.set(container, { epoch, node: this.node, nonce: "", released });
    this.#changed();
  }

  async start(): Promise<void> {
    const { signal } = this.#stopping;
    const count = await ensureContainerCount(this.#access, this.#options.containers);
    this.#state.containers = Math.max(this.#state.containers, count);
    await this.#join();
    const watching = this.#watches.map((watch) => watch.run(signal));
    // A node that has never seen the others would believe to be alone.
    while (!(await this.#look()) && !signal.aborted) await sleep(this.#access.clock, RETRY_MS, signal);
    this.#loops = Promise.all([...watching, this.#beats(), this.#works()]);
    while (!this.#isPlaced() && !signal.aborted) {
      await this.#nextChange(signal);
    }
  }

  announce(url: string): void {
    this.#membership.describe({ url });
    this.#beatPoke.now();
  }

  async raise(containers: number): Promise<number> {
    const count = await ensureContainerCount(this.#access, containers);
    if (count > this.#state.containers) {
      this.#state.containers = count;
      this.#changed();
    }
    return count;
  }

  setDraining(draining: boolean): void {
    this.#membership.describe({ draining });
    this.#beatPoke.now();
  }

  async drain(isEmpty: () => boolean, timeoutMs: number): Promise<void> {
    const { clock } = this.#access;
    const othersTake = () => [...this.#state.nodes].some(([id, { record }]) => id !== this.node && !record.draining);
    if (isEmpty() || !othersTake()) return;
    this.setDraining(true);
    const endMs = clock.monotonicMs() + timeoutMs;
    const done = () => (isEmpty() && !this.#isNamed()) || !othersTake() || clock.monotonicMs() >= endMs;
    while (!done()) await sleep(clock, RETRY_MS, this.#stopping.signal);
    if (!isEmpty()) this.#log.warn("not all containers were given away in time");
  }

  async leave(): Promise<void> {
    this.#stopping.abort();
    this.#beatPoke.now();
    this.#workPoke.now();
    await this.#loops;
    await this.#membership.leave();
  }

  /** True once every container is assigned to somebody who is seen to live: not to this node as it was before a restart. */
  #isPlaced(): boolean {
    const { assignment, nodes, containers } = this.#state;
    if (assignment.owners.length < containers) return false;
    return assignment.owners.every((owner) => owner === this.node || nodes.get(owner)?.beats === true);
  }

  #isNamed(): boolean {
    return this.#state.assignment.owners.includes(this.node);
  }

  #nextChange(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        forget();
        signal.removeEventListener("abort", done);
        resolve();
      };
      const forget = this.onChange(done);
      signal.addEventListener("abort", done, { once: true });
    });
  }

  async #join(): Promise<void> {
    await this.#membership.join(this.#stopping.signal);
    this.#lookedMs = this.#access.clock.monotonicMs();
    this.#takeOwnRecord();
    this.#log.info("this node is a member of the cluster", { node: this.node });
    this.#changed();
  }

  /** The own record is known without being seen. */
  #takeOwnRecord(): void {
    const { node, revision } = this.#membership;
    this.#take({ key: nodeKey(node), value: encodeNodeRecord(this.#membership.record()), revision });
  }

  async #beats(): Promise<void> {
    const { clock } = this.#access;
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      const startedMs = clock.monotonicMs();
      let nextMs = startedMs + this.#membership.beatMs;
      // Without a look for so long it may serve what was taken from it; with handoverMs at its double nobody has taken it yet.
      if (startedMs - this.#lookedMs < this.handoverMs / 2) {
        const outcome = await this.#membership.beat();
        if (outcome === "held") this.#takeOwnRecord();
        if (outcome === "lost" || this.#isBehind()) await this.#rejoin(outcome);
        if (outcome === "unknown") nextMs = Math.min(nextMs, clock.monotonicMs() + RETRY_MS);
      }
      await this.#beatPoke.wait(nextMs - clock.monotonicMs(), signal);
    }
  }

  async #rejoin(outcome: "lost" | "held" | "unknown"): Promise<void> {
    const why = outcome === "lost" ? "this node was declared dead" : "the cluster's records went back";
    this.#log.error(`${why}: it drops its containers and joins the cluster anew`, { node: this.node });
    this.#forget();
    for (const listener of this.#lostListeners) listener();
    await this.#join();
  }

  /** Its record may be gone because the MetaStore went back, and others' with it. */
  #forget(): void {
    this.#forgotten++;
    this.#seesOthers = false;
    this.#behindSinceMs = Number.POSITIVE_INFINITY;
    this.#ownersBehindSinceMs = Number.POSITIVE_INFINITY;
    this.#ownersLookedMs = Number.NEGATIVE_INFINITY;
    this.#won.clear();
    this.#state.forget();
    for (const watch of this.#watches) watch.beginAnew();
  }

  #isBehind(): boolean {
    const behindMs = Math.max(
      this.#access.clock.monotonicMs() - this.#behindSinceMs,
      // One old read is no more than one, however long no other follows it.
      this.#ownersLookedMs - this.#ownersBehindSinceMs,
    );
    return behindMs >= BEHIND_LEASES * this.#options.leaseMs;
  }

  async #works(): Promise<void> {
    const { clock } = this.#access;
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      const startedMs = clock.monotonicMs();
      if (!this.#seesOthers || startedMs - this.#lookedMs >= this.#membership.beatMs / 2) await this.#look();
      let nextMs = startedMs + this.#membership.beatMs;
      // A node that has not seen the others would believe to be alone.
      if (this.holds() && this.#seesOthers) {
        nextMs = Math.min(nextMs, await this.#declareDead());
        if (await this.#coordinator.step(this.node)) this.#changed();
      }
      await this.#workPoke.wait(Math.max(RETRY_MS, nextMs - clock.monotonicMs()), signal);
    }
  }

  /** Reads what the watches should have told. False if that failed. */
  async #look(): Promise<boolean> {
    const { meta, clock } = this.#access;
    const startedMs = clock.monotonicMs();
    const forgotten = this.#forgotten;
    // What a watch tells while the look is under way is later than what the look finds, and shows nothing.
    const seen = this.#state.seen();
    const won = new Map(this.#won);
    try {
      const withOwners = startedMs - this.#ownersLookedMs >= Math.max(OWNERS_LOOK_MS, this.containers * OWNER_LOOK_MS);
      const [nodes, assignment, containers] = await within(
        clock,
        LOOK_TIMEOUT_MS,
        Promise.all([meta.list(NODES_PREFIX), meta.list(ASSIGNMENT_KEY), withOwners ? meta.list(CONTAINERS_KEY) : ([] as MetaEntry[])]),
      );
      if (forgotten !== this.#forgotten) return false;
      this.#lookBehind(seen, [...nodes, ...assignment], startedMs);
      if (withOwners) this.#lookAtOwn(won, containers, startedMs);
      for (const [i, entries] of [nodes, assignment, containers].entries()) {
        for (const entry of entries) this.#take(entry);
        if (withOwners || i < 2) this.#watches[i]?.compare(entries);
      }
      this.#lookedMs = startedMs;
      if (withOwners) this.#ownersLookedMs = startedMs;
      this.#lookBroken = false;
      if (!this.#seesOthers) {
        this.#seesOthers = true;
        // The watches may have told it all before, and tell nothing more: only now it counts.
        this.#changed();
      }
      return true;
    } catch (error) {
      if (!this.#lookBroken) this.#log.warn("the cluster's records cannot be read", { code: toTributaryError(error).code });
      this.#lookBroken = true;
      return false;
    }
  }

  /** `seen`: before the look was begun. Its own record is the business of its beats. */
  #lookBehind(seen: ReadonlyMap<string, number>, found: readonly MetaEntry[], nowMs: number): void {
    const own = nodeKey(this.node);
    const lower = found.some(({ key, revision }) => key !== own && revision < (seen.get(key) ?? 0));
    const gone = seen.has(ASSIGNMENT_KEY) && !found.some(({ key }) => key === ASSIGNMENT_KEY);
    // Without a lease it may be read what a server says that has lost the others.
    if ((!lower && !gone) || !this.holds()) this.#behindSinceMs = Number.POSITIVE_INFINITY;
    else this.#behindSinceMs = Math.min(this.#behindSinceMs, nowMs);
  }

  /**
   * `won`: before the look was begun. Where the record of what this node serves stays that of somebody before it, the MetaStore went
   * back behind the take-over, and the others look for the container where it is not.
   */
  #lookAtOwn(won: ReadonlyMap<number, number>, found: readonly MetaEntry[], nowMs: number): void {
    const records = new Map(found.map((entry) => [entry.key, entry]));
    const lost = [...won].some(
      ([container, epoch]) => this.#won.get(container) === epoch && isBefore(records.get(ownerKey(container)), epoch, this.node),
    );
    if (!lost || !this.holds()) this.#ownersBehindSinceMs = Number.POSITIVE_INFINITY;
    else this.#ownersBehindSinceMs = Math.min(this.#ownersBehindSinceMs, nowMs);
  }

  /** Deletes the records of those that stood still for longer than their leases. Returns when it is time to look again. */
  async #declareDead(): Promise<number> {
    const { clock } = this.#access;
    let nextMs = Number.POSITIVE_INFINITY;
    for (const [node, sighting] of this.#state.nodes) {
      if (node === this.node) continue;
      const deadMs = this.#deathOf(sighting);
      if (clock.monotonicMs() < deadMs) nextMs = Math.min(nextMs, deadMs);
      else if (!(await this.#remove(node, sighting))) nextMs = Math.min(nextMs, clock.monotonicMs() + RETRY_MS);
    }
    return nextMs;
  }

  /** Only time counts in which this node was alive itself: one that slept, or whose MetaStore was away, has seen nobody's beats. */
  #deathOf({ record, sinceMs }: Sighting): number {
    return Math.max(sinceMs, this.#membership.heldSinceMs) + Math.min(record.leaseMs, LEASE_MS_MAX) * CLOCKS_DIFFER + MARGIN_MS;
  }

  async #remove(node: Id, { revision, record }: Sighting): Promise<boolean> {
    const { meta, clock } = this.#access;
    const key = nodeKey(node);
    try {
      await within(clock, this.#membership.beatMs, meta.delete(key, revision));
    } catch (error) {
      // It lives: the read brings its present record, unless the read is old as well.
      if (hasCode(error, "META_CONFLICT")) {
        const entry = await within(clock, this.#membership.beatMs, meta.get(key)).catch(() => undefined);
        if (entry) this.#take(entry);
      }
      return false;
    }
    this.#log.warn("a node was declared dead", { node, name: record.name });
    if (this.#state.remove(key, revision)) this.#changed();
    return true;
  }

  #take(change: { key: string; value: Uint8Array | undefined; revision: number }): void {
    if (this.#state.take(change, this.#access.clock.monotonicMs())) this.#changed();
  }

  #changed(): void {
    this.#workPoke.now();
    for (const listener of [...this.#listeners]) listener();
  }
}

/** True if the record of an owner stands where it stood before the node won the epoch. A damaged one shows nothing. */
function isBefore(entry: MetaEntry | undefined, epoch: number, node: Id): boolean {
  if (!entry) return true;
  try {
    const owner = decodeOwnerRecord(entry.key, entry.value);
    return owner.epoch < epoch || (owner.epoch === epoch && owner.node !== node);
  } catch {
    return false;
  }
}
