import { parseArgs } from "node:util";
import { gatewayBenchmark } from "./gateway.ts";
import { segmentsBenchmark } from "./segments.ts";

const BENCHMARKS: Readonly<Record<string, { description: string; run(options: { seconds: number; only: string }): Promise<void> }>> = {
  gateway: { description: "acknowledged events/s, latency, disk and uplink bytes of one gateway", run: gatewayBenchmark },
  segments: { description: "1 to 5,000 segments of a core on three nats-servers, and JetStream alone", run: segmentsBenchmark },
};

const { values, positionals } = parseArgs({
  options: { seconds: { type: "string", default: "8" }, only: { type: "string", default: "" }, list: { type: "boolean", default: false } },
  allowPositionals: true,
});
const name = positionals[0];
const seconds = Number(values.seconds);
const benchmark = name === undefined ? undefined : BENCHMARKS[name];
if (values.list || !benchmark || !(seconds > 0)) {
  console.log("npm run bench -- NAME [--seconds N of each case] [--only efficiency|segments]");
  for (const [each, { description }] of Object.entries(BENCHMARKS)) console.log(`  ${each.padEnd(10)} ${description}`);
  process.exitCode = values.list ? 0 : 2;
} else await benchmark.run({ seconds, only: values.only });
