import type { SharedOptions } from "@tributary/core/core";
import type { Dice } from "./dice.ts";
import type { BusBehaviour } from "./ports/sim-bus.ts";
import type { LogBehaviour } from "./ports/sim-log.ts";
import type { MetaBehaviour } from "./ports/sim-meta-store.ts";
import type { ObjectBehaviour } from "./ports/sim-object-store.ts";

export interface StreamShape {
  readonly scope: string;
  readonly stream: string;
  readonly segments: number;
  /** undefined: bytes. */
  readonly contentType?: string;
}

/** What clients do beside appending and reading. A seed has some of these, none has all. */
export interface Habits {
  /** Gateways create one name with different content types and segments. */
  readonly conflicts: boolean;
  /** The core is away until then: gateways create their streams alone. */
  readonly coreLateMs: number;
  readonly deletesAtCore: boolean;
  readonly deletesAtGateways: boolean;
  /** Streams are created, written in turn, closed and tried again, at gateways and at the core. */
  readonly closes: boolean;
  /** A stream that gateways write is closed at the core. */
  readonly closesShared: boolean;
  /** Producers are followed by ones of a higher epoch, and do not notice. */
  readonly fences: boolean;
}

export interface GatewayShape {
  readonly name: string;
  readonly streams: readonly StreamShape[];
  readonly freeAt: "committed" | "tiered";
  readonly quota: { readonly diskBytesMax: number; readonly whenFull: "reject" | "drop-oldest" };
  readonly producers: number;
  readonly plainCallers: number;
  readonly qos1Clients: number;
  readonly qos2Clients: number;
}

/** The nodes of the core. */
export interface ClusterShape {
  /** When each is started first. */
  readonly startMs: readonly number[];
  /** undefined: one node that has its MetaStore for itself, as without NATS. */
  readonly shared: SharedOptions | undefined;
  /** More containers while all goes on. */
  readonly raise: { readonly atMs: number; readonly to: number } | undefined;
}

/** Everything about a world that its seed decides before it begins. */
export interface Shape {
  readonly activeMs: number;
  readonly habits: Habits;
  readonly gateways: readonly GatewayShape[];
  /** In the beginning. */
  readonly containers: number;
  readonly cluster: ClusterShape;
  readonly coreProducers: number;
  readonly readersPerStream: number;
  readonly container: {
    readonly flushBytes: number;
    readonly flushIntervalMs: number;
    readonly truncateBytes: number;
    readonly truncateIntervalMs: number;
    readonly checkpointObjectsMax: number;
    readonly frameBytesTarget: number;
    readonly windowFrames: number;
    readonly blockCacheBytesMax: number;
    readonly chunkCacheBytesMax: number;
    readonly unflushedBytesMax: number;
    readonly holdMsMax: number;
  };
  readonly edgeCheckpointBytes: number;
  readonly opIntervalMs: number;
  readonly eventsPerOp: number;
  readonly eventBytesMax: number;
  /** Scales the probabilities of all faults of ports. */
  readonly faultRate: number;
  readonly edgeLog: LogBehaviour;
  readonly wal: LogBehaviour;
  readonly meta: MetaBehaviour;
  readonly bus: BusBehaviour;
  readonly objects: ObjectBehaviour;
}

