import { createMemoryBus } from "@tributary/common/engines/memory-bus";
import { TributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { Bus } from "@tributary/common/ports/bus";
import type { MetaStore } from "@tributary/common/ports/meta-store";
import type { EventPack, StreamService } from "@tributary/common/stream-service";
import { ManualClock } from "@tributary/common/testing/manual-clock";
import type { ClusterView, Member, Owner } from "../../cluster/cluster-view.ts";
import type { Container } from "../../container/container.ts";
import { createContainer } from "../../container/create-container.ts";
import type { OpenedContainer } from "../../service/container-host.ts";
import { type CoreServices, createCoreServices } from "../../service/core-services.ts";
import { seededRandom } from "../../service/testing/fast-clock.ts";
import { MemoryLog, MemoryObjectStore } from "../../service/testing/memory-engines.ts";
import { MemoryMetaStore } from "../../service/testing/memory-meta-store.ts";
import type { LocalHost } from "../local-containers.ts";
import { TappedBus } from "./tapped-bus.ts";

export const CLUSTER = "test";
const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} };

/** What a node believes of the cluster: what is true, or, once frozen, what was. */
class TestView implements ClusterView {
  node: Id;
  readonly containers: number;
  readonly #truth: ReadonlyMap<number, Owner>;
  readonly #listeners = new Set<() => void>();
  #frozen: Map<number, Owner> | undefined;

  constructor(node: Id, containers: number, truth: ReadonlyMap<number, Owner>) {
    this.node = node;
    this.containers = containers;
    this.#truth = truth;
  }

  members(): Member[] {
    return [];
  }

