import type { Id } from "@tributary/common/names";
import type { ObjectRef } from "../container/operations.ts";
import { lastAtOrBelow } from "../container/unflushed.ts";

/** Where a stream's tiered events lie: from `from[i]` on in the object `object[i]`, up to the next run. */
export interface StreamRuns {
  readonly from: number[];
  /** Positions in `TierIndex.objects`. */
  readonly object: number[];
}

/** Which combined object holds which part of each stream's chain. Sixteen bytes a stream and object. */
export class TierIndex {
  readonly objects: ObjectRef[] = [];
  readonly runs: Map<Id, StreamRuns> = new Map();
  bytes = 0;

  /** Adds an object that continues each of the given streams at a chain ordinal. */
  add(ref: ObjectRef, starts: ReadonlyMap<Id, number>): void {
    const position = this.objects.length;
    this.objects.push(ref);
    this.bytes += ref.bytes;
    for (const [streamId, from] of starts) {
      let runs = this.runs.get(streamId);
      if (!runs) {
        runs = { from: [], object: [] };
        this.runs.set(streamId, runs);
      }
      runs.from.push(from);
      runs.object.push(position);
    }
  }

  /** The object that holds the event at `chain`, which must be tiered. */
  find(streamId: Id, chain: number): ObjectRef | undefined {
    const runs = this.runs.get(streamId);
    if (!runs) return undefined;
    const run = lastAtOrBelow(runs.from.length, chain, (i) => runs.from[i] as number);
    return this.objects[runs.object[run] as number];
  }

  delete(streamId: Id): void {
    this.runs.delete(streamId);
  }
}
