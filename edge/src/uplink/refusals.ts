import { TributaryError } from "@tributary/common/errors";
import { decodeBlock } from "@tributary/common/format/block";
import type { Id } from "@tributary/common/names";
import { type AppendAnswer, SLICE_STATUS } from "@tributary/common/uplink-protocol";
import type { ReachedNumber } from "../store/edge-store.ts";
import type { UnresolvedStream } from "./resolver.ts";

/** Statuses after which the stream has to be looked up again. */
const LOOK_UP_AGAIN: ReadonlySet<number> = new Set([SLICE_STATUS.sealed, SLICE_STATUS.streamGone, SLICE_STATUS.wrongContainer]);
const OUT_OF_PLACE: ReadonlySet<number> = new Set([SLICE_STATUS.previousNotReached, SLICE_STATUS.parentNotReached]);

/** What containers said as they refused blocks, until something was done about it. */
export class Refusals {
  readonly #byCoreId: (coreId: Id) => UnresolvedStream | undefined;
  readonly #lookUps = new Map<Id, UnresolvedStream>();
  #reached: ReachedNumber[] = [];

  /** `byCoreId`: the stream that the core knows under this id. */
  constructor(byCoreId: (coreId: Id) => UnresolvedStream | undefined) {
    this.#byCoreId = byCoreId;
  }

  /** Streams that have to be looked up again. */
  get lookUps(): ReadonlyMap<Id, UnresolvedStream> {
    return this.#lookUps;
  }

  /** True where more has to be done than to send again. */
  get any(): boolean {
    return this.#lookUps.size > 0 || this.#reached.length > 0;
  }

  /** Behind a block that is missing, sending again heals it; at the front (`isFirst`) the core lacks what it had accepted before. */
  note(block: Uint8Array, answer: AppendAnswer, isFirst: boolean): void {
    this.#noteLookUps(block, answer);
    if (isFirst) this.#noteReached(block, answer);
  }

  lookedUp(ids: Iterable<Id>): void {
    for (const id of ids) this.#lookUps.delete(id);
  }

  /** What containers said that they have as they refused what was first in their turn. */
  takeReached(): ReachedNumber[] {
    const reached = this.#reached;
    this.#reached = [];
    return reached;
  }

  #noteLookUps(block: Uint8Array, answer: AppendAnswer): void {
    if (!answer.slices.some(([status]) => LOOK_UP_AGAIN.has(status))) return;
    const { slices } = decodeBlock(block);
    answer.slices.forEach(([status], i) => {
      const coreId = slices.at(i)?.streamId;
      const stream = LOOK_UP_AGAIN.has(status) && coreId !== undefined ? this.#byCoreId(coreId) : undefined;
      if (!stream || coreId === undefined) return;
      // With a fixed number of segments only a stream that was closed at the core is sealed.
      this.#lookUps.set(stream.id, status === SLICE_STATUS.sealed ? { ...stream, avoid: coreId } : stream);
    });
  }

  #noteReached(block: Uint8Array, answer: AppendAnswer): void {
    if (!answer.slices.some(([status]) => OUT_OF_PLACE.has(status))) return;
    const { slices, lane, incarnation } = decodeBlock(block);
    answer.slices.forEach(([status, last], i) => {
      const slice = slices.at(i);
      if (!slice) return;
      const { streamId, segment, parent } = slice;
      if (status === SLICE_STATUS.previousNotReached) this.#reached.push({ streamId, segment, incarnation, lane, last });
      else if (status === SLICE_STATUS.parentNotReached && parent)
        this.#reached.push({ streamId, segment, incarnation: parent.incarnation, lane, last });
    });
  }
}

export function tellsOfFork(answer: AppendAnswer): boolean {
  return answer.slices.some(([status]) => status === SLICE_STATUS.forked);
}

/** The refusal as an error: of the first slice that was not accepted. */
export function refusal(answer: AppendAnswer): TributaryError {
  const [status, number] = answer.slices.find(([status]) => status !== SLICE_STATUS.accepted) ?? [SLICE_STATUS.accepted, 0];
  switch (status) {
    case SLICE_STATUS.parentNotReached:
      return new TributaryError("PARENT_NOT_REACHED", "the core lacks events of the incarnation before", { number });
    case SLICE_STATUS.streamGone:
      return new TributaryError("STREAM_GONE", "the stream was deleted at the core");
    case SLICE_STATUS.wrongContainer:
    case SLICE_STATUS.sealed:
      return new TributaryError("CONTAINER_NOT_OWNED", "the segment is served elsewhere now");
    default:
      return new TributaryError("PREVIOUS_NOT_REACHED", "the core lacks earlier events", { number });
  }
}