export function shapeOf(dice: Dice): Shape {
  const gatewayCount = dice.pick("gateways", [2, 2, 2, 3]);
  const shared: StreamShape[] = [
    { scope: "plant", stream: "shared", segments: dice.pick("segments of shared", [1, 2, 4]) },
    { scope: "plant", stream: "second", segments: dice.pick("segments of second", [1, 1, 3]) },
  ];
  const habits = habitsOf(dice);
  const whenFull = dice.pick("quota policy", ["none", "none", "none", "none", "reject", "drop-oldest"] as const);
  const gateways = Array.from({ length: gatewayCount }, (_, i): GatewayShape => {
    const name = `gw${i}`;
    return {
      name,
      streams: [
        ...(habits.conflicts ? shared.map((stream) => inItsOwnWay(dice, name, stream)) : shared),
        { scope: "plant", stream: `own-${name}`, segments: dice.pick(`segments of ${name}`, [1, 2]) },
      ],
      freeAt: dice.pick(`freeAt of ${name}`, ["tiered", "tiered", "tiered", "committed"] as const),
      quota:
        whenFull === "none"
          ? { diskBytesMax: 1e9, whenFull: "reject" }
          : { diskBytesMax: dice.integer(`quota of ${name}`, 60_000, 160_000), whenFull },
      producers: dice.integer(`producers of ${name}`, 1, 2),
      plainCallers: 1,
      qos1Clients: 1,
      qos2Clients: dice.integer(`qos2 of ${name}`, 1, 2),
    };
  });
  const activeMs = dice.integer("active", 16_000, 32_000);
  const containers = dice.pick("containers", [1, 2, 3, 4]);
  return {
    activeMs,
    habits,
    gateways,
    containers,
    cluster: clusterOf(dice, activeMs, containers),
    coreProducers: 1,
    readersPerStream: 1,
    container: {
      flushBytes: dice.pick("flush bytes", [4_000, 16_000, 60_000]),
      flushIntervalMs: dice.pick("flush interval", [200, 800, 2_000]),
      truncateBytes: dice.pick("truncate bytes", [0, 0, 40_000]),
      truncateIntervalMs: dice.pick("truncate interval", [500, 3_000]),
      checkpointObjectsMax: dice.pick("checkpoint objects", [2, 4, 8]),
      frameBytesTarget: dice.pick("frame bytes", [2_000, 16_000]),
      windowFrames: dice.pick("window", [1, 4, 4]),
      blockCacheBytesMax: dice.pick("block cache", [20_000, 2_000_000, 2_000_000, 2_000_000]),
      chunkCacheBytesMax: dice.pick("chunk cache", [20_000, 2_000_000, 2_000_000, 2_000_000]),
      unflushedBytesMax: dice.pick("unflushed bytes", [20_000, 80_000, 60_000_000, 60_000_000, 60_000_000]),
      holdMsMax: dice.pick("hold", [300, 3_000]),
    },
    edgeCheckpointBytes: dice.pick("edge checkpoint", [8_000, 30_000, 80_000]),
    opIntervalMs: dice.pick("op interval", [150, 250]),
    eventsPerOp: dice.pick("events per op", [18, 32]),
    eventBytesMax: dice.pick("event bytes", [20, 60, 200]),
    faultRate: dice.pick("fault rate", [0.3, 1, 1, 2]),
    edgeLog: {
      appendMs: [1, 8],
      readMs: [0.1, 1],
      slow: 0.01,
      slowMs: [50, 800],
      unknownLanded: 0.002,
      unknownLost: 0.002,
      unknownLate: 0,
      lateMs: [0, 0],
      readFlip: 0,
      otherFailure: 0.001,
      local: true,
    },
    wal: {
      appendMs: [2, 12],
      readMs: [1, 6],
      slow: 0.02,
      slowMs: [100, 6_000],
      unknownLanded: 0.006,
      unknownLost: 0.006,
      unknownLate: 0.008,
      lateMs: [1, 8_000],
      readFlip: 0.002,
      otherFailure: 0.01,
      local: false,
    },
    meta: {
      callMs: [1, 8],
      slow: 0.01,
      slowMs: [50, 1_500],
      stale: 0.1,
      staleMs: [10, 4_000],
      unknownLanded: 0.02,
      unknownLost: 0.02,
      unknownLate: 0.02,
      lateMs: [5, 4_000],
      unreachable: 0.01,
      watchBreaks: 0.02,
      watchForgotten: 0.3,
    },
    bus: {
      hopMs: [0.2, 4],
      lostRequest: 0.005,
      lostAnswer: 0.005,
      delayed: 0.02,
      delayMs: [20, 3_000],
      doubled: 0.02,
      lostMessage: 0.1,
      noticeMs: [5, 1_500],
    },
    objects: {
      putMs: [5, 50],
      getMs: [1, 15],
      slow: 0.02,
      slowMs: [100, 3_000],
      unknownLanded: 0.02,
      unknownLost: 0.02,
      unknownLate: 0.02,
      lateMs: [10, 4_000],
      unreachable: 0.02,
      putDamages: 0.01,
      getFlips: 0.004,
    },
  };
}

function clusterOf(dice: Dice, activeMs: number, containers: number): ClusterShape {
  const nodes = dice.pick("core nodes", [1, 2, 2, 2, 3, 3]);
  const leaseMs = dice.pick("lease", [900, 1_500, 2_000]);
  return {
    // Mostly all begin at once; else one joins late.
    startMs: Array.from({ length: nodes }, (_, i) =>
      i > 0 && dice.float(`core${i} late`) < 0.3 ? dice.between(`core${i} at`, 500, activeMs * 0.8) : i,
    ),
    shared:
      nodes === 1 && dice.float("alone") < 0.7
        ? undefined
        : { version: "0", leaseMs, handoverMs: leaseMs * dice.pick("handover", [3, 4]), drainMs: dice.pick("drain", [500, 3_000]) },
    raise:
      dice.float("raise") < 0.3
        ? { atMs: dice.between("raise at", 2_000, activeMs * 0.8), to: containers + dice.integer("raise by", 1, 3) }
        : undefined,
  };
}

function habitsOf(dice: Dice): Habits {
  const has = (habit: string, share: number) => dice.float(`habit ${habit}`) < share;
  return {
    conflicts: has("conflicts", 0.2),
    coreLateMs: has("core late", 0.15) ? dice.between("core late ms", 500, 8_000) : 0,
    deletesAtCore: has("deletes at core", 0.2),
    deletesAtGateways: has("deletes at gateways", 0.2),
    closes: has("closes", 0.25),
    closesShared: has("closes shared", 0.08),
    fences: has("fences", 0.25),
  };
}

function inItsOwnWay(dice: Dice, gateway: string, stream: StreamShape): StreamShape {
  const site = `${gateway} ${stream.stream}`;
  const contentType = dice.pick(`content type of ${site}`, [undefined, undefined, "text/plain"]);
  return { ...stream, segments: dice.pick(`own segments of ${site}`, [1, 2, 3]), ...(contentType ? { contentType } : {}) };
}
