import { checkMetaKey, checkMetaPrefix, isUnderPrefix } from "@tributary/common/engines/meta-key";
import { TributaryError } from "@tributary/common/errors";
import type { MetaChange, MetaEntry, MetaStore } from "@tributary/common/ports/meta-store";
import type { SimEnvironment } from "../environment.ts";
import { across, createWire, type Outcome, type SimProcess, type Wire } from "../process.ts";

interface Version {
  readonly value: Uint8Array | undefined;
  readonly revision: number;
  readonly atMs: number;
}

/** The keys and all they ever were, so that reads can be old. */
export class MetaState {
  readonly #versions = new Map<string, Version[]>();
  readonly watchers: Set<(change: MetaChange) => void> = new Set();
  /** Calls of each process that are not answered yet. */
  readonly #underWay = new WeakMap<SimProcess, number>();
  /** Called when it goes back: whoever watches is told that its watch broke off, or not. */
  readonly connections: Set<() => void> = new Set();
  /** Counts up when it goes back: whatever was on its way to it then reaches nobody. */
  life = 0;
  #revision = 0;

  /** Something that the process does may wait for an answer. */
  isAskedBy(process: SimProcess): boolean {
    return (this.#underWay.get(process) ?? 0) > 0;
  }

  async count<T>(process: SimProcess, call: Promise<T>): Promise<T> {
    const add = (calls: number) => this.#underWay.set(process, (this.#underWay.get(process) ?? 0) + calls);
    add(1);
    try {
      return await call;
    } finally {
      add(-1);
    }
  }

  /** As it was at a time. */
  at(key: string, atMs: number): MetaEntry | undefined {
    const version = this.#versions.get(key)?.findLast((known) => known.atMs <= atMs);
    return version?.value && { key, value: new Uint8Array(version.value), revision: version.revision };
  }

  listAt(prefix: string, atMs: number): MetaEntry[] {
    return [...this.#versions.keys()]
      .filter((key) => isUnderPrefix(key, prefix))
      .sort()
      .flatMap((key) => this.at(key, atMs) ?? []);
  }

  create(key: string, value: Uint8Array, nowMs: number): number {
    if (this.at(key, nowMs)) throw new TributaryError("META_EXISTS", `${key} exists`);
    return this.#write(key, new Uint8Array(value), nowMs);
  }

  update(key: string, value: Uint8Array, revision: number, nowMs: number): number {
    if (this.at(key, nowMs)?.revision !== revision) throw new TributaryError("META_CONFLICT", `${key} changed`);
    return this.#write(key, new Uint8Array(value), nowMs);
  }

  delete(key: string, revision: number, nowMs: number): void {
    const entry = this.at(key, nowMs);
    if (!entry) return;
    if (entry.revision !== revision) throw new TributaryError("META_CONFLICT", `${key} changed`);
    this.#write(key, undefined, nowMs);
  }

  /**
   * All servers that hold it are lost at once, and what their disks had at a time is restored. Revisions are given out again, to other
   * values.
   */
  rollBack(toMs: number): void {
    this.life++;
    this.#revision = 0;
    for (const [key, versions] of this.#versions) {
      const kept = versions.filter(({ atMs }) => atMs <= toMs);
      if (kept.length > 0) this.#versions.set(key, kept);
      else this.#versions.delete(key);
      this.#revision = Math.max(this.#revision, kept.at(-1)?.revision ?? 0);
    }
    for (const breakOff of [...this.connections]) breakOff();
  }

  #write(key: string, value: Uint8Array | undefined, atMs: number): number {
    const revision = ++this.#revision;
    const versions = this.#versions.get(key) ?? [];
    this.#versions.set(key, versions);
    versions.push({ value, revision, atMs });
    for (const watcher of this.watchers) watcher({ key, value, revision });
    return revision;
  }
}

export interface MetaBehaviour {
  readonly callMs: readonly [number, number];
  readonly slow: number;
  readonly slowMs: readonly [number, number];
  /** A read answers with what was, up to so long ago. */
  readonly stale: number;
  readonly staleMs: readonly [number, number];
  readonly unknownLanded: number;
  readonly unknownLost: number;
  readonly unknownLate: number;
  readonly lateMs: readonly [number, number];
  readonly unreachable: number;
  /** Of each change seen: the watch breaks off. */
  readonly watchBreaks: number;
  /** A watch over a wire that was cut is lost without a word. */
  readonly watchForgotten: number;
}

export const QUIET_META: MetaBehaviour = {
  callMs: [0, 0],
  slow: 0,
  slowMs: [0, 0],
  stale: 0,
  staleMs: [0, 0],
  unknownLanded: 0,
  unknownLost: 0,
  unknownLate: 0,
  lateMs: [0, 0],
  unreachable: 0,
  watchBreaks: 0,
  watchForgotten: 0,
};

/** After so long a call over a cut wire is given up. */
const TIMEOUT_MS = 2_500;

/** A process's handle on the MetaStore. */
export class SimMetaStore implements MetaStore {
  readonly wire: Wire = createWire();
  readonly #state: MetaState;
  readonly #process: SimProcess;
  readonly #environment: SimEnvironment;
  readonly #behaviour: MetaBehaviour;

  constructor(state: MetaState, process: SimProcess, environment: SimEnvironment, behaviour: MetaBehaviour) {
    this.#state = state;
    this.#process = process;
    this.#environment = environment;
    this.#behaviour = behaviour;
  }

  async get(key: string): Promise<MetaEntry | undefined> {
    checkMetaKey(key);
    return this.#read("get", (atMs) => this.#state.at(key, atMs));
  }

