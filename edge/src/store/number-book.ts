import type { Id, Lane } from "@tributary/common/names";
import type { CommitStream, EncodedCommit, NumberLedger } from "./commit-record.ts";
import type { LastNumber } from "./incarnation-record.ts";

interface StreamNumbers extends Record<Lane, number> {
  /** Last number of each segment and lane, while the stream is cut into this many. Only of streams with more than one. */
  cut: { readonly segments: number; readonly tails: Record<Lane, Float64Array> } | undefined;
}

/** The numbers that one incarnation has given out. */
export class NumberBook implements NumberLedger {
  readonly #streams = new Map<Id, StreamNumbers>();

  last(id: Id, lane: Lane): number {
    return this.#streams.get(id)?.[lane] ?? 0;
  }

  segmentLast(id: Id, lane: Lane, segments: number, segment: number): number {
    const cut = this.#streams.get(id)?.cut;
    return cut?.segments === segments ? (cut.tails[lane][segment] ?? 0) : 0;
  }

  set(id: Id, lane: Lane, last: number): void {
    this.#of(id)[lane] = last;
  }

  advance(lane: Lane, streams: readonly CommitStream[]): void {
    for (const { localId, last } of streams) this.#of(localId)[lane] = last;
  }

  advanceSegments(lane: Lane, tails: EncodedCommit["segmentTails"]): void {
    for (const { localId, segments, segment, last } of tails) {
      const numbers = this.#of(localId);
      if (numbers.cut?.segments !== segments) {
        numbers.cut = { segments, tails: { live: new Float64Array(segments), backlog: new Float64Array(segments) } };
      }
      numbers.cut.tails[lane][segment] = last;
    }
  }

  forget(id: Id): void {
    this.#streams.delete(id);
  }

  /** A new incarnation begins at 1. */
  clear(): void {
    this.#streams.clear();
  }

  lasts(): LastNumber[] {
    return Array.from(this.#streams, ([id, { live, backlog }]): LastNumber[] => [
      { id, lane: "live", last: live },
      { id, lane: "backlog", last: backlog },
    ])
      .flat()
      .filter(({ last }) => last > 0);
  }

  #of(id: Id): StreamNumbers {
    let numbers = this.#streams.get(id);
    if (!numbers) {
      numbers = { live: 0, backlog: 0, cut: undefined };
      this.#streams.set(id, numbers);
    }
    return numbers;
  }
}
