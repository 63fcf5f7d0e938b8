import { formatSegmentId, type Id, type Lane, type SegmentId } from "@tributary/common/names";
import type { LevelsAnswer, LevelsRequest } from "@tributary/common/uplink-protocol";
import type { UplinkUnit } from "../store/edge-store.ts";

/** Entries of one levels request. */
export const LEVELS_ENTRIES_MAX = 4_096;

interface Need {
  readonly key: string;
  readonly last: number;
  readonly streamId: Id;
  readonly segment: SegmentId;
  readonly incarnation: Id;
  readonly lane: Lane;
}

/** A levels request, and of each of its entries the number that the container had accepted. */
export interface LevelsQuestion {
  readonly request: LevelsRequest;
  readonly accepted: readonly number[];
  /** Counts what was cleared before. */
  readonly round: number;
}

export interface TrackedUnit {
  readonly unit: number;
  readonly bytes: number;
  readonly events: number;
  readonly needsCount: number;
  /** Needs by container. */
  readonly needs: ReadonlyMap<number, readonly Need[]>;
  blocksPending: number;
}

/**
 * Units handed out by the store and not freed, in order, and what the core confirmed of them. A unit may be freed once each of its
 * needs, that is exactly that (stream, segment, incarnation, lane) and number, is confirmed, and every unit before it is (rule W5).
 */
export class UnitTracker {
  readonly #units: TrackedUnit[] = [];
  /** Highest number confirmed in the tier, by need. */
  readonly #tiered = new Map<string, number>();
  readonly #freeAt: "committed" | "tiered";
  #round = 0;
  bytes = 0;
  needsCount = 0;

  constructor(freeAt: "committed" | "tiered") {
    this.#freeAt = freeAt;
  }

  get size(): number {
    return this.#units.length;
  }

  /** True if a container has not accepted something yet. */
  hasPending(): boolean {
    return this.#units.some((unit) => unit.blocksPending > 0);
  }

  add(unit: UplinkUnit): TrackedUnit {
    const needs = new Map<number, Need[]>();
    let bytes = 0;
    let needsCount = 0;
    for (const block of unit.blocks) {
      bytes += block.bytes.length;
      needsCount += block.needs.length;
      const list = needs.get(block.container) ?? [];
      for (const need of block.needs) list.push({ ...need, key: needKey(need) });
      needs.set(block.container, list);
    }
    const tracked: TrackedUnit = { unit: unit.unit, bytes, events: unit.events, needsCount, needs, blocksPending: unit.blocks.length };
    this.#units.push(tracked);
    this.bytes += bytes;
    this.needsCount += needsCount;
    return tracked;
  }

  /** Containers that have accepted something whose freeing waits for the tier. */
  containersToAsk(): number[] {
    const containers = new Set<number>();
    if (this.#freeAt === "committed") return [];
    for (const unit of this.#units) {
      if (unit.blocksPending > 0) break;
      for (const container of unit.needs.keys()) containers.add(container);
    }
    return [...containers];
  }

  /** What to ask a container: the needs of the oldest units, each once, that are not confirmed yet. */
  levelsQuestion(container: number, writer: Id): LevelsQuestion {
    const asked = new Map<string, Need>();
    for (const unit of this.#units) {
      if (unit.blocksPending > 0) break;
      for (const need of unit.needs.get(container) ?? []) {
        if (!this.#isTiered(need)) asked.set(need.key, need);
        if (asked.size >= LEVELS_ENTRIES_MAX) break;
      }
      if (asked.size >= LEVELS_ENTRIES_MAX) break;
    }
    const needs = [...asked.values()];
    return {
      request: { writer, entries: needs.map(({ streamId, segment, incarnation, lane }) => ({ streamId, segment, incarnation, lane })) },
      accepted: needs.map(({ last }) => last),
      round: this.#round,
    };
  }

  /** False if the container lacks what it had accepted, of units that are still out. */
  confirm({ request, accepted, round }: LevelsQuestion, answer: LevelsAnswer): boolean {
    let reached = true;
    request.entries.forEach((entry, i) => {
      const levels = answer.entries[i];
      if (levels === undefined) return;
      const [committed, tiered] = levels;
      const key = needKey(entry);
      if (tiered > (this.#tiered.get(key) ?? 0)) this.#tiered.set(key, tiered);
      if (Math.max(committed, tiered) < (accepted[i] as number)) reached = false;
    });
    return reached || round !== this.#round;
  }

  /** Takes out the units that may be freed now; undefined if none may. */
  takeFreeable(): { readonly throughUnit: number; readonly units: number; readonly events: number } | undefined {
    let units = 0;
    let events = 0;
    for (let unit = this.#units[units]; unit && this.#isFreeable(unit); unit = this.#units[units]) {
      units++;
      events += unit.events;
      this.bytes -= unit.bytes;
      this.needsCount -= unit.needsCount;
    }
    const last = this.#units.splice(0, units).at(-1);
    // With nothing handed out no need is left, and what was confirmed is of no more use.
    if (this.#units.length === 0) this.#tiered.clear();
    return last && { throughUnit: last.unit, units, events };
  }

  /** The store hands everything out again. */
  clear(): void {
    this.#units.length = 0;
    this.#round++;
    this.#tiered.clear();
    this.bytes = 0;
    this.needsCount = 0;
  }

  #isFreeable(unit: TrackedUnit): boolean {
    if (unit.blocksPending > 0) return false;
    if (this.#freeAt === "committed") return true;
    for (const needs of unit.needs.values()) if (!needs.every((need) => this.#isTiered(need))) return false;
    return true;
  }

  #isTiered(need: Need): boolean {
    return (this.#tiered.get(need.key) ?? 0) >= need.last;
  }
}

function needKey(need: { streamId: Id; segment: SegmentId; incarnation: Id; lane: Lane }): string {
  return `${need.streamId}/${formatSegmentId(need.segment)}/${need.incarnation}/${need.lane}`;
}
