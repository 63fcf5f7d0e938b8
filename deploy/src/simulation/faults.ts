import type { Dice } from "./dice.ts";

/** A fault that happened: which one, where, and the how-manieth draw of that place. Together they name it in every run of the seed. */
export interface FaultRecord {
  readonly id: string;
  readonly kind: string;
  readonly atMs: number;
}

/** Decides which faults happen, and counts them by kind. */
export class Faults {
  readonly happened: FaultRecord[] = [];
  readonly counts: Map<string, number> = new Map();
  /** False once the world heals. */
  active = true;
  readonly #dice: Dice;
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
    const place = `${kind}@${site}`;
    const { value, index } = this.#dice.draw(place);
    if (!this.active || value >= probability * this.#rate) return false;
    return this.note(kind, `${place}#${index}`);
  }

  /** Counts a fault that was decided elsewhere; false if it must not happen. */
  note(kind: string, id: string): boolean {
    if (this.#allowed && !this.#allowed.has(id)) return false;
    this.happened.push({ id, kind, atMs: this.#nowMs() });
    this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
    return true;
  }
}
