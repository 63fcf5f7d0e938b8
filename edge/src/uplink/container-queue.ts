import { LIMITS } from "@tributary/common/limits";
import type { TrackedUnit } from "./unit-tracker.ts";

export interface QueuedBlock {
  readonly container: number;
  readonly unit: TrackedUnit;
  readonly bytes: Uint8Array;
}

/**
 * Blocks for one container that it has not accepted yet, in order. Up to a window of them are on their way; after a failure
 * all are sent again from the first one on (the container knows what it has already).
 */
export class ContainerQueue {
  readonly container: number;
  readonly #blocks: QueuedBlock[] = [];
  /** Blocks before this index are on their way. */
  #sent = 0;

  constructor(container: number) {
    this.container = container;
  }

  push(block: QueuedBlock): void {
    this.#blocks.push(block);
  }

  /** The next block to send; undefined if the window is full or all were sent. */
  takeNext(): QueuedBlock | undefined {
    if (this.#sent >= LIMITS.uplinkBlocksInFlightMax) return undefined;
    const block = this.#blocks[this.#sent];
    if (block) this.#sent++;
    return block;
  }

  isFirst(block: QueuedBlock): boolean {
    return this.#blocks[0] === block;
  }

  /** False if it was accepted before, or the queue was cleared meanwhile. */
  accepted(block: QueuedBlock): boolean {
    const at = this.#blocks.indexOf(block);
    if (at < 0) return false;
    this.#blocks.splice(at, 1);
    if (at < this.#sent) this.#sent--;
    return true;
  }

  /** Everything not accepted is to be sent again. */
  resend(): void {
    this.#sent = 0;
  }
}
