import type { Clock } from "@tributary/common/clock";
import { createMemoryBus } from "@tributary/common/engines/memory-bus";
import { TributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import type { MetaChange, MetaEntry, MetaStore } from "@tributary/common/ports/meta-store";
import { ManualClock } from "@tributary/common/testing/manual-clock";
import { type Core, openCore } from "../../core.ts";
import { FakeContainer, FakeWal } from "../../service/testing/fake-container.ts";
import { seededRandom } from "../../service/testing/fast-clock.ts";
import { MemoryObjectStore } from "../../service/testing/memory-engines.ts";
import { MemoryMetaStore } from "../../service/testing/memory-meta-store.ts";

export const LEASE_MS = 1_500;
export const HANDOVER_MS = 5_000;
export const STEP_MS = 10;
const GIVEN_UP_MS = 600;
const LATE_MS = 900;
const SLOW_MS = 700;

/**
 * What becomes of an operation on the MetaStore. "late": it lands after it was given up. "silent": nothing ever comes of it. "slow": its
 * answer comes late.
 */
export type MetaFault = "landed" | "lost" | "late" | "stale" | "unreachable" | "silent" | "slow" | undefined;
export type MetaFaults = (operation: "get" | "create" | "update" | "delete" | "list", key: string) => MetaFault;

/** A node's process: alive, paused (its time goes on, it does not) or dead. */
class Process {
  readonly clock: Clock;
  /** The wall clock is off by so much. */
  wallOffMs = 0;
  dead = false;
  #paused = false;
  #resumed: (() => void)[] = [];

  constructor(clock: ManualClock) {
    this.clock = {
      nowMs: () => clock.nowMs() + this.wallOffMs,
      monotonicMs: () => clock.monotonicMs(),
      setTimer: (delayMs, callback) => {
        let cancelled = false;
        const cancel = clock.setTimer(delayMs, () => {
          void this.running().then(() => {
            if (!cancelled) callback();
          });
        });
        return () => {
          cancelled = true;
          cancel();
        };
      },
    };
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    for (const resume of this.#resumed.splice(0)) resume();
  }

  /** Resolves when the process runs; never once it is dead. */
  running(): Promise<void> {
    if (this.dead) return new Promise(() => {});
    return this.#paused ? new Promise((resolve) => this.#resumed.push(resolve)) : Promise.resolve();
  }
}

/** A process's handle on the MetaStore. */
class NodeMeta implements MetaStore {
  faults: MetaFaults = () => undefined;
  readonly #store: MemoryMetaStore;
  readonly #process: Process;
  readonly #clock: ManualClock;
  readonly #watches = new Set<{ forgotten: boolean }>();

  constructor(store: MemoryMetaStore, process: Process, clock: ManualClock) {
    this.#store = store;
    this.#process = process;
    this.#clock = clock;
  }

  /** Watches that run now tell nothing any more, and do not end. */
  forgetWatches(): void {
    for (const watch of this.#watches) watch.forgotten = true;
  }

  get(key: string): Promise<MetaEntry | undefined> {
    return this.#call("get", key, async (stale) => this.#store.at(key, stale ? 1 : 0));
  }
  create(key: string, value: Uint8Array): Promise<number> {
    return this.#call("create", key, () => this.#store.create(key, value));
  }
  update(key: string, value: Uint8Array, revision: number): Promise<number> {
    return this.#call("update", key, () => this.#store.update(key, value, revision));
  }
  delete(key: string, revision: number): Promise<void> {
    return this.#call("delete", key, () => this.#store.delete(key, revision));
  }
  list(prefix: string): Promise<MetaEntry[]> {
    return this.#call("list", prefix, async (stale) => {
      const entries = await this.#store.list(prefix);
      return stale ? entries.flatMap((entry) => this.#store.at(entry.key, 1) ?? []) : entries;
    });
  }

  async watch(prefix: string, signal: AbortSignal, onChange: (change: MetaChange) => void): Promise<void> {
    const watch = { forgotten: false };
    this.#watches.add(watch);
    let last: Promise<void> = Promise.resolve();
    await this.#store.watch(prefix, signal, (change) => {
      last = last
        .then(() => this.#process.running())
        .then(() => {
          if (!watch.forgotten && !signal.aborted) onChange(change);
        });
    });
    this.#watches.delete(watch);
  }

  async close(): Promise<void> {}

  async #call<T>(operation: Parameters<MetaFaults>[0], key: string, work: (stale: boolean) => Promise<T>): Promise<T> {
    await this.#process.running();
    const fault = this.faults(operation, key);
    if (fault === "unreachable") throw new TributaryError("BUS_UNREACHABLE", "by the test");
    if (fault === "silent") return new Promise(() => {});
    if (fault === "lost") throw new TributaryError("LOG_RESULT_UNKNOWN", "by the test");
    if (fault === "late") {
      this.#clock.setTimer(LATE_MS, () => void work(false).catch(() => {}));
      await new Promise<void>((resolve) => this.#clock.setTimer(GIVEN_UP_MS, resolve));
      throw new TributaryError("LOG_RESULT_UNKNOWN", "by the test");
    }
    const result = await work(fault === "stale").then(
      (value) => ({ value }),
      (error: unknown) => ({ error }),
    );
    if (fault === "slow") await new Promise<void>((resolve) => this.#clock.setTimer(SLOW_MS, resolve));
    await this.#process.running();
    if (fault === "landed") throw new TributaryError("LOG_RESULT_UNKNOWN", "by the test");
    if ("error" in result) throw result.error;
    return result.value;
  }
}

export interface TestNode {
  readonly name: string;
  readonly process: Process;
  readonly meta: NodeMeta;
  readonly instances: FakeContainer[];
  core: Core | undefined;
  opening: Promise<Core>;
}

/** What nodes share, in a time that only moves when a test says so. */
export class NodeWorld {
  readonly clock: ManualClock = new ManualClock();
  readonly store: MemoryMetaStore = new MemoryMetaStore();
  readonly nodes: TestNode[] = [];
  readonly logged: string[] = [];
  readonly #objects = new MemoryObjectStore();
  readonly #wals = new Map<number, FakeWal>();
  #seed: number;

  constructor(seed = 1) {
    this.#seed = seed * 1_000;
  }

  /** Begins to start a node. Time must pass for it to get anywhere. */
  begin(name: string, options: { containers?: number; faults?: MetaFaults; drainMs?: number } = {}): TestNode {
    const process = new Process(this.clock);
    const meta = new NodeMeta(this.store, process, this.clock);
    if (options.faults) meta.faults = options.faults;
    const instances: FakeContainer[] = [];
    const log = (message: string, fields?: object) => void this.logged.push(`${name}: ${message} ${JSON.stringify(fields ?? {})}`);
    const logger: Logger = { debug: log, info: log, warn: log, error: log };
    const opening = openCore({
      meta,
      bus: createMemoryBus(),
      objects: this.#objects,
      containerFactory: (id, epoch) => {
        const wal = this.#wals.get(id) ?? new FakeWal();
        this.#wals.set(id, wal);
        const container = new FakeContainer(id, epoch, wal);
        instances.push(container);
        return container;
      },
      clock: process.clock,
      random: seededRandom(this.#seed++),
      logger,
      options: {
        cluster: "test",
        name,
        containers: options.containers ?? 4,
        shared: { version: "1", leaseMs: LEASE_MS, handoverMs: HANDOVER_MS, drainMs: options.drainMs ?? 10_000 },
      },
    });
    const node: TestNode = { name, process, meta, instances, core: undefined, opening };
    opening.then(
      (core) => {
        node.core = core;
      },
      () => {},
    );
    this.nodes.push(node);
    return node;
  }

  async start(name: string, options: Parameters<NodeWorld["begin"]>[1] = {}): Promise<TestNode> {
    const node = this.begin(name, options);
    await this.until(() => node.core !== undefined, 20_000);
    return node;
  }

  kill(node: TestNode): void {
    node.process.dead = true;
    this.nodes.splice(this.nodes.indexOf(node), 1);
  }

  /** Lets time pass. */
  async pass(ms: number, watch: () => void = () => {}): Promise<void> {
    for (let passed = 0; passed < ms; passed += STEP_MS) {
      this.clock.advance(STEP_MS);
      await settle();
      watch();
    }
  }

  /** Lets time pass until the condition holds. Returns how much it was. */
  async until(condition: () => boolean, msMax: number): Promise<number> {
    await settle();
    for (let passed = 0; ; passed += STEP_MS) {
      if (condition()) return passed;
      if (passed >= msMax) throw new Error(`in vain after ${msMax} ms:\n${this.table()}\n${this.logged.slice(-40).join("\n")}`);
      this.clock.advance(STEP_MS);
      await settle();
    }
  }

  /** Nodes that answer for a container now. */
  serving(container: number): TestNode[] {
    return this.nodes.filter((node) => serves(node, container));
  }

  /** Every container is served by one node, and no node has more than one more than another. */
  balanced(containers: number): boolean {
    for (let id = 0; id < containers; id++) if (this.serving(id).length !== 1) return false;
    const loads = this.nodes.map((node) => Array.from({ length: containers }, (_, id) => serves(node, id)).filter(Boolean).length);
    return Math.max(...loads) - Math.min(...loads) <= 1;
  }

  allServed(containers: number): boolean {
    for (let id = 0; id < containers; id++) if (this.serving(id).length !== 1) return false;
    return true;
  }

  table(): string {
    return this.nodes
      .map((node) => {
        const status = node.core?.status();
        const rows = status?.containers.map((hosted) => `${hosted.state}@${hosted.epoch}`).join(" ");
        return `${node.name} ${status?.node} member=${status?.member} members=${status?.members.length}: ${rows}`;
      })
      .join("\n");
  }
}

/** Whether a request for the container would be answered by the node. */
export function serves(node: TestNode, container: number): boolean {
  const status = node.core?.status();
  return !node.process.dead && status?.member === true && status.containers[container]?.state === "serving";
}

/** Lets everything run that does not wait for time. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
}
