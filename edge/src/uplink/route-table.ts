import type { Clock } from "@tributary/common/clock";
import { LIMITS } from "@tributary/common/limits";

interface Route {
  epoch: number;
  /** Until then the owner of this epoch is not asked directly: it did not answer there. */
  distrustedUntilMs: number;
}

/** So long an owner that did not answer directly is asked through others, unless another one takes its place. */
const DISTRUST_MS = 10_000;

/**
 * Under which epoch the core serves each container, as far as it was heard: the owner's direct subject keeps the order of blocks, and
 * a request to it never meets a deposed owner. Nothing hangs on it being right: whoever is not found there is asked through any node.
 */
export class RouteTable {
  readonly #clock: Clock;
  readonly #routes = new Map<number, Route>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The epoch whose direct subject takes requests; 0: ask any node. */
  directEpoch(container: number): number {
    const route = this.#routes.get(container);
    return route && this.#clock.monotonicMs() >= route.distrustedUntilMs ? route.epoch : 0;
  }

  /** The core said so; it may be old. True if it is news. */
  heard(container: number, epoch: number): boolean {
    const known = this.#routes.get(container)?.epoch ?? 0;
    if (!isRoute(container, epoch) || epoch <= known) return false;
    this.#routes.set(container, { epoch, distrustedUntilMs: 0 });
    return true;
  }

  /** The owner itself answered under this epoch, be it lower than what was heard: a core may have been set up anew. */
  answered(container: number, epoch: number | undefined): void {
    if (epoch === undefined || !isRoute(container, epoch) || this.#routes.get(container)?.epoch === epoch) return;
    this.#routes.set(container, { epoch, distrustedUntilMs: 0 });
  }

  /** Nobody answered directly under this epoch. */
  failed(container: number, epoch: number): void {
    const route = this.#routes.get(container);
    if (route?.epoch === epoch) route.distrustedUntilMs = this.#clock.monotonicMs() + DISTRUST_MS;
  }
}

/** What does not come from a core of this kind is not remembered. */
function isRoute(container: number, epoch: unknown): boolean {
  return container < LIMITS.containersMax && Number.isSafeInteger(epoch) && (epoch as number) > 0;
}
