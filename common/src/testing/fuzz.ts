import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ErrorCode, hasCode } from "../errors.ts";
import { decodeCbor, encodeCbor } from "../format/cbor.ts";
import { MalformedBytes } from "../format/varint.ts";
import { Dice, mutateBytes, mutateValue } from "./mutate.ts";

/**
 * Mutation-based fuzzing without a library: valid samples are damaged in ways that decoders tend to trip over, and each input
 * goes through a property that throws when it does not hold.
 *
 *   FUZZ_RUNS   mutants of each fuzzer; default 400, so that `npm test` stays quick. Long runs: FUZZ_RUNS=200000
 *   FUZZ_SEED   default 1: a test that passed passes again. Long runs: a number never used before
 *
 * What once failed lies in `corpus/` beside the fuzzer and goes first in every run.
 */
const RUNS = Number(process.env["FUZZ_RUNS"] ?? 400);
const SEED = Number(process.env["FUZZ_SEED"] ?? 1);

interface Common {
  /** Of the input in reports, and of the folder below `corpus/`. */
  readonly name: string;
  /** `import.meta.url` of the test. */
  readonly beside: string;
  /** Where one run is slow: divides the number of runs. */
  readonly cost?: number;
}

export interface ByteFuzz extends Common {
  readonly seeds: readonly Uint8Array[];
  /** Mends checksum and magic numbers of half the mutants, so that they get behind the outermost checks. */
  readonly mend?: (bytes: Uint8Array) => Uint8Array;
  /** Throws when the property does not hold. */
  readonly run: (bytes: Uint8Array) => unknown;
}

export async function fuzzBytes({ seeds, mend, run, cost = 1, ...where }: ByteFuzz): Promise<void> {
  const dice = new Dice(SEED);
  const corpus = readCorpus(where);
  const samples = [...seeds, ...corpus];
  for (const sample of samples) await attempt(where, "sample", sample, run);
  for (let i = 0; i < RUNS / cost; i++) {
    const mutant = mutateBytes(dice, dice.pick(samples), samples);
    await attempt(where, `run ${i}`, mend && dice.below(2) === 0 ? mend(mutant) : mutant, run);
  }
}

export interface ValueFuzz extends Common {
  /** What CBOR can hold. */
  readonly seeds: readonly unknown[];
  /** Throws when the property does not hold. */
  readonly run: (value: unknown) => unknown;
}

/** Damages the value and not its bytes: every mutant is well-formed CBOR, and most differ from a valid one in a single field. */
export async function fuzzValues({ seeds, run, cost = 1, ...where }: ValueFuzz): Promise<void> {
  const dice = new Dice(SEED);
  const samples = [...seeds.map((seed) => encodeCbor(seed)), ...readCorpus(where)];
  const runBytes = (bytes: Uint8Array) => run(decodeCbor(bytes));
  for (const sample of samples) await attempt(where, "sample", sample, runBytes);
  for (let i = 0; i < RUNS / cost; i++) {
    await attempt(where, `run ${i}`, encodeCbor(mutateValue(dice, decodeCbor(dice.pick(samples)))), runBytes);
  }
}

function readCorpus({ name, beside }: Common): Uint8Array[] {
  const folder = new URL(`corpus/${name}/`, beside);
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .sort()
    .map((file) => new Uint8Array(readFileSync(new URL(file, folder))));
}

async function attempt({ name }: Common, what: string, input: Uint8Array, run: (bytes: Uint8Array) => unknown): Promise<void> {
  // Its own memory: a decoder that writes into its input must not change the sample.
  const given = Uint8Array.from(input);
  try {
    await run(given);
  } catch (cause) {
    const path = join(tmpdir(), `fuzz-${name}-${SEED}-${what.replace(" ", "-")}.bin`);
    writeFileSync(path, input);
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new Error(
      `FUZZ_SEED=${SEED}, ${what} of ${name}: ${reason}; the input is ${path}: mend the decoder and move it to corpus/${name}`,
      {
        cause,
      },
    );
  }
}

/** The result; undefined where it failed with one of the codes. Whatever else it throws goes on: it is what fuzzing looks for. */
export function orCode<T>(action: () => T, ...codes: readonly ErrorCode[]): T | undefined {
  try {
    return action();
  } catch (error) {
    if (hasCode(error, ...codes)) return undefined;
    throw error;
  }
}

/** As orCode, for decoders whose callers turn MalformedBytes into an error of their own. */
export function orMalformed<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch (error) {
    if (error instanceof MalformedBytes) return undefined;
    throw error;
  }
}