  async create(key: string, value: Uint8Array): Promise<number> {
    checkMetaKey(key);
    return this.#write("create", (nowMs) => this.#state.create(key, value, nowMs));
  }

  async update(key: string, value: Uint8Array, revision: number): Promise<number> {
    checkMetaKey(key);
    return this.#write("update", (nowMs) => this.#state.update(key, value, revision, nowMs));
  }

  async delete(key: string, revision: number): Promise<void> {
    checkMetaKey(key);
    return this.#write("delete", (nowMs) => this.#state.delete(key, revision, nowMs));
  }

  async list(prefix: string): Promise<MetaEntry[]> {
    checkMetaPrefix(prefix);
    return this.#read("list", (atMs) => this.#state.listAt(prefix, atMs));
  }

  async watch(prefix: string, signal: AbortSignal, onChange: (change: MetaChange) => void): Promise<void> {
    checkMetaPrefix(prefix);
    if (signal.aborted) return;
    const { dice, faults, scheduler } = this.#environment;
    const site = `meta watch of ${this.#process.name}`;
    await new Promise<void>((resolve, reject) => {
      let lastMs = 0;
      /** What was missed does not come again: the watch ends once that is noticed, or never tells anything any more. */
      const breakOff = () => {
        forget();
        if (faults.strikes("meta watch forgotten", site, this.#behaviour.watchForgotten)) return;
        this.#process.deliver(TIMEOUT_MS, () => reject(new TributaryError("BUS_UNREACHABLE", "simulated: the watch broke off")));
      };
      const tell = (change: MetaChange) => {
        if (!isUnderPrefix(change.key, prefix)) return;
        // Changes arrive in their order.
        lastMs = Math.max(lastMs, scheduler.nowMs + dice.between("meta watch", ...this.#behaviour.callMs));
        this.#process.deliver(lastMs - scheduler.nowMs, () => {
          if (signal.aborted || !this.#state.watchers.has(tell)) return;
          if (this.wire.cut !== "none") return breakOff();
          onChange(change);
          if (faults.strikes("meta watch breaks", site, this.#behaviour.watchBreaks)) {
            forget();
            reject(new TributaryError("BUS_UNREACHABLE", "simulated: the watch broke off"));
          }
        });
      };
      const forget = () => {
        this.#state.watchers.delete(tell);
        this.#state.connections.delete(restored);
      };
      const ended = () => {
        forget();
        resolve();
      };
      /** A watch that goes on never tells what was undone. */
      const restored = () => {
        if (!faults.strikes("meta watch outlives a restore", site, 0.3)) breakOff();
      };
      this.#process.onDeath(() => {
        forget();
        signal.removeEventListener("abort", ended);
      });
      this.#state.watchers.add(tell);
      this.#state.connections.add(restored);
      for (const entry of this.#state.listAt(prefix, scheduler.nowMs)) tell(entry);
      signal.addEventListener("abort", ended, { once: true });
    });
  }

  async close(): Promise<void> {}

  #read<T>(operation: string, read: (atMs: number) => T): Promise<T> {
    const { dice, faults, scheduler } = this.#environment;
    const site = `meta ${operation} of ${this.#process.name}`;
    const lost: Outcome<T> = { error: new TributaryError("BUS_TIMEOUT", "simulated: no answer"), lateMs: TIMEOUT_MS };
    return this.#call(site, lost, () => {
      const ageMs = faults.strikes("meta stale read", site, this.#behaviour.stale)
        ? dice.between(`${site} age`, ...this.#behaviour.staleMs)
        : 0;
      return { value: read(scheduler.nowMs - ageMs) };
    });
  }

  #write<T>(operation: string, write: (nowMs: number) => T): Promise<T> {
    const { dice, faults, scheduler } = this.#environment;
    const { unknownLanded, unknownLost, unknownLate, lateMs } = this.#behaviour;
    const site = `meta ${operation} of ${this.#process.name}`;
    const result = (): Outcome<T> => {
      try {
        return { value: write(scheduler.nowMs) };
      } catch (error) {
        return { error };
      }
    };
    const unknown: Outcome<T> = { error: new TributaryError("LOG_RESULT_UNKNOWN", "simulated: no answer") };
    return this.#call(site, { ...unknown, lateMs: TIMEOUT_MS }, () => {
      if (faults.strikes("meta result unknown, landed", site, unknownLanded)) {
        result();
        return unknown;
      }
      if (faults.strikes("meta result unknown, lost", site, unknownLost)) return unknown;
      if (faults.strikes("meta result unknown, lands later", site, unknownLate)) {
        const { life } = this.#state;
        scheduler.schedule(dice.between(`${site} late`, ...lateMs), undefined, () => {
          if (life === this.#state.life) result();
        });
        return unknown;
      }
      return result();
    });
  }

  #call<T>(site: string, lost: Outcome<T>, arrive: () => Outcome<T>): Promise<T> {
    const { dice, faults } = this.#environment;
    let tookMs = dice.between(`${site} time`, ...this.#behaviour.callMs);
    if (faults.strikes("meta slow", site, this.#behaviour.slow)) tookMs += dice.between(`${site} slow`, ...this.#behaviour.slowMs);
    const { life } = this.#state;
    const call = this.#process.call(tookMs / 2, tookMs / 2, () => {
      if (life !== this.#state.life) return { error: new TributaryError("LOG_RESULT_UNKNOWN", "simulated: the servers were restored") };
      return faults.strikes("meta unreachable", site, this.#behaviour.unreachable)
        ? { error: new TributaryError("BUS_UNREACHABLE", "simulated: the MetaStore cannot be reached") }
        : across(this.wire, lost, arrive);
    });
    return this.#state.count(this.#process, call);
  }
}
