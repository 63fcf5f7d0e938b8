import { TributaryError } from "@tributary/common/errors";
import { joined } from "@tributary/common/object-data";
import type { Log, LogRecord, LogState } from "@tributary/common/ports/log";
import type { ObjectInfo, ObjectStore } from "@tributary/common/ports/object-store";
import type { Random } from "@tributary/common/random";
import { ManualClock } from "@tributary/common/testing/manual-clock";

/** Deterministic randomness for a seed (mulberry32). */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  const float = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return { float, bytes: (count) => Uint8Array.from({ length: count }, () => Math.floor(float() * 256)) };
}

interface Step {
  readonly node: number;
  /** Steps of one lane are carried out in their order. */
  readonly lane: string;
  /** A request on its way to the disk may arrive although its sender died; an answer may not. */
  readonly answer: boolean;
  run(): void;
}

export interface FaultRates {
  /** Of an append: result unknown though it landed; lost; landing later. */
  readonly landed: number;
  readonly lost: number;
  readonly late: number;
  /** Of any call of the object store. */
  readonly object: number;
}

/**
 * One log and one object store on simulated disks, used by several nodes over a network that a seed drives: every request and
 * every answer is a step of its own, carried out when the schedule picks it.
 */
export class SimulatedWorld {
  readonly clock: ManualClock = new ManualClock();
  readonly random: Random;
  readonly records: Map<number, Uint8Array> = new Map();
  /** Every record that ever landed, truncated or not. */
  readonly history: Uint8Array[] = [];
  readonly objects: Map<string, Uint8Array> = new Map();
  first = 1;
  last = 0;
  faults: FaultRates = { landed: 0, lost: 0, late: 0, object: 0 };
  #steps: Step[] = [];
  readonly #dead = new Set<number>();

  constructor(random: Random) {
    this.random = random;
  }

  get pending(): number {
    return this.#steps.length;
  }

  chance(probability: number): boolean {
    return this.random.float() < probability;
  }

  /** Carries out one step at random; false if there is none. */
  step(): boolean {
    const heads = new Map<string, Step>();
    for (const step of this.#steps) {
      const lane = `${step.node} ${step.lane}`;
      if (!heads.has(lane)) heads.set(lane, step);
    }
    const ready = [...heads.values()];
    const step = ready[Math.floor(this.random.float() * ready.length)];
    if (!step) return false;
    this.#steps.splice(this.#steps.indexOf(step), 1);
    step.run();
    return true;
  }

  /** The node dies: it hears nothing any more, and each of its requests under way arrives or does not. */
  kill(node: number): void {
    this.#dead.add(node);
    this.#steps = this.#steps.filter((step) => step.node !== node || (!step.answer && this.chance(0.5)));
  }

  #post(step: Step): void {
    if (!this.#dead.has(step.node) || !step.answer) this.#steps.push(step);
  }

  #lanes = 0;
  #call<T>(node: number, lane: string, perform: (answer: (result: () => T) => void) => void): Promise<T> {
    if (this.#dead.has(node)) return new Promise(() => {});
    return new Promise((resolve, reject) => {
      const answer = (result: () => T) => {
        let settle: () => void;
        try {
          const value = result();
          settle = () => resolve(value);
        } catch (error) {
          settle = () => reject(error);
        }
        this.#post({ node, lane: `answer ${this.#lanes++}`, answer: true, run: settle });
      };
      this.#post({ node, lane, answer: false, run: () => perform(answer) });
    });
  }

  log(node: number): Log {
    const own = () => `log ${this.#lanes++}`;
    const append = (data: Uint8Array, expectedLast: number): number => {
      if (this.last !== expectedLast) throw new TributaryError("LOG_SEQUENCE_MISMATCH", `the log ends at ${this.last}`);
      this.last = expectedLast + 1;
      this.records.set(this.last, Uint8Array.from(data));
      this.history.push(Uint8Array.from(data));
      return this.last;
    };
    const unknown = (): number => {
      throw new TributaryError("LOG_RESULT_UNKNOWN", "simulated");
    };
    const ignoring = (work: () => void) => {
      try {
        work();
      } catch {
        // Nobody waits for it.
      }
    };
    return {
      state: (): Promise<LogState> => this.#call(node, own(), (answer) => answer(() => ({ first: this.first, last: this.last, bytes: 0 }))),
      append: (data, expectedLast) =>
        this.#call(node, "append", (answer) => {
          const { landed, lost, late } = this.faults;
          const dice = this.random.float();
          if (dice < landed) {
            ignoring(() => append(data, expectedLast));
            answer(unknown);
          } else if (dice < landed + lost) answer(unknown);
          else if (dice < landed + lost + late) {
            answer(unknown);
            this.#steps.push({ node, lane: own(), answer: false, run: () => ignoring(() => append(data, expectedLast)) });
          } else answer(() => append(data, expectedLast));
        }),
      read: (fromSeq, bounds): Promise<LogRecord[]> =>
        this.#call(node, own(), (answer) =>
          answer(() => {
            const page: LogRecord[] = [];
            for (let seq = Math.max(fromSeq, this.first); seq <= this.last && page.length < Math.min(bounds.recordsMax, 5); seq++) {
              page.push({ seq, data: Uint8Array.from(this.records.get(seq) as Uint8Array) });
            }
            return page;
          }),
        ),
      truncate: (throughSeq) =>
        this.#call(node, own(), (answer) =>
          answer(() => {
            for (; this.first <= Math.min(throughSeq, this.last); this.first++) this.records.delete(this.first);
          }),
        ),
      close: async () => {},
    };
  }

  store(node: number): ObjectStore {
    const own = () => `store ${this.#lanes++}`;
    const call = <T>(perform: () => T, unknownEffect = false): Promise<T> =>
      this.#call(node, own(), (answer) => {
        if (!this.chance(this.faults.object)) return answer(perform);
        if (unknownEffect && this.chance(0.5)) perform();
        answer(() => {
          throw new TributaryError(unknownEffect ? "LOG_RESULT_UNKNOWN" : "BUS_UNREACHABLE", "simulated");
        });
      });
    const named = (name: string): Uint8Array => {
      const object = this.objects.get(name);
      if (!object) throw new TributaryError("OBJECT_NOT_FOUND", name);
      return object;
    };
    return {
      put: (name, data) =>
        call(() => {
          if (this.objects.has(name)) throw new TributaryError("OBJECT_EXISTS", name);
          this.objects.set(name, joined(data));
        }, !this.objects.has(name)),
      get: (name, range) => call(() => named(name).slice(range?.offset ?? 0, range && range.offset + range.length)),
      head: (name): Promise<ObjectInfo | undefined> =>
        call(() => (this.objects.has(name) ? { name, bytes: named(name).length } : undefined)),
      list: (prefix, { after, limit }) =>
        call(() =>
          [...this.objects]
            .filter(([name]) => name.startsWith(prefix) && (after === undefined || name > after))
            .sort(([a], [b]) => (a < b ? -1 : 1))
            .slice(0, limit)
            .map(([name, object]) => ({ name, bytes: object.length })),
        ),
      delete: async () => {},
      close: async () => {},
    };
  }
}
