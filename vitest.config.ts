import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["{common,edge,core,deploy,benchmarks}/src/**/*.test.ts"],
    // Vitest's forks lose their channel on Bun.
    pool: process.versions["bun"] ? "threads" : "forks",
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
