import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseStreamName } from "@tributary/common/names";
import { TributaryClient } from "@tributary/common/sdk/client";
import { byteLines } from "../cli/byte-lines.ts";
import { connectMqttPublisher } from "../replay/mqtt-publisher.ts";
import { type Scenario, type ScenarioResult, until } from "./scenario.ts";
import { embeddedTopology } from "./topology.ts";

const DATA = fileURLToPath(new URL("../../../../shared/data", import.meta.url));

export const recordings: Scenario = {
  description: "real recordings (../shared/data) through MQTT at full speed, one event a line; each must read back byte for byte",
  async run(context) {
    if (!existsSync(DATA)) throw new Error(`${DATA} is not there: this scenario needs the recordings`);
    mkdirSync(context.folder, { recursive: true });
    const topology = await embeddedTopology({ folder: context.folder, runtime: context.runtime });
    const files = readdirSync(DATA, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".csv"));
    const report = { acked: 0, read: 0, lost: 0, doubled: 0, reordered: 0 };
    const checks: ScenarioResult["checks"][number][] = [];
    try {
      const client = new TributaryClient({ server: topology.coreUrl });
      for (const file of files) {
        const bytes = readFileSync(join(DATA, file));
        const stream = `recordings/${basename(file, ".csv")}`;
        const publisher = await connectMqttPublisher({ host: "127.0.0.1", port: topology.mqttPort, user: undefined, password: undefined });
        let lines = 0;
        for await (const line of byteLines(oneChunk(bytes))) {
          await publisher.publish(`${stream}/car`, line);
          lines++;
        }
        await publisher.drain();
        publisher.close();
        const name = parseStreamName(stream);
        await until(
          `${file} at the core`,
          60_000,
          async () => (await client.describeStream(name).catch(() => undefined))?.events === lines,
        );
        const parts: Uint8Array[] = [];
        for await (const page of client.readPages(name, { offset: "-1" })) for (const record of page.records) parts.push(record.data);
        const same = Buffer.concat(parts).equals(bytes);
        report.acked += lines;
        report.read += parts.length;
        report.lost += Math.max(0, lines - parts.length);
        report.doubled += Math.max(0, parts.length - lines);
        checks.push({ name: file, ok: same, detail: `${lines} lines, ${bytes.length} bytes, ${same ? "identical" : "DIFFERENT"}` });
        context.say(`${file}: ${lines} lines, ${same ? "identical" : "different"}`);
      }
    } finally {
      await topology.destroy();
    }
    return { report, checks };
  },
};

async function* oneChunk(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}
