import { sleep } from "@tributary/common/clock";
import { hasCode, TributaryError, toTributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { Container, ContainerStatus } from "../container/container.ts";
import { winEpoch } from "./cluster-record.ts";
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
  readonly state: "opening" | "serving" | "failed" | "closed";
  readonly epoch: number;
  /** Times that it was opened again after a failure. */
  readonly restarts: number;
  /** Code of the last failure; "" if there was none. */
  readonly lastError: string;
  /** undefined unless it is serving. */
  readonly status: ContainerStatus | undefined;
}

interface Slot {
  readonly id: number;
  state: HostedStatus["state"];
  epoch: number;
  /** The highest epoch that deposed one of ours. */
  epochSeen: number;
  restarts: number;
  lastError: string;
  container: Container | undefined;
  /** Aborts when the present instance ends. */
  ended: AbortController;
}

const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 30_000;
/** A container that served this long starts again without delay. */
const HEALTHY_MS = 60_000;

/**
 * Keeps a node's containers open: wins an epoch for each, opens it, and after a failure opens another instance with the next
 * epoch (rule C1). Owners that fight over a container back off from each other like from any other failure.
 */
export class ContainerHost {
  readonly #access: MetaAccess;
  readonly #node: Id;
  readonly #factory: ContainerFactory;
  readonly #log: Logger;
  readonly #slots: Slot[] = [];
  readonly #runs: Promise<void>[] = [];
  readonly #closing = new AbortController();
  readonly #openedListeners: ((opened: OpenedContainer) => void)[] = [];
  readonly #tieredListeners = new Set<(container: number) => void>();

  constructor(access: MetaAccess, node: Id, factory: ContainerFactory, log: Logger) {
    this.#access = access;
    this.#node = node;
    this.#factory = factory;
    this.#log = log;
  }

  /**
   * Resolves when every container was opened, or has failed once and is being tried again.
   * @throws what only a person can mend: FORMAT_UNSUPPORTED, NATS_UNSAFE, CONFIG_INVALID, DATA_DIR_LOCKED
   */
  async start(containerCount: number): Promise<void> {
    const firsts = Array.from({ length: containerCount }, (_, id) => {
      const slot: Slot = {
        id,
        state: "opening",
        epoch: 0,
        epochSeen: 0,
        restarts: 0,
        lastError: "",
        container: undefined,
        ended: new AbortController(),
      };
      this.#slots.push(slot);
      const first = Promise.withResolvers<unknown>();
      this.#runs.push(this.#run(slot, first.resolve));
      return first.promise;
    });
    const hopeless = (await Promise.all(firsts)).find((error) =>
      hasCode(error, "FORMAT_UNSUPPORTED", "NATS_UNSAFE", "CONFIG_INVALID", "DATA_DIR_LOCKED"),
    );
    if (!hopeless) return;
    await this.close();
    throw hopeless;
  }

  get count(): number {
    return this.#slots.length;
  }

  /** @throws CONTAINER_NOT_OWNED, SHUTTING_DOWN */
  get(id: number): Container {
    const container = this.#slots[id]?.container;
    if (this.#closing.signal.aborted) throw new TributaryError("SHUTTING_DOWN", "the core is stopping");
    if (!container) throw new TributaryError("CONTAINER_NOT_OWNED", `container ${id} is not open here`, { container: id });
    return container;
  }

  /** Aborts when the instance that `get` returns now ends: who waits on it must look again. */
  ended(id: number): AbortSignal {
    return this.#slots[id]?.ended.signal ?? AbortSignal.abort();
  }

  /** Called after a container was opened and before `get` returns it. */
  onOpened(listener: (opened: OpenedContainer) => void): void {
    this.#openedListeners.push(listener);
  }

  onTiered(listener: (container: number) => void): () => void {
    this.#tieredListeners.add(listener);
    return () => this.#tieredListeners.delete(listener);
  }

  status(): HostedStatus[] {
    return this.#slots.map((slot) => ({
      container: slot.id,
      state: slot.state,
      epoch: slot.epoch,
      restarts: slot.restarts,
      lastError: slot.lastError,
      status: slot.container?.status(),
    }));
  }

  /** Lets every container flush and stop. */
  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.#runs);
  }

  async #run(slot: Slot, onFirst: (error: unknown) => void): Promise<void> {
    const { clock } = this.#access;
    const closing = this.#closing.signal;
    let backoffMs = BACKOFF_MS_MIN;
    while (!closing.aborted) {
      const startedMs = clock.monotonicMs();
      const failure = await this.#serveOnce(slot, () => onFirst(undefined));
      onFirst(failure);
      if (!failure || closing.aborted) break;
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
      await sleep(clock, backoffMs * (0.5 + this.#access.random.float()), closing);
      backoffMs = Math.min(BACKOFF_MS_MAX, backoffMs * 2);
    }
    slot.state = "closed";
  }

  /** One instance from its epoch to its end. Resolves with what ended it; undefined when it was closed. */
  async #serveOnce(slot: Slot, onServing: () => void): Promise<TributaryError | undefined> {
    let container: Container | undefined;
    let failure: TributaryError | undefined;
    const ended = new AbortController();
    try {
      slot.state = "opening";
      slot.epoch = await winEpoch(this.#access, slot.id, this.#node, slot.epochSeen);
      container = await this.#factory(slot.id, slot.epoch);
      const end = Promise.withResolvers<TributaryError | undefined>();
      container.onFailed(end.resolve);
      container.onTiered((id) => {
        for (const listener of this.#tieredListeners) listener(id);
      });
      await container.open();
      for (const listener of this.#openedListeners) listener({ container: slot.id, epoch: slot.epoch, ended: ended.signal });
      slot.container = container;
      slot.ended = ended;
      slot.state = "serving";
      onServing();
      failure = await orAborted(end.promise, this.#closing.signal);
    } catch (error) {
      failure = toTributaryError(error);
    }
    slot.container = undefined;
    ended.abort();
    try {
      await container?.close();
    } catch (error) {
      // Nothing acknowledged hangs on it: the next owner replays the log.
      this.#log.warn("a container did not stop cleanly", { container: slot.id, error: toTributaryError(error).message });
    }
    return failure;
  }
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
