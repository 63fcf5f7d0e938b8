import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command, InvalidArgumentError } from "commander";
import { SCENARIOS } from "./all.ts";
import { RUNTIMES } from "./runtimes.ts";
import { seededRandom } from "./scenario.ts";

const number = (text: string) => {
  const value = Number(text);
  if (!Number.isFinite(value) || value <= 0) throw new InvalidArgumentError("expected a number above 0");
  return value;
};

const program = new Command("npm run scenario --")
  .description("tells one whole-system story with real processes, and judges it through the public API alone")
  .argument("[name]", "the scenario")
  .option("--list", "name them all")
  .option("--minutes <n>", "how long, roughly", number)
  .option("--rate <n>", "events or batches a second of each device, where the scenario paces them (chaos)", number)
  .option("--seed <n>", "seed of the random moments", number)
  .option("--short", "the form that runs in npm test")
  .option("--runtime <runtime>", "run the gateway on node, bun or deno", "node")
  .option("--keep <folder>", "work in this folder and keep it");
program.parse();
const options = program.opts<{
  list?: boolean;
  minutes?: number;
  rate?: number;
  seed?: number;
  short?: boolean;
  runtime: string;
  keep?: string;
}>();

if (options.list || program.args.length === 0) {
  for (const [name, scenario] of Object.entries(SCENARIOS)) console.log(`${name.padEnd(14)} ${scenario.description}`);
} else {
  process.exitCode = await run(program.args[0] as string);
}

async function run(name: string): Promise<number> {
  const scenario = SCENARIOS[name];
  if (!scenario) return program.error(`there is no scenario '${name}'; --list names them`);
  const runtime = RUNTIMES[options.runtime];
  if (!runtime) return program.error(`--runtime '${options.runtime}' is none of ${Object.keys(RUNTIMES).join(", ")}`);
  const seed = options.seed ?? (Date.now() % 1_000_000) + 1;
  const folder = options.keep ?? mkdtempSync(join(tmpdir(), `tributary-${name}-`));
  mkdirSync(folder, { recursive: true });
  console.log(`scenario ${name}, seed ${seed}, folder ${folder}`);
  const startedAt = performance.now();
  const result = await scenario.run({
    minutes: options.minutes,
    rate: options.rate,
    random: seededRandom(seed),
    folder,
    say: (line) => console.log(`[${((performance.now() - startedAt) / 1_000).toFixed(1)} s] ${line}`),
    short: options.short ?? false,
    runtime,
  });
  for (const check of result.checks) console.log(`${check.ok ? "ok    " : "FAILED"} ${check.name}: ${check.detail}`);
  const { acked, read, lost, doubled, reordered } = result.report;
  const good = lost + doubled + reordered === 0 && result.checks.every((check) => check.ok);
  if (good && !options.keep) rmSync(folder, { recursive: true, force: true });
  else console.log(`logs and data are in ${folder}`);
  console.log(`${acked} acked, ${read} read, ${lost} lost, ${doubled} doubled, ${reordered} reordered`);
  return good ? 0 : 1;
}
