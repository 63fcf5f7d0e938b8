import type { Clock } from "@tributary/common/clock";
import type { ClusterView, Owner } from "../cluster/cluster-view.ts";
import type { LocalContainers, LocalHost } from "./local-containers.ts";

/** Where a container is asked: here, or at the node that owns it. */
export type Target = { readonly type: "here" } | { readonly type: "node"; readonly owner: Owner };

const HERE: Target = { type: "here" };

interface Watcher {
  readonly container: number;
  readonly target: Target;
  readonly moved: () => void;
}

/** Which way requests go, out of what this node serves and what it knows of the others. */
export class Routes {
  readonly #view: ClusterView;
  readonly #local: LocalContainers;
  readonly #clock: Clock;
  readonly #watchers = new Set<Watcher>();
  readonly #stopListening: () => void;

  constructor(view: ClusterView, host: LocalHost, local: LocalContainers, clock: Clock) {
    this.#view = view;
    this.#local = local;
    this.#clock = clock;
    this.#stopListening = view.onChange(() => this.#changed());
    // Called before the container can be used: whoever waits for it looks a moment later.
    host.onOpened(({ container }) => queueMicrotask(() => this.#changed(container)));
  }

  close(): void {
    this.#stopListening();
  }

  get containers(): number {
    return this.#view.containers;
  }

  target(container: number): Target {
    const owner = this.#view.ownerOf(container);
    if (!owner || owner.node === this.#view.node) return HERE;
    // The view may be older than what happens here, and what is served here older than the view: the later epoch is right.
    const epochHere = this.#local.epochOf(container);
    return epochHere !== undefined && epochHere >= owner.epoch ? HERE : { type: "node", owner };
  }

  /** Of the present owner; 0 if none is known. */
  epochOf(container: number): number {
    return Math.max(this.#local.epochOf(container) ?? 0, this.#view.ownerOf(container)?.epoch ?? 0);
  }

  /** Where clients reach the owner, if that is another node. */
  urlOf(container: number): string | undefined {
    const target = this.target(container);
    return target.type === "node" && target.owner.url !== "" ? target.owner.url : undefined;
  }

  /** Calls back once when the container is to be asked elsewhere, or when it is opened here. Returns a function that stops it. */
  onMoved(container: number, target: Target, moved: () => void): () => void {
    const watcher: Watcher = { container, target, moved };
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  /** Resolves when the container is to be asked elsewhere, after `timeoutMs`, or when the signal aborts. */
  pause(container: number, target: Target, timeoutMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal.aborted || !same(this.target(container), target)) return resolve();
      const finish = () => {
        cancelTimer();
        stop();
        signal.removeEventListener("abort", finish);
        resolve();
      };
      const cancelTimer = this.#clock.setTimer(timeoutMs, finish);
      const stop = this.onMoved(container, target, finish);
      signal.addEventListener("abort", finish, { once: true });
    });
  }

  #changed(opened?: number): void {
    for (const watcher of [...this.#watchers]) {
      if (watcher.container !== opened && same(this.target(watcher.container), watcher.target)) continue;
      this.#watchers.delete(watcher);
      watcher.moved();
    }
  }
}

function same(a: Target, b: Target): boolean {
  if (a.type === "here" || b.type === "here") return a.type === b.type;
  return a.owner.node === b.owner.node && a.owner.epoch === b.owner.epoch;
}
