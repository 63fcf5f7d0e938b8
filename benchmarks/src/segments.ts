import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { freePorts } from "@tributary/common/testing/free-ports";
import { type NatsCluster, startNatsCluster } from "@tributary/common/testing/nats-server";
import type { ServerProcess } from "@tributary/deploy/scenarios/server-process";
import { coreProcess, NATS_MAX_PAYLOAD } from "@tributary/deploy/scenarios/servers";
import type { LoadResult } from "./load/load-result.ts";
import type { WalLoadResult } from "./load/wal-load.ts";
import { fsyncRate, residentMiB } from "./probes.ts";

const EVENT_BYTES = 1_000;
const CONTAINERS = 4;
const SEGMENTS = [1, 10, 100, 1_000, 5_000] as const;
const WRITERS = [10, 100] as const;
/** Of what 10 segments saturate at. */
const OFFERED_SHARE = 0.8;
/** Until most writers have been in most segments: what a writer costs the first time in a segment is not what is measured. */
const WARMUP_SECONDS: Readonly<Record<(typeof WRITERS)[number], number>> = { 10: 4, 100: 20 };
const EFFICIENCY_ROUNDS = 3;
/** How often few segments and many of them are compared: a disk that stands still for a second decides a case of some. */
const COMPARED = [10, 5_000] as const;
const COMPARED_ROUNDS = 3;
/** As the core's own: frames under way in each container. */
const WINDOW_FRAMES = 4;

