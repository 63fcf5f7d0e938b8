import { fileURLToPath } from "node:url";

const bin = (name: string) => fileURLToPath(new URL(`../../../node_modules/.bin/${name}`, import.meta.url));

/** Program and leading arguments that run a TypeScript entry file; Bun and Deno come through npm. */
export const RUNTIMES: Readonly<Record<string, readonly string[]>> = {
  node: [process.execPath],
  bun: [bin("bun"), "run"],
  deno: [bin("deno"), "run", "-A", "--unstable-sloppy-imports"],
};
