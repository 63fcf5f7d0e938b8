import { sleep } from "@tributary/common/clock";
import { hasCode, TributaryError, toTributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { Cluster } from "../cluster/cluster.ts";
import { within } from "../cluster/within.ts";
import type { Container, ContainerStatus } from "../container/container.ts";
import { releaseContainer, winEpoch } from "./cluster-record.ts";
import type { MetaAccess } from "./meta-change.ts";

/** Makes a container that is not open yet. A container is opened once; after a failure it is closed and another one is made. */
export type ContainerFactory = (id: number, epoch: number) => Container | Promise<Container>;

/** A container that begins to be served here. */
export interface OpenedContainer {
  readonly container: number;
  readonly epoch: number;
  /** Aborts when this instance ends. */
  readonly ended: AbortSignal;
}

export interface HostedStatus {
  readonly container: number;
  /**
   * "elsewhere": it is not assigned to this node. "waiting": it is, but its owner before has not released it yet. "closing": it is
   * being given away. The node that owns it now is in `owner`.
   */
  readonly state: "elsewhere" | "waiting" | "opening" | "serving" | "failed" | "closing" | "closed";
  /** Of the last instance here; of its owner while it is elsewhere. */
  readonly epoch: number;
  /** The node that has it, as far as this one knows; "" for nobody. */
  readonly owner: Id;
  /** Times that it was opened again after a failure. */
  readonly restarts: number;
  /** Code of the last failure; "" if there was none. */
  readonly lastError: string;
  /** undefined unless it is serving. */
  readonly status: ContainerStatus | undefined;
}

/** Why an instance is to end. "lost": others may have it already, so nothing is written any more. */
type Stop = "given away" | "lost" | "closed";

interface Slot {
  readonly id: number;
  state: Exclude<HostedStatus["state"], "elsewhere">;
  epoch: number;
  /** The highest epoch that deposed one of ours. */
  epochSeen: number;
  restarts: number;
  lastError: string;
  container: Container | undefined;
  /** Ends the instance that serves as a failure of it does. */
  fail: (error: TributaryError) => void;
  /** Aborts when the present instance ends. */
  ended: AbortController;
  /** undefined while it is not hosted here. Its abort's reason is a Stop. */
  stop: AbortController | undefined;
  run: Promise<void>;
  /** Resolves when it was opened, has failed once, or is not hosted any more. */
  first: PromiseWithResolvers<TributaryError | undefined>;
}

const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 30_000;
/** A container that served this long starts again without delay. */
const HEALTHY_MS = 60_000;
/** Between two looks at whether the owner before has released a container: it is also heard of by watch. */
const RELEASE_LOOK_MS = 250;
/** Longest wait for the metadata store when a container is released; it may still be marked later. */
const RELEASE_MS_MAX = 2_000;
/** Share of the time that the next owner waits in which a container that is given away may flush. */
const FLUSH_SHARE = 0.5;

/**
 * Keeps the containers open that are assigned to this node: wins an epoch for each, opens it, and after a failure opens another
 * instance with the next epoch (rule C1). Owners that fight over a container back off from each other like from any other failure.
 */
export class ContainerHost {
  readonly #access: MetaAccess;
  readonly #cluster: Cluster;
  readonly #factory: ContainerFactory;
  readonly #log: Logger;
  /** Those that were hosted here since the start. */
  readonly #slots = new Map<number, Slot>();
  readonly #closing = new AbortController();
  readonly #openedListeners: ((opened: OpenedContainer) => void)[] = [];
  readonly #tieredListeners = new Set<(container: number) => void>();
  #stopFollowing: (() => void) | undefined;

  constructor(access: MetaAccess, cluster: Cluster, factory: ContainerFactory, log: Logger) {
    this.#access = access;
    this.#cluster = cluster;
    this.#factory = factory;
    this.#log = log;
  }

  /**
   * Follows the assignment from now on. Resolves when each container that is assigned now was opened, or has failed once and is
   * being tried again.
   * @throws what only a person can mend: FORMAT_UNSUPPORTED, NATS_UNSAFE, CONFIG_INVALID, DATA_DIR_LOCKED
   */
  async start(): Promise<void> {
    this.#cluster.onLost(() => {
      for (const slot of this.#slots.values()) this.#stop(slot, "lost");
    });
    this.#stopFollowing = this.#cluster.onChange(() => this.#follow());
    this.#follow();
    const firsts = [...this.#slots.values()].flatMap((slot) => (slot.stop ? [slot.first.promise] : []));
    const hopeless = (await Promise.all(firsts)).find((error) =>
      hasCode(error, "FORMAT_UNSUPPORTED", "NATS_UNSAFE", "CONFIG_INVALID", "DATA_DIR_LOCKED"),
    );
    if (!hopeless) return;
    await this.close();
    throw hopeless;
  }

  /** Containers of the cluster. */
  get count(): number {
    return this.#cluster.containers;
  }

  /** True while no container is hosted here. */
  get isEmpty(): boolean {
    return [...this.#slots.values()].every((slot) => !slot.stop);
  }

  /** @throws CONTAINER_NOT_OWNED, SHUTTING_DOWN */
  get(id: number): Container {
    const container = this.#slots.get(id)?.container;
    if (this.#closing.signal.aborted) throw new TributaryError("SHUTTING_DOWN", "the core is stopping");
    if (!container) throw new TributaryError("CONTAINER_NOT_OWNED", `container ${id} is not open here`, { container: id });
    if (!this.#cluster.holds()) {
      throw new TributaryError("CONTAINER_NOT_OWNED", `this node's lease ran out; container ${id} may be elsewhere`, { container: id });
    }
    return container;
  }

  /** Aborts when the instance that `get` returns now ends: who waits on it must look again. */
  ended(id: number): AbortSignal {
    return this.#slots.get(id)?.ended.signal ?? AbortSignal.abort();
  }

  /** Called after a container was opened and before `get` returns it. */
  onOpened(listener: (opened: OpenedContainer) => void): void {
    this.#openedListeners.push(listener);
  }

  onTiered(listener: (container: number) => void): () => void {
    this.#tieredListeners.add(listener);
    return () => this.#tieredListeners.delete(listener);
  }

  /** One row for each container of the cluster. */
  status(): HostedStatus[] {
    return Array.from({ length: this.count }, (_, container) => {
      const slot = this.#slots.get(container);
      const owner = this.#cluster.ownerOf(container);
      const hosted = slot && (slot.stop || this.#closing.signal.aborted) ? slot : undefined;
      return {
        container,
        state: hosted?.state ?? "elsewhere",
        epoch: hosted?.epoch ?? owner?.epoch ?? 0,
        owner: owner?.node ?? "",
        restarts: slot?.restarts ?? 0,
        lastError: slot?.lastError ?? "",
        status: slot?.container?.status(),
      };
    });
  }

  /** Lets every container flush and stop. */
  async close(): Promise<void> {
    this.#closing.abort();
    this.#stopFollowing?.();
    for (const slot of this.#slots.values()) this.#stop(slot, "closed");
    await Promise.all([...this.#slots.values()].map((slot) => slot.run));
  }

  /** Begins to host what was assigned, and gives away what was taken. */
  #follow(): void {
    if (this.#closing.signal.aborted) return;
    for (let id = 0; id < this.#cluster.containers; id++) {
      const assigned = this.#cluster.isAssigned(id);
      const slot = this.#slots.get(id);
      if (!assigned) this.#stop(slot, "given away");
      else if (!slot?.stop) this.#begin(slot ?? this.#addSlot(id));
      else this.#endDeposed(slot);
    }
  }

  /**
   * A node that knew less than this one, such as that its lease had run out, may have won a later epoch and never used it. Everybody goes
   * by the record of it and finds the container nowhere, so it is taken again.
   */
  #endDeposed(slot: Slot): void {
    const won = this.#cluster.epochWon(slot.id);
    if (slot.state !== "serving" || won <= slot.epoch) return;
    slot.fail(new TributaryError("CONTAINER_NOT_OWNED", `somebody won epoch ${won} after epoch ${slot.epoch}`, { epoch: won }));
  }

  #addSlot(id: number): Slot {
    const slot = createSlot(id);
    this.#slots.set(id, slot);
    return slot;
  }

  #stop(slot: Slot | undefined, why: Stop): void {
    slot?.stop?.abort(why);
  }

  #begin(slot: Slot): void {
    const stop = new AbortController();
    slot.stop = stop;
    slot.first = Promise.withResolvers();
    slot.run = this.#run(slot, stop.signal).then(() => {
      slot.stop = undefined;
      slot.first.resolve(undefined);
      // It may have been assigned here again meanwhile.
      this.#follow();
    });
  }

  async #run(slot: Slot, stop: AbortSignal): Promise<void> {
    const { clock } = this.#access;
    let backoffMs = BACKOFF_MS_MIN;
    while (!stop.aborted) {
      const startedMs = clock.monotonicMs();
      const failure = await this.#serveOnce(slot, stop);
      slot.first.resolve(failure);
      if (!failure || stop.aborted) break;
      slot.state = "failed";
      slot.lastError = failure.code;
      slot.restarts++;
      slot.epochSeen = Math.max(slot.epochSeen, epochThatDeposed(failure));
      if (clock.monotonicMs() - startedMs >= HEALTHY_MS) backoffMs = BACKOFF_MS_MIN;
      this.#log.error("a container failed and is opened again", {
        container: slot.id,
        epoch: slot.epoch,
        code: failure.code,
        error: failure.message,
        backoffMs,
      });
      await sleep(clock, backoffMs * (0.5 + this.#access.random.float()), stop);
      backoffMs = Math.min(BACKOFF_MS_MAX, backoffMs * 2);
    }
    slot.state = "closed";
  }

  /** One instance from its epoch to its end. Resolves with what ended it; undefined when it was to stop. */
  async #serveOnce(slot: Slot, stop: AbortSignal): Promise<TributaryError | undefined> {
    let container: Container | undefined;
    let failure: TributaryError | undefined;
    const ended = new AbortController();
    const { node } = this.#cluster;
    try {
      const epoch = await this.#takeOver(slot, node, stop);
      if (epoch === undefined) return undefined;
      slot.epoch = epoch;
      this.#cluster.tookOwner(slot.id, { epoch, released: false });
      container = await this.#factory(slot.id, epoch);
      const end = Promise.withResolvers<TributaryError | undefined>();
      container.onFailed(end.resolve);
      container.onTiered((id) => {
        for (const listener of this.#tieredListeners) listener(id);
      });
      await container.open();
      for (const listener of this.#openedListeners) listener({ container: slot.id, epoch, ended: ended.signal });
      slot.container = container;
      slot.ended = ended;
      slot.fail = end.resolve;
      slot.state = "serving";
      slot.first.resolve(undefined);
      this.#endDeposed(slot);
      failure = await orAborted(end.promise, stop);
    } catch (error) {
      failure = toTributaryError(error);
    }
    slot.container = undefined;
    slot.state = "closing";
    ended.abort();
    await this.#end(slot, node, container, failure, stop);
    return failure;
  }

  /** Waits until the container may be taken, and wins its next epoch. undefined when it is to stop before. */
  async #takeOver(slot: Slot, node: Id, stop: AbortSignal): Promise<number | undefined> {
    const { clock } = this.#access;
    const forcedMs = clock.monotonicMs() + this.#cluster.handoverMs;
    slot.state = "opening";
    while (!stop.aborted) {
      const forced = clock.monotonicMs() >= forcedMs;
      let free = true;
      const winning = winEpoch(this.#access, {
        container: slot.id,
        node,
        above: slot.epochSeen,
        mayTake: (before) => {
          free = this.#cluster.mayTake(before);
          return forced || free;
        },
      });
      // A metadata store that does not answer must not hold up a stop. Should this be won later, it is as if the owner had died at once.
      const epoch = await orAborted(winning, stop);
      if (stop.aborted) return undefined;
      if (epoch !== undefined) {
        if (!free) this.#log.warn("a container was taken from an owner that did not release it", { container: slot.id, epoch });
        return epoch;
      }
      slot.state = "waiting";
      await this.#changeOrDelay(RELEASE_LOOK_MS, stop);
    }
    return undefined;
  }

  /** Stops the instance, and lets the next owner begin at once where it can. */
  async #end(
    slot: Slot,
    node: Id,
    container: Container | undefined,
    failure: TributaryError | undefined,
    stop: AbortSignal,
  ): Promise<void> {
    const why: Stop | undefined = stop.aborted ? stop.reason : undefined;
    try {
      if (why === "lost" || (failure && epochThatDeposed(failure) > 0)) await container?.close({ withinMs: 0 });
      else if (why === "given away") await container?.close({ withinMs: this.#cluster.handoverMs * FLUSH_SHARE });
      else await container?.close();
    } catch (error) {
      // Nothing acknowledged hangs on it: the next owner replays the log.
      this.#log.warn("a container did not stop cleanly", { container: slot.id, error: toTributaryError(error).message });
    }
    if (!this.#cluster.shared || !why || why === "lost" || slot.epoch === 0 || (failure && !container)) return;
    try {
      await within(this.#access.clock, RELEASE_MS_MAX, releaseContainer(this.#access, slot.id, node, slot.epoch));
      if (node === this.#cluster.node) this.#cluster.tookOwner(slot.id, { epoch: slot.epoch, released: true });
    } catch (error) {
      // The next owner waits for a while, or until this node is no member any more.
      this.#log.warn("a container could not be marked as released", { container: slot.id, code: toTributaryError(error).code });
    }
  }

  #changeOrDelay(delayMs: number, stop: AbortSignal): Promise<void> {
    const changed = new AbortController();
    const forget = this.#cluster.onChange(() => changed.abort());
    return sleep(this.#access.clock, delayMs, AbortSignal.any([stop, changed.signal])).finally(forget);
  }
}

function createSlot(id: number): Slot {
  return {
    id,
    state: "opening",
    epoch: 0,
    epochSeen: 0,
    restarts: 0,
    lastError: "",
    container: undefined,
    fail: () => {},
    ended: new AbortController(),
    stop: undefined,
    run: Promise.resolve(),
    first: Promise.withResolvers(),
  };
}

function epochThatDeposed(failure: TributaryError): number {
  const { epoch } = failure.details;
  return failure.code === "CONTAINER_NOT_OWNED" && typeof epoch === "number" ? epoch : 0;
}

/** The promise's result, or undefined once the signal aborts. */
function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    const stop = () => resolve(undefined);
    if (signal.aborted) return stop();
    signal.addEventListener("abort", stop, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}
