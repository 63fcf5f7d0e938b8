import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseStreamName } from "@tributary/common/names";
import { TributaryClient } from "@tributary/common/sdk/client";

const DATA = fileURLToPath(new URL("../../../shared/data", import.meta.url));
const REQUEST_EVENTS = 500;

/** Rows of the recordings as JSON objects, the columns' names as members: what a telemetry agent would send. */
export async function sendRecordings(
  httpPort: number,
  drained: () => Promise<void>,
  metrics: () => Promise<Map<string, number>>,
): Promise<void> {
  if (!existsSync(DATA)) {
    console.log("\nno recordings beside the repository: the uplink share of real data was not measured");
    return;
  }
  const client = new TributaryClient({ server: `http://127.0.0.1:${httpPort}` });
  console.log("\nrecordings as JSON objects (HTTP):");
  for (const file of readdirSync(DATA, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".csv"))
    .sort()) {
    const stream = parseStreamName(`recordings/${basename(file, ".csv")}`);
    await client.createStream(stream, { contentType: "application/json" });
    const before = await metrics();
    const events = rows(readFileSync(join(DATA, file), "utf8")).map((row) => ({
      key: basename(file),
      data: Buffer.from(JSON.stringify(row)),
    }));
    for (let at = 0; at < events.length; at += REQUEST_EVENTS) await client.append(stream, events.slice(at, at + REQUEST_EVENTS));
    await drained();
    const after = await metrics();
    const grown = (name: string) => (after.get(name) ?? 0) - (before.get(name) ?? 0);
    const payload = grown("tributary_gateway_payload_bytes_total");
    const share = (grown("tributary_gateway_uplink_bytes_sent_total") / payload) * 100;
    console.log(`  ${file.padEnd(48)} ${String(events.length).padStart(6)} events, ${payload} payload bytes, uplink ${share.toFixed(1)} %`);
  }
}

function rows(text: string): Record<string, string | number>[] {
  const [head = "", ...lines] = text.split(/\r?\n/).filter((line) => line !== "");
  const names = head.split(",").map((name) => name.trim());
  return lines.map((line) =>
    Object.fromEntries(
      line.split(",").map((value, i) => {
        const number = Number(value);
        return [names[i] ?? `column${i + 1}`, value !== "" && Number.isFinite(number) ? number : value];
      }),
    ),
  );
}