  ownerOf(container: number): Owner | undefined {
    return (this.#frozen ?? this.#truth).get(container);
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get listeners(): number {
    return this.#listeners.size;
  }

  /** Learns nothing more, and believes what it is told if anything is. */
  freeze(belief: Map<number, Owner> = new Map(this.#truth)): void {
    this.#frozen = belief;
  }

  thaw(): void {
    this.#frozen = undefined;
    this.changed();
  }

  changed(): void {
    if (!this.#frozen) for (const listener of [...this.#listeners]) listener();
  }

  rename(node: Id): void {
    this.node = node;
    for (const listener of [...this.#listeners]) listener();
  }
}

interface Hosted {
  readonly container: Container;
  readonly ended: AbortController;
}

/** Hosts what it is told to. */
class TestHost implements LocalHost {
  readonly hosted: Map<number, Hosted> = new Map();
  /** Waits of readers that containers here hold. */
  waits = 0;
  readonly #opened: ((opened: OpenedContainer) => void)[] = [];
  readonly #tiered = new Set<(container: number) => void>();

  get(id: number): Container {
    const hosted = this.hosted.get(id);
    if (!hosted) throw new TributaryError("CONTAINER_NOT_OWNED", `container ${id} is not open here`, { container: id });
    return hosted.container;
  }

  ended(id: number): AbortSignal {
    return this.hosted.get(id)?.ended.signal ?? AbortSignal.abort();
  }

  onOpened(listener: (opened: OpenedContainer) => void): void {
    this.#opened.push(listener);
  }

  onTiered(listener: (container: number) => void): () => void {
    this.#tiered.add(listener);
    return () => this.#tiered.delete(listener);
  }

  add(container: Container, epoch: number): void {
    const ended = new AbortController();
    const wait = container.waitForData.bind(container);
    container.waitForData = (...args) => {
      this.waits++;
      return wait(...args).finally(() => this.waits--);
    };
    container.onTiered((id) => {
      for (const listener of this.#tiered) listener(id);
    });
    for (const listener of this.#opened) listener({ container: container.id, epoch, ended: ended.signal });
    this.hosted.set(container.id, { container, ended });
  }

  /** Serves it no more; the instance lives on, as one does that does not know yet. */
  drop(id: number): Container | undefined {
    const hosted = this.hosted.get(id);
    this.hosted.delete(id);
    hosted?.ended.abort();
    return hosted?.container;
  }
}

/** Its watches report nothing. */
class DeafMetaStore implements MetaStore {
  readonly #store: MetaStore;

  constructor(store: MetaStore) {
    this.#store = store;
  }

  get: MetaStore["get"] = (key) => this.#store.get(key);
  create: MetaStore["create"] = (key, value) => this.#store.create(key, value);
  update: MetaStore["update"] = (key, value, revision) => this.#store.update(key, value, revision);
  delete: MetaStore["delete"] = (key, revision) => this.#store.delete(key, revision);
  list: MetaStore["list"] = (prefix) => this.#store.list(prefix);
  watch: MetaStore["watch"] = (_, signal) => new Promise((resolve) => signal.addEventListener("abort", () => resolve()));
  close: MetaStore["close"] = () => this.#store.close();
}

export interface TestNode {
  readonly id: Id;
  readonly bus: TappedBus;
  readonly view: TestView;
  readonly host: TestHost;
  readonly services: CoreServices;
  readonly streams: StreamService;
}

/** Several core nodes in one process: one network, one MetaStore, one lake, and containers that go where a test wants them. */
export class TestCluster {
  readonly clock: ManualClock = new ManualClock();
  readonly network: Bus = createMemoryBus({ clock: this.clock });
  readonly owners: Map<number, Owner> = new Map();
  readonly nodes: TestNode[] = [];
  readonly #meta = new MemoryMetaStore();
  readonly #objects = new MemoryObjectStore();
  readonly #logs = new Map<number, MemoryLog>();
  readonly #random = seededRandom(7);
  readonly #containers: number;

  constructor(containers: number) {
    this.#containers = containers;
  }

  /** `deaf`: their watches of the MetaStore report nothing. */
  async start(count: number, { deaf = false }: { deaf?: boolean } = {}): Promise<void> {
    for (let i = 0; i < count; i++) {
      const id = String(this.nodes.length).padStart(16, "a");
      const bus = new TappedBus(this.network);
      const view = new TestView(id, this.#containers, this.owners);
      const host = new TestHost();
      const meta: MetaStore = deaf ? new DeafMetaStore(this.#meta) : this.#meta;
      const access = { meta, clock: this.clock, random: this.#random };
      const services = createCoreServices({ access, bus, cluster: CLUSTER, clusterId: "c", host, view, logger: SILENT });
      await services.start();
      await services.startUplink();
      this.nodes.push({ id, bus, view, host, services, streams: services.streams });
    }
  }

  node(index: number): TestNode {
    const node = this.nodes[index];
    if (!node) throw new Error(`there is no node ${index}`);
    return node;
  }

  ownerOf(container: number): TestNode | undefined {
    return this.nodes.find(({ view }) => view.node === this.owners.get(container)?.node);
  }

  /** The owner stops, and a moment later nobody has told anybody. */
  leave(container: number): Container | undefined {
    return this.ownerOf(container)?.host.drop(container);
  }

  /** The container's next owner finds nothing in its log. */
  forgetLog(container: number): void {
    this.#logs.delete(container);
  }

  /** A node takes the container over under the next epoch; the one before learns of it as its view does. */
  async take(container: number, index: number): Promise<void> {
    const node = this.node(index);
    const epoch = (this.owners.get(container)?.epoch ?? 0) + 1;
    const log = this.#logs.get(container) ?? new MemoryLog();
    this.#logs.set(container, log);
    const { clock } = this;
    const opened = createContainer({ id: container, epoch, log, objects: this.#objects, clock, random: this.#random });
    await this.settled(opened.open());
    node.host.add(opened, epoch);
    this.owners.set(container, { container, epoch, node: node.view.node, url: `http://node-${index}` });
    for (const { view } of this.nodes) view.changed();
  }

  /** Drained by its owner, then taken. */
  async move(container: number, index: number): Promise<void> {
    const before = this.leave(container);
    if (before) await this.settled(before.close());
    await this.take(container, index);
  }

  async step(ms = 10): Promise<void> {
    this.clock.advance(ms);
    for (let turn = 0; turn < 4; turn++) await new Promise<void>((resolve) => setImmediate(resolve));
  }

  /** Lets time go on until the promise settles. */
  async settled<T>(promise: Promise<T>, ms = 10): Promise<T> {
    let open = true;
    const done = promise.finally(() => {
      open = false;
    });
    done.catch(() => {});
    for (let i = 0; open && i < 5_000; i++) await this.step(ms);
    if (open) throw new Error("it does not settle");
    return done;
  }

  async close(): Promise<void> {
    for (const { bus } of this.nodes) bus.resume();
    await this.settled(Promise.all(this.nodes.map(({ services }) => services.stop())));
    const containers = this.nodes.flatMap(({ host }) => [...host.hosted.keys()].map((id) => host.drop(id)));
    await this.settled(Promise.all(containers.map((container) => container?.close())));
    await this.settled(Promise.all(this.nodes.map(({ services }) => services.close())));
  }
}

export function pack(...texts: string[]): EventPack {
  const payloads = texts.map((text) => Buffer.from(text));
  let end = 0;
  return {
    count: texts.length,
    payload: Buffer.concat(payloads),
    ends: payloads.map((payload) => {
      end += payload.length;
      return end;
    }),
    keys: undefined,
    timesMs: undefined,
  };
}

export async function textsOf(streams: StreamService, name: { scope: string; stream: string }): Promise<string[]> {
  const texts: string[] = [];
  for (let offset = "-1"; ; ) {
    const page = await streams.read(name, { offset, eventsMax: 1_000, bytesMax: 1_000_000 });
    texts.push(...page.events.map((event) => Buffer.from(event.data).toString()));
    offset = page.nextOffset;
    if (page.upToDate) return texts;
  }
}
