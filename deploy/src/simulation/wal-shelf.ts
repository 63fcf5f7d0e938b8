import type { LakeWatch } from "./lake-watch.ts";
import { type LogSnapshot, LogStore } from "./ports/sim-log.ts";

interface Entry {
  readonly container: number;
  readonly log: LogStore;
  readonly beginning: LogSnapshot;
}

/** The write-ahead logs of the world: one for each generation of a container. */
export class WalShelf {
  readonly #lake: LakeWatch;
  readonly #logs = new Map<string, Entry>();

  constructor(lake: LakeWatch) {
    this.#lake = lake;
  }

  /** Made when it is asked for first. */
  open(container: number, generation: number): LogStore {
    const key = `${container} ${generation}`;
    const known = this.#logs.get(key);
    if (known) return known.log;
    const lake = this.#lake;
    const name = generation === 0 ? `wal${container}` : `wal${container}.${generation}`;
    const log = new LogStore(name, {
      landed: (seq, data) => lake.landed(container, seq, data, generation),
      truncating: (first, through) => lake.truncating(container, first, through, generation),
      marking: () => {
        const mark = lake.mark(container, generation);
        return () => lake.rolledBack(container, generation, mark);
      },
    });
    const wentBack = () => lake.rolledBack(container, generation, undefined);
    this.#logs.set(key, { container, log, beginning: { first: 1, last: 0, records: new Map(), wentBack } });
    return log;
  }

  /** Of the newest generation. */
  newest(container: number): LogStore | undefined {
    return [...this.#logs.values()].findLast((entry) => entry.container === container)?.log;
  }

  /** What all logs of a container hold now; what it returns sets them back to that. */
  snapshot(container: number): () => void {
    const snapshots = new Map<LogStore, LogSnapshot>();
    for (const entry of this.#logs.values()) if (entry.container === container) snapshots.set(entry.log, entry.log.snapshot());
    return () => {
      for (const { container: of, log, beginning } of this.#logs.values())
        if (of === container) log.rollBack(snapshots.get(log) ?? beginning);
    };
  }
}
