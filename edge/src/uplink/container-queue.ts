import { LIMITS } from "@tributary/common/limits";
import type { TrackedUnit } from "./unit-tracker.ts";

export interface QueuedBlock {
  readonly container: number;
  readonly unit: TrackedUnit;
  readonly bytes: Uint8Array;
  /** Its slices are at least so many. */
  readonly rowsMin: number;
}

/**
 * Blocks for one container that it has not accepted yet, in order. Up to a window of them are on their way; after a failure
 * all are sent again from the first one on (the container knows what it has already).
 *
 * Directly to the owner they keep their order. Through any node each may go another way: then one is on its way at a time. What is on
 * its way is answered before the way changes.
 */
export class ContainerQueue {
  readonly container: number;
  readonly #blocks: QueuedBlock[] = [];
  /** Blocks before this index are on their way. */
  #sent = 0;
  #epoch = 0;
  #attempt = 0;

  constructor(container: number) {
    this.container = container;
  }

  push(block: QueuedBlock): void {
    this.#blocks.push(block);
  }

  /** Counts resends: what is heard of something sent before the last one is no news, unless it was accepted. */
  get attempt(): number {
    return this.#attempt;
  }

  /** Of the owner to which blocks are on their way directly; 0 if none are. */
  get directEpoch(): number {
    return this.#sent > 0 ? this.#epoch : 0;
  }

  /** The next block to send to the owner of this epoch, or through any node (0); undefined if the window is full or all were sent. */
  takeNext(epoch: number): QueuedBlock | undefined {
    if (this.#sent >= (epoch > 0 ? LIMITS.uplinkBlocksInFlightMax : 1)) return undefined;
    if (this.#sent > 0 && this.#epoch !== epoch) return undefined;
    const block = this.#blocks[this.#sent];
    if (!block) return undefined;
    this.#sent++;
    this.#epoch = epoch;
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
    this.#attempt++;
  }
}