/** What many segments cost, against few of them and against JetStream alone. Everything shares the machine's cores. */
export async function segmentsBenchmark({ seconds, only }: { seconds: number; only: string }): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "tributary-bench-"));
  console.log(
    `${cpus().length} × ${cpus()[0]?.model ?? "unknown CPU"}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.versions.node}, ${seconds} s a case after ${WARMUP_SECONDS[10]} s (10 writers) or ${WARMUP_SECONDS[100]} s (100)`,
  );
  console.log(
    `incompressible events of ${EVENT_BYTES} bytes; one core node with ${CONTAINERS} containers, three nats-servers (R3, sync always)`,
  );
  console.log(`the disk alone: ${await fsyncRate(folder, 4_096)} appends of 4 KiB with fdatasync a second\n`);
  try {
    const bench = await SegmentsBench.start(folder, seconds);
    try {
      await bench.run(only);
    } finally {
      await bench.stop();
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

class SegmentsBench {
  readonly #nats: NatsCluster;
  readonly #core: ServerProcess;
  readonly #seconds: number;

  private constructor(nats: NatsCluster, core: ServerProcess, seconds: number) {
    this.#nats = nats;
    this.#core = core;
    this.#seconds = seconds;
  }

  static async start(folder: string, seconds: number): Promise<SegmentsBench> {
    mkdirSync(folder, { recursive: true });
    const nats = await startNatsCluster(3, { maxPayload: NATS_MAX_PAYLOAD });
    const [corePort] = (await freePorts(1)) as [number];
    const monitoringUrl = nats.servers.map((server) => server.monitoringUrl).join(",");
    const core = coreProcess(
      folder,
      corePort,
      { url: nats.url, monitoringUrl },
      { flags: ["--set", "nats.replicas=3", "--set", `core.containers=${CONTAINERS}`], env: { TRIBUTARY_PHASES: "0" } },
    );
    try {
      await core.start();
    } catch (error) {
      await nats.stop();
      throw error;
    }
    return new SegmentsBench(nats, core, seconds);
  }

  async stop(): Promise<void> {
    await this.#core.stop();
    await this.#nats.stop();
  }

  async run(only: string): Promise<void> {
    if (only !== "segments") await this.#efficiency();
    if (only === "efficiency") return;
    const offered: number[] = [];
    for (const writers of WRITERS) offered.push(await this.#segments(writers));
    if (only === "segments") return;
    for (const rate of offered) await this.#peers(rate);
  }

  /** Resolves with the load that was offered. */
  async #segments(writers: (typeof WRITERS)[number]): Promise<number> {
    console.log(`${writers} writers, as fast as the answers come:`);
    console.log(HEAD);
    let saturation = 0;
    for (const segments of SEGMENTS) {
      const result = await this.#write(segments, writers, 0);
      if (segments === 10) saturation = result.eventsAckedPerSecond;
      console.log(this.#row(`${segments} segments`, result));
    }
    const offered = Math.round(saturation * OFFERED_SHARE);
    console.log(`\n${writers} writers, ${offered} events/s offered (${OFFERED_SHARE} of what 10 segments saturate at):`);
    console.log(HEAD);
    const shares: number[] = [];
    for (let round = 0; round < COMPARED_ROUNDS; round++) {
      let few = 0;
      let share = 0;
      for (const segments of round === 0 ? SEGMENTS : COMPARED) {
        const result = await this.#write(segments, writers, offered);
        if (segments === 10) few = result.eventsAckedPerSecond;
        share = result.eventsAckedPerSecond / few;
        console.log(this.#row(`${segments} segments`, result) + (segments > 10 ? `  ${share.toFixed(3)} of 10 segments` : ""));
      }
      shares.push(share);
    }
    const median = shares.sort((a, b) => a - b)[COMPARED_ROUNDS >> 1];
    console.log(`${COMPARED[1]} segments: ${median?.toFixed(3)} of ${COMPARED[0]} segments, the median of ${COMPARED_ROUNDS} rounds\n`);
    return offered;
  }

  /** Each on servers of its own: thousands of streams are not gone when they are deleted. */
  async #peers(rate: number): Promise<void> {
    console.log(`JetStream alone, a message an event, ${rate} events/s offered:`);
    console.log(HEAD);
    for (const streams of SEGMENTS) {
      const nats = await startNatsCluster(3, { maxPayload: NATS_MAX_PAYLOAD });
      try {
        const flags = ["--streams", `${streams}`, "--rate", `${rate}`, "--bytes", `${EVENT_BYTES}`];
        console.log(this.#row(`${streams} JetStream streams`, await this.#load("jetstream", flags, nats.url)));
      } catch (error) {
        console.log(`${streams} JetStream streams: ${(error as { stderr?: string }).stderr?.match(/Error: (.*)/)?.[1] ?? error}`);
      } finally {
        await nats.stop();
      }
    }
    console.log("");
  }

  /** Bytes a second through the write-ahead log against bare publishes of messages as large as its frames. */
  async #efficiency(): Promise<void> {
    console.log("append throughput at R3 with sync always, and a bare publisher of the same frames, in turns:");
    let [own, bare, events] = [0, 0, 0];
    for (let round = 0; round < EFFICIENCY_ROUNDS; round++) {
      const watch = this.#watchFrames();
      const result = await this.#write(10, 10, 0);
      const frames = await watch();
      const published = await this.#load("jetstream", [
        ...["--streams", `${CONTAINERS}`, "--window", `${CONTAINERS * WINDOW_FRAMES}`, "--bytes", `${frames.meanBytes}`],
      ]);
      own += (result.eventsAckedPerSecond * EVENT_BYTES) / 1e6;
      bare += (published.eventsAckedPerSecond * frames.meanBytes) / 1e6;
      events += result.eventsAckedPerSecond;
      console.log(
        `  Tributary ${((result.eventsAckedPerSecond * EVENT_BYTES) / 1e6).toFixed(1)} MB/s of events in frames of ${frames.meanBytes} bytes; bare ${((published.eventsAckedPerSecond * frames.meanBytes) / 1e6).toFixed(1)} MB/s`,
      );
    }
    console.log(`  ratio ${(own / bare).toFixed(2)}; ${Math.round(events / EFFICIENCY_ROUNDS)} events/s of ${EVENT_BYTES} bytes`);
    console.log("the containers alone, blocks handed to them in the publisher's own process:");
    [own, bare] = [0, 0];
    for (let round = 0; round < EFFICIENCY_ROUNDS; round++) {
      const script = fileURLToPath(new URL("./load/wal-load.ts", import.meta.url));
      const { stdout } = await promisify(execFile)(process.execPath, [script, "--nats", this.#nats.url, "--containers", `${CONTAINERS}`]);
      const result = JSON.parse(stdout) as WalLoadResult;
      own += result.containersMBPerSecond;
      bare += result.bareMBPerSecond;
      console.log(
        `  ${result.containersMBPerSecond.toFixed(1)} MB/s (${result.eventsPerSecond} events/s), ${result.frames} frames of ${result.meanFrameBytes} bytes; bare ${result.bareMBPerSecond.toFixed(1)} MB/s`,
      );
    }
    console.log(`  ratio ${(own / bare).toFixed(2)}\n`);
  }

  /** Looks at the logs while a case runs; resolves with the mean size of their records. */
  #watchFrames(): () => Promise<{ meanBytes: number }> {
    let [messages, bytes] = [0, 0];
    let ended = false;
    const url = this.#nats.servers[0]?.monitoringUrl;
    const watching = (async () => {
      while (!ended) {
        await new Promise((resolve) => setTimeout(resolve, 250));
        const info = (await (await fetch(`${url}/jsz?streams=true`)).json()) as JetStreamInfo;
        for (const account of info.account_details ?? []) {
          for (const { name, state } of account.stream_detail ?? []) {
            if (!name.includes("-wal-")) continue;
            messages += state.messages;
            bytes += state.bytes;
          }
        }
      }
    })();
    return async () => {
      ended = true;
      await watching;
      return { meanBytes: Math.max(1, Math.round(bytes / Math.max(1, messages))) };
    };
  }

  #write(segments: number, writers: (typeof WRITERS)[number], rate: number): Promise<LoadResult> {
    // Over ten streams, so that all containers have work.
    const streams = Math.min(segments, 10);
    const shape = ["--streams", `${streams}`, "--segments", `${segments / streams}`, "--writers", `${writers}`];
    const flags = ["--rate", `${rate}`, "--bytes", `${EVENT_BYTES}`, "--warmup", `${WARMUP_SECONDS[writers]}`];
    return this.#load("writer", [...shape, ...flags]);
  }

  async #load(kind: "writer" | "jetstream", flags: readonly string[], url: string = this.#nats.url): Promise<LoadResult> {
    const script = fileURLToPath(new URL(`./load/${kind}-load.ts`, import.meta.url));
    const args = [script, "--nats", url, "--seconds", `${this.#seconds}`, ...flags];
    const { stdout } = await promisify(execFile)(process.execPath, args, { maxBuffer: 16 * 1024 * 1024 });
    return JSON.parse(stdout) as LoadResult;
  }

  #row(name: string, result: LoadResult): string {
    const refused = Object.entries(result.refusals).map(([why, count]) => ` (${count}: ${why})`);
    return (
      row([
        name,
        `${result.eventsAckedPerSecond}`,
        ((result.eventsAckedPerSecond * EVENT_BYTES) / 1e6).toFixed(1),
        result.latencyMs.p50.toFixed(1),
        result.latencyMs.p99.toFixed(1),
        result.kind === "writer" ? `${residentMiB(this.#core.pid)}` : "-",
        result.cpuShare.toFixed(2),
      ]) + refused.join("")
    );
  }
}

interface JetStreamInfo {
  readonly account_details?: readonly {
    readonly stream_detail?: readonly { readonly name: string; readonly state: { readonly messages: number; readonly bytes: number } }[];
  }[];
}

const COLUMNS = [48, 10, 8, 9, 10, 9, 8] as const;
const row = (cells: readonly string[]) =>
  cells.map((cell, i) => (i === 0 ? cell.padEnd(COLUMNS[0]) : cell.padStart(COLUMNS[i] ?? 10))).join(" ");
const HEAD = row(["", "events/s", "MB/s", "p50 ms", "p99 ms", "core MiB", "gen CPU"]);
