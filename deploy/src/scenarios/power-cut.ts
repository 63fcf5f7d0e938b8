import { execFileSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { freePorts } from "@tributary/common/testing/free-ports";
import { revertUnsynced } from "../power-cut/revert.ts";
import { readAll } from "./final-read.ts";
import { Ledger } from "./ledger.ts";
import { startLoad } from "./load.ts";
import type { Scenario, ScenarioContext, ScenarioResult } from "./scenario.ts";
import { applianceProcess } from "./servers.ts";

const SHIM = fileURLToPath(new URL("../power-cut/unsynced.c", import.meta.url));
const STREAMS = ["cut/a", "cut/b"];
const UNSAFE_ROUNDS_MAX = 8;

export const powerCut: Scenario = {
  description:
    "SIGKILL under load, and every write that was not fsynced is undone; then the same with edge.sync=off, which must lose events",
  async run(context) {
    const safe = await cutPower(context, "full", context.short ? 3 : Math.max(10, Math.round((context.minutes ?? 3) * 6)), 1);
    // What the core had before the cut is safe all the same, so a round can be lucky; several in a row are not.
    let unsafe = await cutPower(context, "off", 3, 1);
    for (let round = 2; unsafe.report.lost === 0 && round <= UNSAFE_ROUNDS_MAX; round++) unsafe = await cutPower(context, "off", 3, round);
    const check = {
      name: "edge.sync=off loses acknowledged events (else this check proves nothing)",
      ok: unsafe.report.lost > 0,
      detail: `${unsafe.report.lost} of ${unsafe.report.acked} lost`,
    };
    return { report: safe.report, checks: [...safe.checks, check] };
  },
};

async function cutPower(context: ScenarioContext, sync: "full" | "off", cuts: number, round: number): Promise<ScenarioResult> {
  const folder = join(context.folder, `${sync}-${round}`);
  const data = join(folder, "data");
  mkdirSync(data, { recursive: true });
  const shim = join(context.folder, "unsynced.so");
  execFileSync("cc", ["-shared", "-fPIC", "-O2", "-o", shim, SHIM, "-ldl", "-lpthread"], { stdio: "inherit" });
  const [httpPort, mqttPort, corePort] = (await freePorts(3)) as [number, number, number];
  const journal = join(folder, "journal");
  const server = applianceProcess(
    folder,
    { httpPort, mqttPort, corePort },
    {
      flags: ["--set", `edge.sync=${sync}`],
      runtime: context.runtime,
      env: { LD_PRELOAD: shim, UNSYNCED_DIR: data, UNSYNCED_LOG: journal },
    },
  );
  await server.start();
  const ledger = new Ledger();
  const coreUrl = `http://127.0.0.1:${corePort}`;
  let undone = 0;
  try {
    // Streams come into being with the first publish; HTTP clients need them before.
    for (const stream of STREAMS) await fetch(`http://127.0.0.1:${httpPort}/v1/stream/${stream}`, { method: "PUT" });
    const load = startLoad(ledger, {
      httpPort,
      mqttPort,
      prefix: sync,
      streams: STREAMS,
      http: 8,
      httpBatch: 3,
      mqttQos1: 6,
      mqttQos2: 6,
      mqttDepth: 8,
      fillerChars: 100,
    });
    for (let i = 0; i < cuts; i++) {
      await new Promise((resolve) => setTimeout(resolve, 500 + 1_500 * context.random()));
      await server.kill();
      const report = revertUnsynced(data, journal);
      undone += report.undone;
      context.say(`edge.sync=${sync}: power cut ${i + 1}/${cuts}, ${report.undone} changes undone, ${ledger.acked} acknowledged`);
      await server.start();
    }
    // With edge.sync=off producers may rightly be refused: the gateway forgot what it had acknowledged.
    await Promise.race([load.drain(), new Promise((resolve) => setTimeout(resolve, 30_000))]);
    const final = await readAll(coreUrl, STREAMS, ledger, []);
    for (const detail of final.ledger.details.slice(0, 5)) context.say(`edge.sync=${sync}: ${detail}`);
    return {
      report: final.ledger,
      checks: [
        { name: `edge.sync=${sync}: changes undone`, ok: undone > 0, detail: `${undone} in ${cuts} cuts` },
        ...final.checks.map(({ name, ok, detail }) => ({ name: `edge.sync=${sync}: ${name}`, ok: sync === "off" || ok, detail })),
        {
          name: `edge.sync=${sync}: clients were never refused`,
          ok: sync === "off" || load.refusals.length === 0,
          detail: load.refusals.slice(0, 3).join("; ") || "yes",
        },
      ],
    };
  } finally {
    await server.kill();
  }
}
