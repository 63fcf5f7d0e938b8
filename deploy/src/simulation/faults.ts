import type { Dice, Site } from "./dice.ts";

/** A fault that happened: which one, where, and the how-manieth draw of that place. Together they name it in every run of the seed. */
export interface FaultRecord {
  readonly id: string;
  readonly kind: string;
  readonly atMs: number;
}

/** Decides which faults happen, and keeps count. */
export class Faults {
  readonly happened: FaultRecord[] = [];
  /** False once the world heals. */
  active = true;
  readonly #dice: Dice;
  /** By kind and site. */
  readonly #places = new Map<string, Map<string, Site>>();
  readonly #nowMs: () => number;
  readonly #allowed: ReadonlySet<string> | undefined;
  readonly #rate: number;

  /** `allowed`: only these happen, as a shortened story wants it. `rate` scales all probabilities. */
  constructor(dice: Dice, nowMs: () => number, rate: number, allowed: ReadonlySet<string> | undefined) {
    this.#dice = dice;
    this.#nowMs = nowMs;
    this.#rate = rate;
    this.#allowed = allowed;
  }

  /** True if the fault happens here and now. Each call is another draw. */
  strikes(kind: string, site: string, probability: number): boolean {
    let places = this.#places.get(kind);
    if (!places) {
      places = new Map();
      this.#places.set(kind, places);
    }
    let place = places.get(site);
    if (!place) {
      place = this.#dice.site(`${kind}@${site}`);
      places.set(site, place);
    }
    const index = place.drawn;
    if (place.draw() >= probability * this.#rate || !this.active) return false;
    return this.note(kind, `${kind}@${site}#${index}`);
  }

  /** Counts a fault that was decided elsewhere; false if it must not happen. */
  note(kind: string, id: string): boolean {
    if (this.#allowed && !this.#allowed.has(id)) return false;
    this.happened.push({ id, kind, atMs: this.#nowMs() });
    return true;
  }
}
