import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Ledger } from "./ledger.ts";
import { LoadProcesses } from "./load-processes.ts";
import { until } from "./scenario.ts";

const WAIT_MS_MAX = 30_000;
const BATCH = 2;

let folder: string;
let server: Server;
let answering: boolean;
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "tributary-load-"));
  answering = true;
  server = createServer((_, response) => {
    if (answering) response.end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

function start(options: { readonly mqttDevices?: number; readonly mqttPort?: number; readonly drainMsMax?: number } = {}) {
  const { mqttDevices = 0, mqttPort = 0, drainMsMax = WAIT_MS_MAX } = options;
  const { port: httpPort } = server.address() as AddressInfo;
  const device = { streams: ["s/a"], httpBatch: BATCH, mqttDepth: 1, fillerChars: 8 };
  const counts = { http: 3, mqttQos1: mqttDevices, mqttQos2: 0 };
  const shares = ["a", "b"].map((prefix) => [{ prefix, httpPort, mqttPort, ...device, ...counts }]);
  const ledger = new Ledger();
  return { ledger, loads: new LoadProcesses(ledger, { folder, shares, drainMsMax }) };
}

describe("LoadProcesses", () => {
  it("tell everything that their devices were told, and end", async () => {
    const { ledger, loads } = start();
    await until("acknowledgements", WAIT_MS_MAX, () => ledger.acked > 100 && loads.connections().open === loads.devices);
    expect(loads.connections().made).toBe(loads.devices);
    await loads.drain();
    expect(ledger.unanswered).toBe(0);
  });

  it("say how much had no answer in the end", async () => {
    answering = false;
    const { ledger, loads } = start({ drainMsMax: 1 });
    await until("everybody to have sent", WAIT_MS_MAX, () => ledger.unanswered === loads.devices * BATCH);
    await loads.drain();
    expect(ledger).toMatchObject({ acked: 0, unanswered: loads.devices * BATCH });
  });

  it("do not hide that one of them ended by itself", async () => {
    // There is no such port: connecting throws.
    const { loads } = start({ mqttDevices: 1, mqttPort: -1 });
    await expect(loads.drain()).rejects.toThrow("load-1 ended by itself (1)");
  });

  it("end without a word when they are killed", async () => {
    const { ledger, loads } = start();
    await until("acknowledgements", WAIT_MS_MAX, () => ledger.acked > 0);
    await loads.kill();
    const { acked } = ledger;
    await loads.drain();
    expect(ledger.acked).toBe(acked);
  });
});
