import { LIMITS } from "@tributary/common/limits";
import type { Id, Lane } from "@tributary/common/names";

/**
 * A run of a stream's events in the local order: `count` ordinals from `ordinal` on are the numbers from `first` on of one
 * incarnation. All eras of a stream, ascending by ordinal, say which event an ordinal names, and which numbers are of this log:
 * those that a copy or a lost branch of it wrote have the same writer, perhaps the same incarnation, and are in no era.
 */
export interface LocalEra {
  readonly ordinal: number;
  count: number;
  readonly incarnation: Id;
  readonly lane: Lane;
  readonly first: number;
}

/**
 * Folds the events of one commit, which lie behind all before them. Numbers between that no commit is left of belong to the run
 * as well, where number and ordinal go on alike. Of very many restarts the oldest are forgotten.
 */
export function extendEras(eras: LocalEra[], run: LocalEra, streams: number): void {
  let newest = eras.at(-1);
  // Records that contradict each other: the later one counts.
  while (newest && newest.ordinal >= run.ordinal && !goesOn(newest, run)) {
    eras.pop();
    newest = eras.at(-1);
  }
  if (newest && goesOn(newest, run)) {
    newest.count = Math.max(newest.count, run.ordinal + run.count - newest.ordinal);
    return;
  }
  if (newest) newest.count = Math.min(newest.count, run.ordinal - newest.ordinal);
  eras.push({ ...run });
  const most = Math.max(1, Math.min(LIMITS.localErasPerStreamMax, Math.floor(LIMITS.localErasMax / Math.max(1, streams))));
  if (eras.length > most) eras.splice(0, eras.length - most);
}

function goesOn(era: LocalEra, run: LocalEra): boolean {
  const sameWriter = era.incarnation === run.incarnation && era.lane === run.lane;
  return sameWriter && era.ordinal - era.first === run.ordinal - run.first && era.ordinal <= run.ordinal;
}

/** The newest era that begins below an ordinal: what wrote the events before it. */
export function eraBefore(eras: readonly LocalEra[], ordinal: number): LocalEra | undefined {
  return eras.findLast((era) => era.ordinal < ordinal);
}
