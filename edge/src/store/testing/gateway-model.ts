import type { EventColumns } from "@tributary/common/format/event-columns";
import type { Id, Lane } from "@tributary/common/names";
import type { Random } from "@tributary/common/random";
import type { CommitBatch, EdgeStore, OpenedEdge, StateChange, StreamMapping } from "../edge-store.ts";

export interface SampleEvent {
  readonly stream: Id;
  readonly key: string;
  readonly text: string;
  readonly timeMs?: number;
}

/** An event as the store was given it. */
export interface NumberedEvent extends SampleEvent {
  readonly incarnation: Id;
  readonly lane: Lane;
  readonly number: number;
}

/** Random bytes out of a seed; the same for the same seed. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0 || 1;
  const next = () => {
    // Xorshift32, Marsaglia 2003.
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
  return { bytes: (count) => Uint8Array.from({ length: count }, () => next() & 255), float: () => next() / 2 ** 32 };
}

/** The part of a gateway that the store counts on: it numbers events and remembers what was acknowledged. */
export class GatewayModel {
  readonly #numbers = new Map<string, number>();
  opened: OpenedEdge | undefined;
  /** Acknowledged events of each stream, in order. */
  readonly acked: Map<Id, NumberedEvent[]> = new Map();

  /** Events whose commit failed: they may be there or not. */
  readonly unanswered: Set<string> = new Set();

  /** A new incarnation: numbers begin at 1. */
  began(opened: OpenedEdge): void {
    this.opened = opened;
    this.#numbers.clear();
  }

  batch(events: readonly SampleEvent[], changes: readonly StateChange[] = [], lane: Lane = "live", renews = false): CommitBatch {
    if (renews) this.#numbers.clear();
    const streamIds = [...new Set(events.map(({ stream }) => stream))];
    const keys = [...new Set(events.map(({ key }) => key))];
    const payloads = events.map(({ text }) => Buffer.from(text));
    const ends = new Uint32Array(events.length);
    const starts = new Uint32Array(events.length);
    let at = 0;
    payloads.forEach((payload, i) => {
      starts[i] = at;
      at += payload.length;
      ends[i] = at;
    });
    const columns: EventColumns = {
      count: events.length,
      keys,
      keyIndex: Uint32Array.from(events, ({ key }) => keys.indexOf(key)),
      timeMs: Float64Array.from(events, ({ timeMs }, i) => timeMs ?? 1_700_000_000_000 + i),
      number: Float64Array.from(events, ({ stream }) => this.#nextNumber(stream, lane)),
      starts,
      ends,
      payload: new Uint8Array(Buffer.concat(payloads)),
    };
    return { lane, columns, streamIndex: Uint32Array.from(events, ({ stream }) => streamIds.indexOf(stream)), streamIds, changes, renews };
  }

  /** Commits, and counts the events as acknowledged once it resolved. */
  async commit(
    store: EdgeStore,
    events: readonly SampleEvent[],
    changes: readonly StateChange[] = [],
    lane: Lane = "live",
    renews = false,
  ): Promise<void> {
    const batch = this.batch(events, changes, lane, renews);
    const numbers = Array.from(batch.columns.number);
    let incarnation: Id;
    try {
      ({ incarnation } = await store.commit(batch));
    } catch (error) {
      for (const { text } of events) this.unanswered.add(text);
      throw error;
    }
    events.forEach((event, i) => {
      const list = this.acked.get(event.stream) ?? [];
      list.push({ ...event, incarnation, lane, number: numbers[i] as number });
      this.acked.set(event.stream, list);
    });
  }

  #nextNumber(stream: Id, lane: Lane): number {
    const key = `${stream}.${lane}`;
    const number = (this.#numbers.get(key) ?? 0) + 1;
    this.#numbers.set(key, number);
    return number;
  }
}

export function createStream(id: Id, segments = 1): StateChange {
  return {
    type: "create-stream",
    id,
    name: { scope: "test", stream: `s-${id.slice(0, 6)}` },
    contentType: "application/json",
    segments,
    createdAtMs: 5,
    closed: false,
  };
}

export function mapStream(id: Id, mapping: StreamMapping): StateChange {
  return { type: "map-stream", id, mapping };
}
