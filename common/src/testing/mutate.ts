/** A stream of numbers that a seed determines (mulberry32, by Tommy Ettinger, public domain). */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** From 0 to `count` − 1. */
  below(count: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * count);
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }
}

const BYTES_MAX = 1 << 20;
const BYTES_OF_INTEREST = [0, 1, 0x7f, 0x80, 0xfe, 0xff, 0x0a, 0x0d, 0x22, 0x2c, 0x3d, 0x5b, 0x5d, 0x7b, 0x7d];
const WORDS_OF_INTEREST = [0, 1, 2, 0xff, 0x7fff, 0xffff, 0x10000, 0xffffff, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff];
const hex = (text: string) => new Uint8Array(Buffer.from(text.replaceAll(" ", ""), "hex"));
/** CBOR: huge claims, tags, floats that are no numbers, lengths that end with a break. Varints: the largest, and one too long. */
const FRAGMENTS = [
  ...["9a ffffffff", "ba ffffffff", "5a ffffffff", "7a ffffffff", "9b ffffffffffffffff", "1b ffffffffffffffff", "3b ffffffffffffffff"],
  ...[
    "c2 5a 00100000",
    "d8 1c",
    "d8 1d 00",
    "d8 40 41 00",
    "d9 dff9 83",
    "d9 0103 a0",
    "9f",
    "bf",
    "ff",
    "f6",
    "f7",
    "f4",
    "f5",
    "80",
    "a0",
  ],
  ...[
    "fb 7ff8000000000000",
    "fb 7ff0000000000000",
    "fb c341000000000000",
    "fb 8000000000000000",
    "f9 7e00",
    "61 ff",
    "69 5f5f70726f746f5f5f",
  ],
  ...["ff ff ff ff ff ff ff 0f", "ff ff ff ff ff ff ff ff 7f", "80 80 80 80 00", "28 b5 2f fd", "ef bb bf", "ed a0 80", "c0 80"],
].map(hex);

type Mutation = (dice: Dice, bytes: Uint8Array, others: readonly Uint8Array[]) => Uint8Array;

/** Some bytes of another in the place of some of these. */
function replaced(bytes: Uint8Array, at: number, count: number, by: Uint8Array): Uint8Array {
  const out = new Uint8Array(bytes.length - count + by.length);
  out.set(bytes.subarray(0, at));
  out.set(by, at);
  out.set(bytes.subarray(at + count), at + by.length);
  return out;
}

function someRange(dice: Dice, bytes: Uint8Array): { at: number; count: number } {
  const at = dice.below(bytes.length);
  // Short ones more often than long ones.
  return { at, count: 1 + dice.below(Math.max(1, (bytes.length - at) >> dice.below(8))) };
}

const MUTATIONS: readonly Mutation[] = [
  (dice, bytes) => {
    const at = dice.below(bytes.length);
    return replaced(bytes, at, 1, Uint8Array.of((bytes[at] as number) ^ (1 << dice.below(8))));
  },
  (dice, bytes) => replaced(bytes, dice.below(bytes.length), 1, Uint8Array.of(dice.pick(BYTES_OF_INTEREST))),
  (dice, bytes) => {
    const at = dice.below(bytes.length);
    return replaced(bytes, at, 1, Uint8Array.of((bytes[at] as number) + dice.pick([-2, -1, 1, 2, 32])));
  },
  (dice, bytes) =>
    replaced(
      bytes,
      dice.below(bytes.length),
      0,
      Uint8Array.from({ length: 1 + dice.below(8) }, () => dice.below(256)),
    ),
  (dice, bytes) => {
    const { at, count } = someRange(dice, bytes);
    return replaced(bytes, at, count, new Uint8Array());
  },
  (dice, bytes) => bytes.subarray(0, dice.below(bytes.length)),
  (dice, bytes) => {
    const { at, count } = someRange(dice, bytes);
    return replaced(bytes, dice.below(bytes.length), 0, bytes.subarray(at, at + count));
  },
  (dice, bytes, others) => {
    const other = dice.pick(others);
    if (other.length === 0) return bytes;
    const { at, count } = someRange(dice, other);
    const to = dice.below(bytes.length);
    return replaced(bytes, to, dice.below(2) * Math.min(count, bytes.length - to), other.subarray(at, at + count));
  },
  (dice, bytes) => {
    if (bytes.length < 4) return bytes;
    const out = Uint8Array.from(bytes);
    const word = dice.below(2) === 0 ? dice.pick(WORDS_OF_INTEREST) : (bytes.length + dice.below(9) - 4) >>> 0;
    new DataView(out.buffer).setUint32(dice.below(bytes.length - 3), word, dice.below(2) === 0);
    return out;
  },
  (dice, bytes) => {
    const fragment = dice.pick(FRAGMENTS);
    const at = dice.below(bytes.length);
    return replaced(bytes, at, dice.below(2) * Math.min(fragment.length, bytes.length - at), fragment);
  },
  (dice, bytes) => {
    const { at, count } = someRange(dice, bytes);
    const times = 1 << dice.below(12);
    const piece = bytes.subarray(at, at + Math.min(count, 64));
    return replaced(bytes, at, 0, new Uint8Array(Buffer.concat(new Array<Uint8Array>(times).fill(piece))));
  },
];

