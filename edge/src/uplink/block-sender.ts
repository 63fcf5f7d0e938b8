import { assert } from "@tributary/common/assert";
import { type TributaryError, toTributaryError } from "@tributary/common/errors";
import { inPhase, type PhaseListener } from "@tributary/common/phases";
import type { Bus } from "@tributary/common/ports/bus";
import { type AppendAnswer, SLICE_STATUS, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import type { EdgeStore, UplinkUnit } from "../store/edge-store.ts";
import { decodeAppendAnswer } from "./answers.ts";
import { ContainerQueue, type QueuedBlock } from "./container-queue.ts";
import type { UplinkCounters } from "./counters.ts";
import { isDetour } from "./detour.ts";
import type { UplinkOptions } from "./options.ts";
import type { RouteTable } from "./route-table.ts";
import type { UnitTracker } from "./unit-tracker.ts";

/** Encoded bytes of one unit asked of the store. */
const UNIT_BYTES_TARGET = 262_144;

export interface SenderParts {
  readonly options: UplinkOptions;
  readonly store: Pick<EdgeStore, "uplinkNext">;
  readonly bus: Bus;
  readonly phases: PhaseListener;
  readonly tracker: UnitTracker;
  readonly routes: RouteTable;
  readonly counters: UplinkCounters;
  /** False while nothing is to be sent. */
  readonly maySend: () => boolean;
  /** Work of the present state: what it throws is that state's failure. */
  readonly work: (work: () => Promise<void>) => void;
  /** Waits for the store. */
  readonly stored: <T>(work: Promise<T>) => Promise<T>;
  /** A block was accepted, or there is nothing to send. */
  readonly allWell: () => void;
  /** Units may be freeable now. */
  readonly free: () => void;
  /** `isFirst`: nothing before it waits for the container. */
  readonly refused: (block: Uint8Array, answer: AppendAnswer, isFirst: boolean) => void;
  readonly failed: (error: TributaryError) => void;
}

/** Fetches units from the store and sends their blocks, in order for each container, as far as the windows allow. */
export class BlockSender {
  readonly #parts: SenderParts;
  readonly #queues = new Map<number, ContainerQueue>();
  /** Counts rewinds: units of an earlier round are void. */
  #round = 0;
  #pulling = false;
  #wokenWhilePulling = false;

  constructor(parts: SenderParts) {
    this.#parts = parts;
  }

  /** Something new is durable. */
  wake(): void {
    this.#wokenWhilePulling = this.#pulling;
    this.pump();
  }

  /** What is on its way may never be answered: it will be sent again. */
  startOver(): void {
    for (const queue of this.#queues.values()) queue.resend();
  }

  /** The store hands everything out again. */
  forget(): void {
    this.#round++;
    this.#parts.tracker.clear();
    this.startOver();
    this.#queues.clear();
  }

  /** What is on its way to an owner before this one is not waited for: if it was accepted all the same, that counts when it is heard. */
  moved(container: number): void {
    const queue = this.#queues.get(container);
    if (queue && queue.directEpoch > 0) queue.resend();
    this.pump();
  }

  /** Sends what the windows allow, and fetches units while there is room for them. */
  pump(): void {
    const { options, tracker, routes, maySend, work } = this.#parts;
    if (!maySend()) return;
    for (const queue of this.#queues.values()) {
      const epoch = routes.directEpoch(queue.container);
      for (let block = queue.takeNext(epoch); block; block = queue.takeNext(epoch)) void this.#send(queue, block, epoch);
    }
    const { unitsMax, bytesMax, needsMax } = options;
    const room = tracker.size < unitsMax && tracker.bytes < bytesMax && tracker.needsCount < needsMax;
    if (room && !this.#pulling) work(() => this.#pull());
  }

  async #pull(): Promise<void> {
    const { store, tracker, stored, allWell, free } = this.#parts;
    const round = this.#round;
    let units: UplinkUnit[];
    this.#pulling = true;
    this.#wokenWhilePulling = false;
    try {
      units = await stored(store.uplinkNext(UNIT_BYTES_TARGET));
    } finally {
      this.#pulling = false;
    }
    // What was handed out before a rewind comes again.
    if (round === this.#round) for (const unit of units) this.#enqueue(unit);
    // A unit of which nothing has to be sent is free in its turn.
    free();
    if (units.length === 0 && !tracker.hasPending()) allWell();
    if (units.length > 0 || this.#wokenWhilePulling) this.pump();
  }

  #enqueue(unit: UplinkUnit): void {
    const tracked = this.#parts.tracker.add(unit);
    for (const { container, bytes, needs } of unit.blocks) {
      let queue = this.#queues.get(container);
      if (!queue) {
        queue = new ContainerQueue(container);
        this.#queues.set(container, queue);
      }
      queue.push({ container, unit: tracked, bytes, rowsMin: needs.length });
    }
  }

  /** `epoch`: of the owner that is asked directly; 0: through any node. */
  async #send(queue: ContainerQueue, block: QueuedBlock, epoch: number): Promise<void> {
    const { options, bus, phases, routes, counters, failed } = this.#parts;
    const { attempt, container } = queue;
    counters.blocksSent++;
    counters.bytesSent += block.bytes.length;
    const { cluster, requestTimeoutMs: timeoutMs } = options;
    const subject = epoch > 0 ? UPLINK_SUBJECTS.direct(cluster, container, epoch, "append") : UPLINK_SUBJECTS.append(cluster, container);
    try {
      const payload = await inPhase(phases, "uplink", () => bus.request(subject, block.bytes, { timeoutMs }));
      const answer = decodeAppendAnswer(payload, block.rowsMin);
      if (epoch === 0) routes.answered(container, answer.epoch);
      if (answer.slices.every(([status]) => status === SLICE_STATUS.accepted)) this.#accepted(queue, block);
      else this.#refused(queue, block, answer, attempt);
    } catch (error) {
      if (attempt !== queue.attempt) return;
      const failure = toTributaryError(error);
      if (epoch > 0 && isDetour(failure)) this.#detour(queue, epoch);
      else failed(failure);
    }
  }

  /** The owner of this epoch does not answer: another node finds whoever it is now. */
  #detour(queue: ContainerQueue, epoch: number): void {
    this.#parts.counters.detours++;
    this.#parts.routes.failed(queue.container, epoch);
    queue.resend();
    this.pump();
  }

  /** Durable is durable: this counts however late it comes. */
  #accepted(queue: ContainerQueue, block: QueuedBlock): void {
    const { counters, allWell, free } = this.#parts;
    if (this.#queues.get(block.container) !== queue || !queue.accepted(block)) return;
    counters.blocksAccepted++;
    allWell();
    block.unit.blocksPending--;
    assert(block.unit.blocksPending >= 0, "a block is accepted once");
    free();
    this.pump();
  }

  #refused(queue: ContainerQueue, block: QueuedBlock, answer: AppendAnswer, attempt: number): void {
    this.#parts.counters.blocksRefused++;
    if (attempt === queue.attempt) this.#parts.refused(block.bytes, answer, queue.isFirst(block));
  }
}
