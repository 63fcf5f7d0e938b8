import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { PHASES, type Phase } from "@tributary/common/phases";
import { TributaryClient } from "@tributary/common/sdk/client";
import { readAll } from "./final-read.ts";
import { Ledger } from "./ledger.ts";
import { type LoadOptions, startLoad } from "./load.ts";
import { merge, type Scenario, type ScenarioContext, type ScenarioResult } from "./scenario.ts";
import { TailReader } from "./tail-reader.ts";
import { embeddedTopology, natsTopology, type Topology } from "./topology.ts";
import type { Victim } from "./victim.ts";

const STREAMS = ["kill/narrow", "kill/wide", "default/shared"];
const PHASE_WAIT_MS_MAX = 2_000;

export const kill: Scenario = {
  description: "SIGKILL at random moments under load of 50 HTTP and MQTT clients; embedded, then gateway, core and nats-server apart",
  async run(context) {
    let report: ScenarioResult["report"] | undefined;
    const checks: ScenarioResult["checks"][number][] = [];
    // Where only the gateway runs on another runtime, the appliance in one process is left out of the short form.
    const topologies =
      context.short && context.runtime[0] !== process.execPath
        ? { apart: natsTopology }
        : { embedded: embeddedTopology, apart: natsTopology };
    for (const [name, open] of Object.entries(topologies)) {
      const folder = join(context.folder, name);
      mkdirSync(folder, { recursive: true });
      const topology = await open({ folder, runtime: context.runtime });
      try {
        const result = await killTopology(context, name, topology);
        report = merge(report, result.report);
        checks.push(...result.checks);
      } finally {
        await topology.destroy();
      }
    }
    return { report: report as ScenarioResult["report"], checks };
  },
};

async function killTopology(context: ScenarioContext, name: string, topology: Topology): Promise<ScenarioResult> {
  const kills = context.short ? 5 : Math.max(30, Math.round((context.minutes ?? 8) * 4));
  const calmMs = context.short ? 1_000 : 10_000;
  await new TributaryClient({ server: topology.coreUrl }).createStream({ scope: "kill", stream: "wide" }, { segments: 4 });
  for (const stream of ["kill/narrow", "default/shared"]) {
    const [scope = "", id = ""] = stream.split("/");
    await new TributaryClient({ server: topology.gatewayUrl }).createStream({ scope, stream: id });
  }
  const ledger = new Ledger();
  const options: LoadOptions = {
    httpPort: topology.httpPort,
    mqttPort: topology.mqttPort,
    prefix: name,
    streams: STREAMS,
    http: 20,
    httpBatch: 5,
    mqttQos1: 20,
    mqttQos2: 10,
    mqttDepth: 10,
    fillerChars: 100,
  };
  // The rate of this very load without kills is what the run with kills is held against.
  const calm = startLoad(ledger, { ...options, prefix: `${name}-calm` });
  await pause(calmMs);
  await calm.drain();
  const calmRate = ledger.acked / (calmMs / 1_000);
  context.say(`${name}: ${Math.round(calmRate)} events/s acknowledged without kills`);

  const tails = STREAMS.map((stream) => new TailReader(topology.coreUrl, stream));
  const load = startLoad(ledger, options);
  const ackedBefore = ledger.acked;
  const startedAt = performance.now();
  const interrupted = Object.fromEntries(PHASES.map((phase) => [phase, 0])) as Record<Phase, number>;
  const restarts: number[] = [];
  // A phase can be over before the kill arrives: some more kills aim at those that were never hit.
  const missed = () => PHASES.some((phase) => interrupted[phase] === 0);
  const killsMax = context.short ? kills : kills + 30;
  for (let i = 0; i < kills || (i < killsMax && missed()); i++) {
    const victim = await nextMoment(context, topology.victims, interrupted, context.short ? 400 : 5_000, i >= kills);
    for (const phase of await victim.kill()) interrupted[phase]++;
    await victim.start();
    restarts.push(victim.readyMs);
    context.say(
      `${name}: kill ${i + 1}/${kills} of ${victim.name}, ready after ${Math.round(victim.readyMs)} ms, ${ledger.acked} acknowledged`,
    );
  }
  await pause(context.short ? 400 : 3_000);
  const rate = (ledger.acked - ackedBefore) / ((performance.now() - startedAt) / 1_000);
  await load.drain();
  const final = await readAll(topology.coreUrl, STREAMS, ledger, tails);
  await Promise.all(tails.map((tail) => tail.stop()));

  const { resentDoubles, unacknowledged, details } = final.ledger;
  for (const detail of details) context.say(`${name}: ${detail}`);
  const changed = tails.reduce((sum, tail) => sum + tail.changed, 0);
  const compared = tails.reduce((sum, tail) => sum + tail.seen, final.ledger.read);
  restarts.sort((a, b) => a - b);
  return {
    report: final.ledger,
    checks: [
      ...PHASES.map((phase) => ({
        name: `${name}: kills within ${phase}`,
        ok: context.short || interrupted[phase] > 0,
        detail: String(interrupted[phase]),
      })),
      {
        name: `${name}: kills`,
        ok: true,
        detail: `${restarts.length}, ready again after ${Math.round(restarts[restarts.length >> 1] ?? 0)} ms (median)`,
      },
      {
        name: `${name}: acknowledged at least half as fast as without kills`,
        ok: context.short || rate >= calmRate / 2,
        detail: `${Math.round(rate)}/s of ${Math.round(calmRate)}/s`,
      },
      {
        name: `${name}: nothing changed at any (segment, ordinal)`,
        ok: changed === 0,
        detail: `${compared} compared, ${changed} changed before the last read`,
      },
      ...final.checks.map((check) => ({ ...check, name: `${name}: ${check.name}` })),
      {
        name: `${name}: clients were never refused`,
        ok: load.refusals.length === 0,
        detail: load.refusals.slice(0, 3).join("; ") || "yes",
      },
      {
        name: `${name}: QoS 1 clients resent`,
        ok: true,
        detail: `${resentDoubles} doubles of their own, ${unacknowledged} read without acknowledgement`,
      },
    ],
  };
}

/** Chooses whom to kill and waits for the moment: half of the kills come at random, half at the begin of the phase that was hit least. */
async function nextMoment(
  context: ScenarioContext,
  victims: readonly Victim[],
  interrupted: Readonly<Record<Phase, number>>,
  spanMs: number,
  aim: boolean,
): Promise<Victim> {
  const any = victims[Math.floor(context.random() * victims.length)] as Victim;
  await pause(spanMs * (0.5 + context.random()));
  if (!aim && context.random() < 0.5) return any;
  const least = [...PHASES].sort((a, b) => interrupted[a] - interrupted[b])[0] as Phase;
  const owner = victims.find((victim) => victim.phases.includes(least)) ?? any;
  await owner.killAtBegin(least, PHASE_WAIT_MS_MAX);
  return owner;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