/** One to eight changes, few more often than many. */
export function mutateBytes(dice: Dice, sample: Uint8Array, others: readonly Uint8Array[]): Uint8Array {
  let bytes = sample;
  for (let left = 1 << dice.below(4); left > 0; left--) {
    bytes = bytes.length === 0 ? dice.pick(FRAGMENTS) : dice.pick(MUTATIONS)(dice, bytes, others);
  }
  return Uint8Array.from(bytes.subarray(0, BYTES_MAX));
}

const VALUES_OF_INTEREST: readonly (() => unknown)[] = [
  ...[0, 1, -1, 2, 0.5, -0, 255, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1, 2 ** 53, 2 ** 60, 1e300, Number.NaN, Number.POSITIVE_INFINITY],
  ...["", "a", "-1", "__proto__", "constructor", "\u0000", "x".repeat(5_000), "0".repeat(32), null, undefined, true, false],
].map((value) => () => value);
const MAKERS: readonly (() => unknown)[] = [
  ...VALUES_OF_INTEREST,
  () => [],
  () => ({}),
  () => new Uint8Array(),
  () => new Uint8Array(16),
  () => [[[[[[]]]]]],
  () => ({ length: 2 ** 32 - 1 }),
  () => new Array<number>(300).fill(0),
];

/** The value with one to four of its parts changed. */
export function mutateValue(dice: Dice, value: unknown): unknown {
  let mutant = value;
  for (let left = 1 << dice.below(3); left > 0; left--) {
    const target = dice.below(countParts(mutant));
    let at = 0;
    mutant = rebuild(mutant, (part) => (at++ === target ? change(dice, part) : undefined));
  }
  return mutant;
}

function countParts(value: unknown): number {
  let count = 1;
  for (const inner of innerOf(value)) count += countParts(inner);
  return count;
}

function innerOf(value: unknown): readonly unknown[] {
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return [];
  return Array.isArray(value) ? value : Object.values(value);
}

/** `visit` gives what a part becomes; undefined: stays. */
function rebuild(value: unknown, visit: (part: unknown) => { readonly becomes: unknown } | undefined): unknown {
  const changed = visit(value);
  if (changed) return changed.becomes;
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return value.map((inner) => rebuild(inner, visit));
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, rebuild(inner, visit)]));
}

function change(dice: Dice, part: unknown): { readonly becomes: unknown } {
  if (dice.below(4) === 0) return { becomes: dice.pick(MAKERS)() };
  if (typeof part === "number") {
    const near = [part + 1, part - 1, -part, part * 2, part + 2 ** 32, part + 0.5];
    return { becomes: dice.below(2) === 0 ? dice.pick(near) : dice.pick(VALUES_OF_INTEREST)() };
  }
  if (typeof part === "string") {
    return { becomes: dice.pick([part.slice(1), `${part}a`, part + part, part.toUpperCase(), `${part}/x`, `${part}\u0000`, "\ud800"]) };
  }
  if (part instanceof Uint8Array) return { becomes: mutateBytes(dice, part, [part]) };
  if (Array.isArray(part) && part.length > 0) {
    const at = dice.below(part.length);
    const kinds = [
      () => part.toSpliced(at, 1),
      () => part.toSpliced(at, 0, part[at]),
      () => part.toSpliced(at),
      () => part.toReversed(),
      () => [...part, ...part],
      () => part.with(at, dice.pick(MAKERS)()),
    ];
    return { becomes: dice.pick(kinds)() };
  }
  if (typeof part === "object" && part !== null) {
    const entries = Object.entries(part);
    if (entries.length > 0) {
      const at = dice.below(entries.length);
      const [key] = entries[at] as [string, unknown];
      const others = [entries.toSpliced(at, 1), entries.with(at, [key, dice.pick(MAKERS)()]), entries.with(at, [`${key}x`, 1])];
      return { becomes: Object.fromEntries(dice.pick(others)) };
    }
  }
  return { becomes: dice.pick(MAKERS)() };
}
