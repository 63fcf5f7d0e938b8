import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { environmentName, loadConfig, SETTING_NAMES } from "./config.ts";
import { TributaryError } from "./errors.ts";

const failure = (run: () => unknown): TributaryError => {
  try {
    run();
  } catch (error) {
    if (error instanceof TributaryError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
};

describe("loadConfig", () => {
  it("gives the documented defaults", () => {
    expect(loadConfig({})).toMatchObject({ "edge.http.port": 8070, "edge.mqtt.port": 1883, "core.http.port": 8080, data: "./data" });
  });

  it("lets flags win over the environment", () => {
    const environment = { TRIBUTARY_EDGE_HTTP_PORT: "9000", TRIBUTARY_EDGE_DISK_BYTES_MAX: "16777216" };
    const config = loadConfig({ environment, overrides: { "edge.http.port": "9001" } });
    expect(config["edge.http.port"]).toBe(9001);
    expect(config["edge.diskBytesMax"]).toBe(16_777_216);
  });

  it.each(["[1]", "7", "null", '"edge.http.port"'])("refuses a file that holds %s, and says what it should hold", (text) => {
    const folder = mkdtempSync(join(tmpdir(), "tributary-config-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const file = join(folder, "settings.json");
    writeFileSync(file, text);
    expect(failure(() => loadConfig({ file }))).toMatchObject({
      code: "CONFIG_INVALID",
      message: `${file} holds no JSON object with settings`,
    });
  });

  it("has a distinct environment name for each setting", () => {
    expect(new Set(SETTING_NAMES.map(environmentName)).size).toBe(SETTING_NAMES.length);
  });

  it.each([
    ["an unknown name", { "edge.htp.port": "1" }, /no setting 'edge.htp.port'/],
    ["no number", { "edge.http.port": "many" }, /edge.http.port is 'many'/],
    ["a port too high", { "edge.http.port": "70000" }, /at most 65535/],
    ["an unknown choice", { "edge.diskPolicy": "drop-newest" }, /reject, drop-oldest/],
    ["an open listener without credentials", { "edge.http.host": "0.0.0.0" }, /edge.http.token/],
    ["an open MQTT listener with half of its credentials", { "edge.mqtt.host": "0.0.0.0", "edge.mqtt.user": "u" }, /edge.mqtt.password/],
  ])("refuses %s and says what is expected", (_, overrides, message) => {
    const error = failure(() => loadConfig({ overrides }));
    expect(error.code).toBe("CONFIG_INVALID");
    expect(error.message).toMatch(message);
  });
});
