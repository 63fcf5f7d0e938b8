import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { environmentName, loadConfig, SETTING_NAMES, SETTINGS } from "./config.ts";
import { fuzzBytes, orCode } from "./testing/fuzz.ts";

const FILES = [
  '{"edge":{"http":{"port":8070,"host":"127.0.0.1"},"diskBytesMax":1000000000,"whenFull":"reject"},"nats.url":"nats://127.0.0.1:4222"}',
  '{"core.http.host":"0.0.0.0","core.http.token":"secret","nats":{"allowUnsafe":true,"replicas":3},"cluster":"main"}',
  '{"edge":{"mqtt":{"host":"::1","user":"u","password":"p"}},"core":{"flushIntervalMs":"50"}}',
].map((text) => new TextEncoder().encode(text));

it("mutated configuration files, environments and flags give a whole configuration or CONFIG_INVALID", async () => {
  const folder = mkdtempSync(join(tmpdir(), "tributary-"));
  const file = join(folder, "config.json");
  try {
    await fuzzBytes({
      name: "config",
      beside: import.meta.url,
      seeds: FILES,
      run: (bytes) => {
        writeFileSync(file, bytes);
        const value = Buffer.from(bytes).toString("utf8");
        const name = SETTING_NAMES[bytes.length % SETTING_NAMES.length] ?? "cluster";
        const sources = [
          { file },
          { environment: { [environmentName(name)]: value } },
          { overrides: { [name]: value } },
          { overrides: { [value]: "1" } },
        ];
        for (const source of sources) {
          const config = orCode(() => loadConfig(source), "CONFIG_INVALID");
          if (!config) continue;
          for (const name of SETTING_NAMES) expect(typeof config[name]).toBe(typeof SETTINGS[name].default);
        }
      },
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});

it.each([
  ["brackets", `${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`],
  ["a list of lists", `{"cluster":${"[".repeat(100_000)}${"]".repeat(100_000)}}`],
  ["a value that is no text even when asked", '{"cluster":[{"toString":1}]}'],
])("a configuration file of %s is CONFIG_INVALID", (_what, text) => {
  const folder = mkdtempSync(join(tmpdir(), "tributary-"));
  try {
    const file = join(folder, "config.json");
    writeFileSync(file, text);
    expect(orCode(() => loadConfig({ file }), "CONFIG_INVALID")).toBeUndefined();
  } finally {
    rmSync(folder, { recursive: true });
  }
});
