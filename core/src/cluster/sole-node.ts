import { type Id, newId } from "@tributary/common/names";
import { ensureContainerCount } from "../service/cluster-record.ts";
import type { MetaAccess } from "../service/meta-change.ts";
import type { Cluster } from "./cluster.ts";
import type { OwnerRecord } from "./cluster-codec.ts";
import type { Member, Owner } from "./cluster-view.ts";
import { NODE_ID_BYTES } from "./membership.ts";

/** A node whose MetaStore nobody else can use, because it has locked it: every container is its own, without leases. */
export class SoleNode implements Cluster {
  readonly node: Id;
  readonly handoverMs = 0;
  readonly shared = false;
  readonly draining = false;
  readonly #access: MetaAccess;
  readonly #name: string;
  readonly #containersMin: number;
  readonly #epochs = new Map<number, number>();
  readonly #listeners = new Set<() => void>();
  #url = "";
  #containers = 0;

  constructor(access: MetaAccess, options: { readonly name: string; readonly containers: number }) {
    this.#access = access;
    this.#name = options.name;
    this.#containersMin = options.containers;
    this.node = newId(access.random, NODE_ID_BYTES);
  }

  get containers(): number {
    return this.#containers;
  }

  members(): Member[] {
    return [{ node: this.node, name: this.#name, url: this.#url, draining: false }];
  }

  ownerOf(container: number): Owner | undefined {
    const epoch = this.#epochs.get(container);
    return epoch === undefined ? undefined : { container, epoch, node: this.node, url: this.#url };
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  holds(): boolean {
    return true;
  }

  isAssigned(container: number): boolean {
    return container < this.#containers;
  }

  mayTake(): boolean {
    return true;
  }

  epochWon(container: number): number {
    return this.#epochs.get(container) ?? 0;
  }

  tookOwner(container: number, { epoch }: Pick<OwnerRecord, "epoch">): void {
    this.#epochs.set(container, epoch);
    this.#changed();
  }

  onLost(): void {}

  async start(): Promise<void> {
    await this.raise(this.#containersMin);
  }

  announce(url: string): void {
    this.#url = url;
    this.#changed();
  }

  async raise(containers: number): Promise<number> {
    this.#containers = await ensureContainerCount(this.#access, containers);
    this.#changed();
    return this.#containers;
  }

  /** There is nobody to give anything to. */
  setDraining(): void {}

  async drain(): Promise<void> {}

  async leave(): Promise<void> {}

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }
}
