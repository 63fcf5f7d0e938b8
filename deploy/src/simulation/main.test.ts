import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

it.for([
  { args: ["--seeds", "x"], said: "'x' is not a range like 1..100" },
  { args: ["--seeds", "5..1"], said: "'5..1' is not a range like 1..100" },
  { args: ["--seeds", "1..2", "--threads", "none"], said: "--threads 'none' is not a whole number from 1 on" },
  { args: ["--seed", "one"], said: "--seed 'one' is not a whole number from 0 on" },
  { args: ["--bogus"], said: "Unknown option '--bogus'" },
])("wrong usage is told with the help, and ends with 2: $args", ({ args, said }) => {
  const main = fileURLToPath(new URL("main.ts", import.meta.url));
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], { encoding: "utf8" });
  expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
  expect(stderr).toMatch(said);
  expect(stderr).toContain("--no-shrink");
  expect(stderr).not.toContain("    at ");
});
