import type { Random } from "@tributary/common/random";

/**
 * Numbers that follow from the seed and from what they are drawn for, not from what was drawn before. So a fault that is taken out
 * of a story leaves all other draws as they were, as far as the story itself goes on alike.
 */
export class Dice {
  readonly #seed: number;
  readonly #sites = new Map<string, Site>();

  constructor(seed: number) {
    this.#seed = mix(seed >>> 0);
  }

  site(name: string): Site {
    let site = this.#sites.get(name);
    if (!site) {
      site = new Site(mix(hashText(name) ^ this.#seed));
      this.#sites.set(name, site);
    }
    return site;
  }

  /** The next number in [0, 1) of a site. */
  float(site: string): number {
    return this.site(site).draw();
  }

  between(site: string, from: number, to: number): number {
    return from + this.float(site) * (to - from);
  }

  /** An integer in [from, to]. */
  integer(site: string, from: number, to: number): number {
    return from + Math.floor(this.float(site) * (to - from + 1));
  }

  pick<T>(site: string, choices: readonly T[]): T {
    return choices[Math.floor(this.float(site) * choices.length)] as T;
  }

  /** A source of randomness for one process. */
  random(site: string): Random {
    return seededRandom(Math.floor(this.float(site) * 2 ** 32));
  }
}

/** What is drawn for one thing. */
export class Site {
  readonly #hash: number;
  /** Numbers drawn so far. */
  drawn = 0;

  constructor(hash: number) {
    this.#hash = hash;
  }

  draw(): number {
    return mix(this.#hash + Math.imul(this.drawn++, 0x9e3779b1)) / 2 ** 32;
  }
}

/** A plain sequence for a seed (mulberry32). */
function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
  const bytes = (count: number) => {
    const drawn = new Uint8Array(count);
    for (let i = 0; i < count; i++) drawn[i] = next() >>> 24;
    return drawn;
  };
  return { float: () => next() / 2 ** 32, bytes };
}

/** FNV-1a over the code units. */
export function hashText(text: string, start = 0x811c9dc5): number {
  let hash = start;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/** The finalizer of MurmurHash3. */
function mix(value: number): number {
  let h = value >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
