import type { StreamName } from "@tributary/common/names";
import type { StreamService } from "@tributary/common/stream-service";
import { decodeStreamRecord, streamKey } from "@tributary/core/service/stream-record";
import { CoreNode } from "./core-node.ts";
import { Freshness } from "./freshness.ts";
import type { SimProcess } from "./process.ts";
import type { SimWorld, Target } from "./sim-world.ts";

/** Between two looks at who believes to own what. */
const LOOK_MS = 40;
/** Until nodes know that the MetaStore went back, at most. */
const LEASES_TO_NOTICE = 6;
/** How often a client goes to another node though its own answers. */
const WANDERS = 0.15;

/** The nodes of the core, and what must hold of all of them together. */
export class CoreGroup {
  readonly nodes: CoreNode[] = [];
  readonly #world: SimWorld;
  readonly #freshness: Freshness;
  #metaBackMs = Number.NEGATIVE_INFINITY;

  constructor(world: SimWorld) {
    this.#world = world;
    this.#freshness = new Freshness(world.ledger.violate, () => world.wentBack);
  }

  add(): CoreNode {
    const node = new CoreNode(this.#world, `core${this.nodes.length}`);
    this.nodes.push(node);
    return node;
  }

  /** Those that are not gone for good. */
  get members(): CoreNode[] {
    return this.nodes.filter((node) => !node.retired);
  }

  /** Where a client of the core sends its requests: mostly to the same node, and each is good for all streams. */
  service(client: string): () => Target<StreamService> {
    const { dice } = this.#world;
    let home: CoreNode | undefined;
    return () => {
      if (!home?.core || home.retired || dice.float(`${client} wanders`) < WANDERS) home = dice.pick(`node of ${client}`, this.members);
      const { core, process, name } = home;
      return { process, service: core && this.#freshness.watch(core.streams, `${client} at ${name}`) };
    };
  }

  /** Whether the stream is served by this process itself: then it need not rely on the network. */
  isOwner(process: SimProcess | undefined, stream: StreamName): boolean {
    const record = this.#world.meta.at(streamKey(stream), this.#world.nowMs);
    const container = record && decodeStreamRecord(record.key, record.value).containers[0];
    const status = this.nodes.find((node) => node.process === process)?.core?.status();
    return container !== undefined && status?.member === true && status.containers[container]?.state === "serving";
  }

  get allServe(): boolean {
    return this.members.every((node) => node.core !== undefined);
  }

  /** Nodes that serve a container and hold their lease. */
  #serving(): Map<number, string[]> {
    const found = new Map<number, string[]>();
    for (const { name, running, process } of this.nodes) {
      const status = process?.alive ? running?.status() : undefined;
      if (!status?.member) continue;
      for (const { container, state, epoch } of status.containers) {
        if (state !== "serving") continue;
        found.set(container, [...(found.get(container) ?? []), `${name} in epoch ${epoch}`]);
      }
    }
    return found;
  }

  /** At no moment do two nodes hold one container within valid leases, but while they find out that the MetaStore went back. */
  watchLeases(): void {
    const { scheduler, ledger, shape } = this.#world;
    const { leaseMs = 0, handoverMs = 0 } = shape.cluster.shared ?? {};
    const look = () => {
      for (const [container, names] of this.#serving()) {
        if (names.length > 1 && scheduler.nowMs > this.#metaBackMs + LEASES_TO_NOTICE * leaseMs + handoverMs)
          ledger.violate(6, "two owners", `container ${container} is held by ${names.join(" and by ")}`);
      }
      scheduler.schedule(LOOK_MS, undefined, look);
    };
    scheduler.schedule(LOOK_MS, undefined, look);
  }

  /** The MetaStore goes back now. */
  metaWentBack(): void {
    this.#metaBackMs = this.#world.nowMs;
  }

  /** Damaged containers that nobody serves. */
  outOfService(): number[] {
    const serving = this.#serving();
    return [...this.#world.damaged].filter((container) => !serving.has(container));
  }

  /** What is not done yet: all nodes up, each container but the damaged ones served by one of them, and everything in the lake. */
  unrest(outOfService: readonly number[]): string[] {
    const found: string[] = [];
    const { members } = this;
    const serving = this.#serving();
    let containers = 0;
    for (const { name, core } of members) {
      const status = core?.status();
      if (!status) found.push(`${name} does not serve`);
      else if (!status.member) found.push(`${name} has no lease`);
      else if (status.members.length !== members.length) found.push(`${name} sees ${status.members.length} members`);
      else if (status.eventsDurable !== status.eventsTiered) found.push(`${name} has not brought everything into the lake`);
      containers = Math.max(containers, status?.containers.length ?? 0);
      if (status && status.containers.length !== containers) found.push(`${name} knows ${status.containers.length} containers`);
    }
    for (let container = 0; container < containers; container++) {
      const owners = serving.get(container) ?? [];
      if (owners.length === 1 || outOfService.includes(container)) continue;
      found.push(`container ${container} is served by ${owners.join(" and ") || `nobody: ${this.#stateOf(container)}`}`);
    }
    return found;
  }

  #stateOf(container: number): string {
    return this.members
      .map(({ name, core }) => {
        const hosted = core?.status().containers[container];
        return `${name} ${hosted?.state} ${hosted?.lastError}`;
      })
      .join(", ");
  }
}
