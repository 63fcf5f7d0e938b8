import { checkReads } from "./checker.ts";
import { readEverything } from "./clients/reader.ts";
import type { FaultRecord } from "./faults.ts";
import type { Ledger, Violation } from "./ledger.ts";
import { planFaults } from "./nemesis.ts";
import { World, type WorldOptions } from "./world.ts";

export interface SeedResult {
  readonly seed: number;
  readonly violations: readonly Violation[];
  readonly faults: readonly FaultRecord[];
  readonly events: number;
  readonly acknowledged: number;
  readonly steps: number;
  readonly virtualMs: number;
  readonly activeMs: number;
  readonly traceHash: number;
  readonly clients: readonly string[];
  readonly frames: number;
  readonly voidFrames: number;
  /** What became of the events that violations name. */
  readonly histories: readonly string[];
}

const REST_MS_MAX = 180_000;
const POLL_MS = 500;
/** What is not damaged comes to rest meanwhile. */
const HOPE_MS = 20_000;
/** Readers that follow streams have read them to their ends meanwhile. */
const TAILS_MS = 10_000;

/** A story from its seed to its judgement. */
export async function runSeed(options: WorldOptions): Promise<SeedResult> {
  const world = new World(options);
  const onRejection = (error: unknown) => world.defect("unhandled rejection", error);
  process.on("unhandledRejection", onRejection);
  try {
    await live(world);
    // Rejections that nobody handled are told on the next turn of the loop.
    await new Promise<void>((resolve) => setImmediate(resolve));
  } finally {
    world.end();
    process.off("unhandledRejection", onRejection);
  }
  return {
    seed: options.seed,
    violations: world.ledger.violations,
    faults: world.faults.happened,
    events: world.ledger.submissions.length,
    acknowledged: world.ledger.submissions.filter((submission) => submission.ackMs !== undefined).length,
    steps: world.scheduler.steps,
    virtualMs: world.nowMs,
    activeMs: world.shape.activeMs,
    traceHash: world.traceHash,
    clients: world.clients,
    frames: world.lake.frames,
    voidFrames: world.lake.voidFrames,
    histories: historiesOf(world.ledger),
  };
}

const HISTORIES_MAX = 3;

function historiesOf({ violations, submissions }: Ledger): string[] {
  const named = new Set(violations.flatMap(({ detail }) => [...detail.matchAll(/event (\d+)/g)].map((match) => Number(match[1]))));
  return [...named].slice(0, HISTORIES_MAX).flatMap((id) => {
    const submission = submissions[id];
    if (!submission) return [];
    const { client, writer, stream, key, promise, firstMs, lastMs, attempts, ackMs, ackSeq, fromSeq } = submission;
    const seconds = (ms: number) => `${(ms / 1000).toFixed(4)} s`;
    const sent = attempts > 1 ? `sent ${attempts} times, ${seconds(firstMs)} to ${seconds(lastMs)}` : `sent at ${seconds(firstMs)}`;
    const answered = ackMs === undefined ? "never acknowledged" : `acknowledged at ${seconds(ackMs)}, ${writer} then at record ${ackSeq}`;
    return [`event ${id} of ${client} (${promise}) to ${stream}, key ${key}: ${sent}, ${writer} then at record ${fromSeq}; ${answered}`];
  });
}

async function live(world: World): Promise<void> {
  const { scheduler, shape, options } = world;
  planFaults(world);
  world.begin();
  const activeMs = shape.activeMs * (options.activeShare ?? 1);
  await scheduler.runUntil(activeMs);
  world.working = false;
  await scheduler.runUntil(shape.activeMs);
  world.trace("world", "heals");
  world.heal();
  const deadlineMs = scheduler.nowMs + REST_MS_MAX;
  if (world.damaged.size > 0) {
    await scheduler.runUntil(scheduler.nowMs + HOPE_MS);
    world.hopeless = world.outOfService.length > 0;
  }
  while (!world.atRest && scheduler.nowMs < deadlineMs) await scheduler.runUntil(scheduler.nowMs + POLL_MS);
  if (!world.atRest) {
    world.ledger.violate(0, "no rest", `${REST_MS_MAX / 1000} s after everything was mended: ${world.unrest().join("; ")}`);
  }
  if (world.hopeless) world.isolateGateways();
  await judge(world, "final reader");
  // Once more from WAL and lake alone: nothing may hang on what the last process remembered.
  world.trace("world", "starts the core once more");
  for (const node of world.cores.members) node.crash("to be read anew", 10);
  await scheduler.runUntil(scheduler.nowMs + 60_000, () => world.cores.allServe);
  await judge(world, "second reader");
  world.lake.judgeEnd((container) => world.damaged.has(container));
  if (!world.wentBack) return;
  await scheduler.runUntil(scheduler.nowMs + TAILS_MS);
  world.judgeTails();
}

async function judge(world: World, name: string): Promise<void> {
  const reader = world.spawn(name);
  const beganMs = world.nowMs;
  const before = new Map(Array.from(world.lake.currentStreams(), (id) => [id, world.lake.countOf(id)]));
  let ended = false;
  const reading = readEverything(world, reader, world.cores.service(name)).then(
    ({ reads, unreadable }) => {
      world.unreadable = unreadable;
      checkReads(reads, {
        ledger: world.ledger,
        beganMs,
        countOf: (streamId) => world.lake.countOf(streamId),
        countBefore: (streamId) => before.get(streamId) ?? 0,
        isCurrent: (streamId, record) => world.lake.isCurrent(streamId, record),
        logs: world.logs,
        excuse: (submission) => world.excuseOf(submission),
        mayBeTaken: (submission) => world.mayBeTaken(submission),
        wasDeleted: (id) => world.fates.wasDeleted(id),
        wasClosed: (id, streamId) => world.fates.wasClosed(id, streamId),
        cameAgainMs: (id, streamId) => world.fates.cameAgainMs(id, streamId),
        hasEnded: (streamId) => world.fates.isDeleted(streamId) || world.fates.isClosed(streamId),
        branched: world.branched,
        holdersOf: (id) => world.fates.holdersOf(id),
        declaredIn: (copy) => world.declaredIn(copy),
        isUnreadable: (streamId) => unreadable.has(streamId),
      });
      world.fates.judgeEnd(reads.map(({ info }) => info));
      world.judgeStreams(new Set([...reads.map(({ info }) => info.id), ...unreadable.keys()]));
    },
    (error: unknown) => world.ledger.violate(1, "unreadable", `the core's streams cannot be read: ${error}`),
  );
  void reading.finally(() => {
    ended = true;
  });
  await world.scheduler.runUntil(world.nowMs + 120_000, () => ended);
  if (!ended) world.ledger.violate(1, "unreadable", "the core's streams cannot be read in time");
}
