import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { SCENARIOS } from "./all.ts";
import { RUNTIMES } from "./runtimes.ts";
import { type Scenario, seededRandom } from "./scenario.ts";

const folder = mkdtempSync(join(tmpdir(), "tributary-scenarios-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Tells the short form and expects that nothing was lost, doubled or reordered, and that every check holds. */
async function tell(name: string, runtime: string): Promise<void> {
  const lines: string[] = [];
  const result = await (SCENARIOS[name] as Scenario).run({
    minutes: undefined,
    rate: undefined,
    random: seededRandom(20_261_120),
    folder: join(folder, `${name}-${runtime}`),
    say: (line) => lines.push(line),
    short: true,
    runtime: RUNTIMES[runtime] as readonly string[],
  });
  const failed = result.checks.filter((check) => !check.ok);
  expect({ ...result.report, failed }, lines.join("\n")).toMatchObject({ lost: 0, doubled: 0, reordered: 0, failed: [] });
  expect(result.report.acked).toBeGreaterThan(0);
}

describe("scenarios, short forms, with real processes", { timeout: 180_000 }, () => {
  it("kill", () => tell("kill", "node"));
  it("kill, gateway on Bun", () => tell("kill", "bun"));
  it("kill, gateway on Deno", () => tell("kill", "deno"));
  it("core-away", () => tell("core-away", "node"));
  it("chaos", () => tell("chaos", "node"));
  it("replace", () => tell("replace", "node"));
  it("store-loss", () => tell("store-loss", "node"));
});
