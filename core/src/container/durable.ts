import type { Id } from "@tributary/common/names";
import type { ReadLevel } from "@tributary/common/stream-service";
import type { FlushObject } from "../tier/flush-object.ts";
import { TierIndex } from "../tier/tier-index.ts";
import { WAL_START, type WalPosition } from "./counting.ts";
import type { AppendBlock, Checkpoint, ObjectRef, Operation } from "./operations.ts";
import { ContainerState, type StreamState } from "./state.ts";
import { Unflushed } from "./unflushed.ts";

export const NO_CHECKPOINT: Checkpoint = { position: WAL_START, snapshot: undefined, objects: [] };

export interface StreamEnd {
  /** Chain ordinal behind the last event. */
  readonly chain: number;
  readonly closed: boolean;
}

/**
 * Everything that is known to be durable: the fold over the counting frames through `position`, and where the events of these
 * frames can be read. Answers, reads and levels come from here alone (rule W3).
 */
export class Durable {
  readonly state: ContainerState;
  readonly index: TierIndex;
  readonly unflushed: Unflushed;
  position: WalPosition;
  /** Sequence of the last stored record that was looked at, void ones included. */
  end: number;
  /**
   * What `index` and the beginning of `unflushed` rest on. A later one that replay finds, recorded by the owner before while this
   * one already read the log, is not taken over: the next flush covers its frames again, and its object is left behind.
   */
  checkpoint: Checkpoint;
  eventsTiered: number;
  /** The container goes on in a later generation: nothing may be appended here any more. */
  endsGeneration = false;
  /** The last counting frame but those that end the generation: how far the log tells what happened. */
  historyEnd: WalPosition;

  constructor(checkpoint: Checkpoint, loaded: { state: ContainerState; index: TierIndex }) {
    this.state = loaded.state;
    this.index = loaded.index;
    this.unflushed = new Unflushed(loaded.state.generation);
    this.position = checkpoint.position;
    this.historyEnd = checkpoint.position;
    this.end = checkpoint.position.seq;
    this.checkpoint = checkpoint;
    this.eventsTiered = loaded.state.events;
  }

  /** Applies a counting frame. Returns the streams that it changed: closed or deleted ones without an end. */
  apply(position: WalPosition, operations: readonly Operation[]): Map<Id, number | undefined> {
    const changed = new Map<Id, number | undefined>();
    for (const operation of operations) {
      if (operation.type === "append-block") this.#append(operation, changed);
      else this.state.apply(operation);
      if (operation.type === "close-stream" || operation.type === "delete-stream") changed.set(operation.streamId, undefined);
      if (operation.type === "delete-stream") this.index.delete(operation.streamId);
      if (operation.type === "take-over") this.endsGeneration ||= operation.endsGeneration;
    }
    this.unflushed.add(position.seq, operations);
    if (!this.endsGeneration) this.historyEnd = position;
    this.position = position;
    this.end = position.seq;
    return changed;
  }

  #append(operation: AppendBlock, changed: Map<Id, number | undefined>): void {
    this.state.append(operation, (decision, slice, added, writer, row) => {
      this.unflushed.append(operation.block, decision, slice, writer, row);
      // Nothing is appended behind a close or a deletion.
      changed.set(slice.streamId, decision.chain + added);
    });
  }

  /**
   * The object is verified and its checkpoint recorded: its events are read from the tier from now on, in the same step. Returns the
   * streams of which more is in the tier now: where that ends, nothing for those whose close is there.
   */
  flushed(object: FlushObject, checkpoint: Checkpoint, events: number): Map<Id, number | undefined> {
    this.checkpoint = checkpoint;
    const starts = new Map<Id, number>();
    const ends = new Map<Id, number>();
    for (const [stream, span] of object.spans) {
      // Deleted meanwhile, and perhaps registered anew under the same id.
      if (this.state.streams.get(stream.id) !== stream) continue;
      starts.set(stream.id, span.from);
      ends.set(stream.id, span.to);
    }
    this.index.add(object.ref, starts);
    const changed = new Map<Id, number | undefined>(ends);
    for (const streamId of this.unflushed.drop(object.ref.through, ends)) changed.set(streamId, undefined);
    const { writers, rows, lasts } = object.numbers;
    writers.forEach((writer, i) => {
      writer.setTiered(rows[i] as number, lasts[i] as number);
    });
    this.eventsTiered = events;
    return changed;
  }

  /** How far readers at a level see the stream, and whether it takes no more events there. */
  endOf({ id, chain, closed }: StreamState, level: ReadLevel): StreamEnd {
    if (level === "committed") return { chain, closed };
    return { chain: this.unflushed.firstChain(id) ?? chain, closed: closed && !this.unflushed.holdsClose(id) };
  }

  get lastObject(): ObjectRef | undefined {
    return this.index.objects.at(-1);
  }
}

export function emptyTier(): { state: ContainerState; index: TierIndex } {
  return { state: new ContainerState(), index: new TierIndex() };
}
