import type { Id, Lane } from "@tributary/common/names";
import type { CommitRecord } from "./commit-record.ts";
import type { ReachedNumber, StreamMapping } from "./edge-store.ts";
import type { IncarnationRecord, LastNumber } from "./incarnation-record.ts";

/** The last number of an incarnation. */
export interface Tail {
  readonly incarnation: Id;
  readonly last: number;
}

/** How a slice is chained to what was sent before it in its segment (rules W1, W2). */
export interface Link {
  readonly previous: number;
  readonly parent?: { readonly incarnation: Id; readonly last: number };
}

/** Numbers of a stream that no record has any more. */
export interface MissingNumbers {
  readonly localId: Id;
  readonly lane: Lane;
  readonly incarnation: Id;
  readonly first: number;
  readonly last: number;
}

export interface CursorMove {
  readonly localId: Id;
  readonly lane: Lane;
  readonly incarnation: Id;
  readonly last: number;
}

export interface ChainMove {
  readonly localId: Id;
  readonly target: Id;
  readonly segments: number;
  readonly segment: number;
  readonly lane: Lane;
  readonly incarnation: Id;
  readonly last: number;
}

/** What the core has of an incarnation in a segment. */
export interface ReachedTail extends ReachedNumber {
  readonly localId: Id;
}

/** Numbers of a segment that were passed to the core and that it does not have. */
export interface LackingNumbers {
  readonly segments: number;
  readonly first: number;
  readonly last: number;
}

type Cursors = Record<Lane, Tail | undefined>;

interface Chain {
  /** What the tails hold for: another id or number of segments at the core is another chain, and begins afresh. */
  readonly target: Id;
  readonly segments: number;
  /** By segment and lane. */
  readonly tails: Map<string, Tail>;
}

/**
 * How far the log was passed to the core, and what that means for what comes next. Two of them exist: one at the send position,
 * and one at the freed position, which is persisted with each checkpoint and to which a rewind returns.
 *
 * Cursors count numbers by local stream, and so tell when some are missing. Chains hold what was sent last into each segment
 * of the core's stream: the `previous` and `parent` of what will be sent next, exactly.
 */
export class UplinkFold {
  /** Sequence of the last record that was passed. */
  position: number;
  /** Events in all commits through `position`. */
  events: number;
  readonly #cursors = new Map<Id, Cursors>();
  readonly #chains = new Map<Id, Chain>();

  constructor(position: number, events: number) {
    this.position = position;
    this.events = events;
  }

