import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { freePorts } from "@tributary/common/testing/free-ports";
import { judgeTrace, readTrace } from "../power-cut/strace.ts";
import { readAll } from "./final-read.ts";
import { Ledger } from "./ledger.ts";
import { startLoad } from "./load.ts";
import type { Scenario, ScenarioContext, ScenarioResult } from "./scenario.ts";
import { applianceProcess } from "./servers.ts";

const STREAMS = ["trace/a"];

export const fsyncTrace: Scenario = {
  description:
    "system calls of a gateway under MQTT load: each PUBACK follows the fsync that covers its publish; edge.sync=off must fail it",
  async run(context) {
    const safe = await trace(context, "full");
    const unsafe = await trace(context, "off");
    return {
      report: safe.report,
      checks: [
        ...safe.checks,
        {
          name: "edge.sync=off acknowledges before an fsync (else this check proves nothing)",
          ok: unsafe.early > 0,
          detail: `${unsafe.early} of ${unsafe.acks} too early`,
        },
      ],
    };
  },
};

async function trace(context: ScenarioContext, sync: "full" | "off"): Promise<ScenarioResult & { early: number; acks: number }> {
  const folder = join(context.folder, sync);
  mkdirSync(folder, { recursive: true });
  const [httpPort, mqttPort, corePort] = (await freePorts(3)) as [number, number, number];
  const tracePath = join(folder, "strace");
  // -D: the process that is started is the server itself, and gets the signals; strace looks on from beside it.
  const server = applianceProcess(
    folder,
    { httpPort, mqttPort, corePort },
    {
      flags: ["--set", `edge.sync=${sync}`],
      runtime: [
        "strace",
        "-D",
        "-f",
        "-yy",
        "-ttt",
        "-xx",
        "-s",
        "262144",
        "-e",
        "trace=read,readv,recvfrom,recvmsg,write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,fdatasync",
        "-o",
        tracePath,
        ...context.runtime,
      ],
    },
  );
  await server.start();
  const ledger = new Ledger();
  try {
    const load = startLoad(ledger, {
      httpPort,
      mqttPort,
      prefix: sync,
      streams: STREAMS,
      http: 0,
      httpBatch: 1,
      mqttQos1: 8,
      mqttQos2: 0,
      mqttDepth: 4,
      fillerChars: 50,
    });
    await new Promise((resolve) => setTimeout(resolve, context.short ? 2_000 : 8_000));
    await load.drain();
    const final = await readAll(`http://127.0.0.1:${corePort}`, STREAMS, ledger, []);
    await server.stop();
    const { acks, early, fsyncs } = judgeTrace(await readTrace(tracePath), mqttPort, join(folder, "data", "edge"));
    context.say(`edge.sync=${sync}: ${acks} PUBACKs, ${fsyncs} fsyncs of the edge log, ${early} PUBACKs too early`);
    return {
      report: final.ledger,
      acks,
      early,
      checks: [
        ...final.checks.map((check) => ({ ...check, name: `edge.sync=${sync}: ${check.name}` })),
        {
          name: `edge.sync=${sync}: every PUBACK follows the fsync that covers it`,
          ok: sync === "off" || (acks >= ledger.acked && early === 0),
          detail: `${acks} PUBACKs, ${early} too early`,
        },
      ],
    };
  } finally {
    await server.kill();
  }
}
