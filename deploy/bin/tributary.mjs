#!/usr/bin/env node
// The entry of the command line. Plain JavaScript, so that an old Node can still say what is wrong.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const main = join(dirname(fileURLToPath(import.meta.url)), "..", "src", "cli", "main.ts");
const pinnedNode = join(dirname(main), "..", "..", "..", "node_modules", "node", "bin", "node");
const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
const capable = Boolean(process.versions.bun || globalThis.Deno) || major > 22 || (major === 22 && minor >= 18);

if (capable) {
  await import(main);
} else if (existsSync(pinnedNode)) {
  const child = spawn(pinnedNode, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => {
      if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal);
    });
  }
  child.on("exit", (code) => process.exit(code ?? 1));
} else {
  console.error(`tributary: NODE_VERSION: this is Node ${process.versions.node}; 22.18 or newer is needed.`);
  console.error("Run 'npm start' once in the repository: it installs the Node that the project pins. Or install Node 22.18 or newer.");
  process.exit(1);
}
