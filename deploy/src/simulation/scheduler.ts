/** Whose continuation an event is. */
interface Owner {
  readonly alive: boolean;
  readonly paused: boolean;
  /** Keeps what happens to it while it is paused. */
  hold(run: () => void): void;
}

interface Event {
  readonly atMs: number;
  /** Events of one time happen in the order in which they were scheduled. */
  readonly order: number;
  /** undefined: the world's own. */
  readonly owner: Owner | undefined;
  readonly run: () => void;
  cancelled: boolean;
}

/** Turns of the real loop are needed now and then, so that rejections nobody handled are noticed. */
const STEPS_PER_TURN = 256;
const onNextTurn = (resolve: () => void): void => void setImmediate(resolve);
const onNextTick = (resolve: () => void): void => process.nextTick(resolve);

/**
 * Virtual time. An event happens, then every promise that it settled is followed to its end, then comes the next event: so whatever
 * happens between two events is one step of one process, and a run depends on nothing but the events.
 */
export class Scheduler {
  nowMs = 0;
  /** Events that happened. */
  steps = 0;
  readonly #heap: Event[] = [];
  #order = 0;
  readonly #onThrown: (error: unknown) => void;

  /** `onThrown` is told what a callback throws: that would end a real process. */
  constructor(onThrown: (error: unknown) => void) {
    this.#onThrown = onThrown;
  }

  schedule(delayMs: number, owner: Owner | undefined, run: () => void): () => void {
    const event: Event = { atMs: this.nowMs + Math.max(0, delayMs), order: this.#order++, owner, run, cancelled: false };
    this.#push(event);
    return () => {
      event.cancelled = true;
    };
  }

  /** Time of the next event; undefined if there is none. */
  #nextMs(): number | undefined {
    for (let head = this.#heap[0]; head; head = this.#heap[0]) {
      if (!head.cancelled && head.owner?.alive !== false) return head.atMs;
      this.#pop();
    }
    return undefined;
  }

  /** Lets the next event happen; undefined if it does not happen yet. To be awaited before the next. */
  #step(): Promise<void> | undefined {
    const event = this.#pop() as Event;
    this.nowMs = event.atMs;
    if (event.owner?.paused) {
      event.owner.hold(event.run);
      return undefined;
    }
    this.steps++;
    try {
      event.run();
    } catch (error) {
      this.#onThrown(error);
    }
    // Resolves once no promise can be followed any further: ticks come after all microtasks, those that microtasks add included.
    return new Promise<void>(this.steps % STEPS_PER_TURN === 0 ? onNextTurn : onNextTick);
  }

  /** Runs for a span of virtual time, or until the condition holds. */
  async runUntil(atMs: number, done: () => boolean = () => false): Promise<void> {
    for (;;) {
      if (done()) return;
      const next = this.#nextMs();
      if (next === undefined || next > atMs) break;
      const followed = this.#step();
      if (followed) await followed;
    }
    this.nowMs = Math.max(this.nowMs, atMs);
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (isBefore(heap[parent] as Event, event)) break;
      heap[at] = heap[parent] as Event;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): Event | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (!top || !last || heap.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Event, heap[child] as Event)) child++;
      if (isBefore(last, heap[child] as Event)) break;
      heap[at] = heap[child] as Event;
      at = child;
    }
    heap[at] = last;
    return top;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