  clone(): UplinkFold {
    const copy = new UplinkFold(this.position, this.events);
    for (const [id, cursors] of this.#cursors) copy.#cursors.set(id, { ...cursors });
    for (const [id, chain] of this.#chains) copy.#chains.set(id, { ...chain, tails: new Map(chain.tails) });
    return copy;
  }

  moveCursor(move: CursorMove): void {
    let cursors = this.#cursors.get(move.localId);
    if (!cursors) {
      cursors = { live: undefined, backlog: undefined };
      this.#cursors.set(move.localId, cursors);
    }
    cursors[move.lane] = { incarnation: move.incarnation, last: move.last };
  }

  moveChain(move: ChainMove): void {
    const chain = this.#chain(move.localId, move.target, move.segments) ?? {
      target: move.target,
      segments: move.segments,
      tails: new Map(),
    };
    this.#chains.set(move.localId, chain);
    chain.tails.set(tailKey(move.segment, move.lane), { incarnation: move.incarnation, last: move.last });
  }

  /** The link of a slice of `incarnation` that is the next one in a segment. */
  link(localId: Id, mapping: StreamMapping, segment: number, lane: Lane, incarnation: Id): Link {
    const tail = this.#chain(localId, mapping.id, mapping.segments)?.tails.get(tailKey(segment, lane));
    if (!tail) return { previous: 0 };
    if (tail.incarnation === incarnation) return { previous: tail.last };
    return { previous: 0, parent: tail };
  }

  /** What the core lacks of the newest incarnation in a segment; undefined if nothing. */
  lacking(at: ReachedTail): LackingNumbers | undefined {
    const chain = this.#chains.get(at.localId);
    if (!chain || chain.target !== at.streamId) return undefined;
    const tail = chain.tails.get(tailKey(at.segment.number, at.lane));
    if (tail?.incarnation !== at.incarnation || tail.last <= at.last) return undefined;
    return { segments: chain.segments, first: at.last + 1, last: tail.last };
  }

  forget(localId: Id): void {
    this.#cursors.delete(localId);
    this.#chains.delete(localId);
  }

  /** Numbers that should have come before this commit but did not. */
  missingBefore(commit: CommitRecord): MissingNumbers[] {
    const incarnation = commit.blocks[0]?.incarnation;
    if (incarnation === undefined) return [];
    const { lane } = commit;
    return commit.streams.flatMap(({ localId, first }) => {
      const tail = this.#cursors.get(localId)?.[lane];
      const expected = tail?.incarnation === incarnation ? tail.last + 1 : 1;
      return first > expected ? [{ localId, lane, incarnation, first: expected, last: first - 1 }] : [];
    });
  }

  /** Numbers that an incarnation had given out at some point but that were not met. */
  missingUpTo(incarnation: Id, lasts: readonly LastNumber[]): MissingNumbers[] {
    return lasts.flatMap(({ id: localId, lane, last }) => {
      const tail = this.#cursors.get(localId)?.[lane];
      const met = tail?.incarnation === incarnation ? tail.last : 0;
      return last > met ? [{ localId, lane, incarnation, first: met + 1, last }] : [];
    });
  }

  missingAtStart(record: IncarnationRecord): MissingNumbers[] {
    return record.parent === undefined ? [] : this.missingUpTo(record.parent, record.parentLasts);
  }

  #chain(localId: Id, target: Id, segments: number): Chain | undefined {
    const chain = this.#chains.get(localId);
    return chain && chain.target === target && chain.segments === segments ? chain : undefined;
  }

  /** For a checkpoint; plain values. */
  snapshot(): FoldSnapshot {
    return {
      position: this.position,
      events: this.events,
      cursors: Array.from(this.#cursors, ([id, { live, backlog }]) => [id, row(live), row(backlog)]),
      chains: Array.from(this.#chains, ([id, { target, segments, tails }]) => [
        id,
        target,
        segments,
        Array.from(tails, ([key, tail]) => [key, tail.incarnation, tail.last]),
      ]),
    };
  }

  static restore(snapshot: FoldSnapshot): UplinkFold {
    const fold = new UplinkFold(snapshot.position, snapshot.events);
    for (const [id, live, backlog] of snapshot.cursors) {
      fold.#cursors.set(id, { live: tailOf(live), backlog: tailOf(backlog) });
    }
    for (const [id, target, segments, tails] of snapshot.chains) {
      fold.#chains.set(id, { target, segments, tails: new Map(tails.map(([key, incarnation, last]) => [key, { incarnation, last }])) });
    }
    return fold;
  }
}

type TailRow = readonly [incarnation: Id, last: number];

/** Persisted in checkpoints: append only. */
export interface FoldSnapshot {
  readonly position: number;
  readonly events: number;
  readonly cursors: readonly (readonly [id: Id, live: TailRow | null, backlog: TailRow | null])[];
  readonly chains: readonly (readonly [
    id: Id,
    target: Id,
    segments: number,
    tails: readonly (readonly [key: string, incarnation: Id, last: number])[],
  ])[];
}

const row = (tail: Tail | undefined): TailRow | null => (tail ? [tail.incarnation, tail.last] : null);
const tailOf = (tail: TailRow | null): Tail | undefined => (tail ? { incarnation: tail[0], last: tail[1] } : undefined);
const tailKey = (segment: number, lane: Lane): string => `${segment}.${lane}`;
