import { createMemoryBus } from "@tributary/common/engines/memory-bus";
import type { Logger } from "@tributary/common/logger";
import type { StreamName } from "@tributary/common/names";
import type { Bus } from "@tributary/common/ports/bus";
import type { Random } from "@tributary/common/random";
import { ManualClock } from "@tributary/common/testing/manual-clock";
import { expect } from "vitest";
import { type Gateway, openGateway } from "../../gateway/gateway.ts";
import type { AckTarget, Admission } from "../../gateway/ingest.ts";
import { HeldEdgeStore } from "../../gateway/testing/held-edge-store.ts";
import { seededRandom } from "../../store/testing/gateway-model.ts";
import type { UplinkOptions } from "../options.ts";
import type { UplinkStatus } from "../uplink.ts";
import { FaultyBus } from "./faulty-bus.ts";
import { ModelCore } from "./model-core.ts";

const CLUSTER = "main";
const BYTES = { contentType: "application/octet-stream", segments: 1, closed: false };
export const name = (stream: string): StreamName => ({ scope: "default", stream });

async function settle(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise<void>((resolve) => setImmediate(resolve));
}

export interface WorldOptions {
  readonly uplink?: Partial<UplinkOptions>;
  readonly seed?: number;
  readonly diskBytesMax?: number;
  readonly whenFull?: "reject" | "drop-oldest";
  /** The gateway runs from a copy of that one's disk, with the same core. */
  readonly cloneOf?: World;
}

/** A gateway on a disk in memory, a strict core, and a network between them. */
export class World {
  readonly clock: ManualClock;
  readonly random: Random;
  readonly core: ModelCore;
  /** Texts that were acknowledged, in order, by stream name. */
  readonly acked: Map<string, string[]> = new Map();
  store!: HeldEdgeStore;
  gateway!: Gateway;
  bus!: FaultyBus;
  readonly network: Bus;
  /** Codes of what the gateway warned of. */
  readonly warnings: string[] = [];
  readonly #options: WorldOptions;
  #put = 0;

  constructor(options: WorldOptions) {
    this.#options = options;
    const { cloneOf } = options;
    this.random = seededRandom(options.seed ?? (cloneOf ? 8 : 7));
    this.clock = cloneOf?.clock ?? new ManualClock();
    this.network = cloneOf?.network ?? createMemoryBus({ clock: this.clock });
    this.core = cloneOf?.core ?? new ModelCore(this.network, CLUSTER, 3);
  }

  /** Starts the gateway, on what the one before has left. */
  async start(): Promise<void> {
    const { uplink, diskBytesMax = 1e9, whenFull = "reject" } = this.#options;
    this.store = new HeldEdgeStore(this.clock, this.random, this.store?.disk ?? this.#options.cloneOf?.store.disk.copy());
    const warn: Logger["warn"] = (_message, fields) => this.warnings.push(String(fields?.["code"] ?? ""));
    this.bus = new FaultyBus(this.network, this.clock, this.random);
    this.gateway = await openGateway({
      store: this.store,
      bus: this.bus,
      cluster: CLUSTER,
      clock: this.clock,
      random: this.random,
      log: { debug: () => {}, info: () => {}, warn, error: () => {} },
      phases: { begin: () => {}, end: () => {} },
      options: {
        name: "gw",
        version: "1",
        quota: { diskBytesMax, whenFull },
        lingerMsMax: 5,
        streamsMax: 100,
        uplink: { freeAt: "tiered", ...uplink },
      },
    });
  }

  /** As with SIGKILL: nothing of it goes on, and its requests may still arrive. */
  async restart(): Promise<void> {
    const { faults } = this.bus;
    await this.store.kill();
    this.bus.setConnected(false);
    await this.start();
    this.bus.faults = faults;
  }

  get uplink(): UplinkStatus {
    const status = this.gateway.status().uplink;
    if (!status) throw new Error("this gateway has a core");
    return status;
  }

  async held(): Promise<number> {
    return (await this.store.usage().catch(() => undefined))?.eventsHeld ?? -1;
  }

  async step(ms = 10): Promise<void> {
    this.clock.advance(ms);
    await settle();
  }

  async until(condition: () => boolean | Promise<boolean>, ms = 50): Promise<void> {
    for (let i = 0; i < 2_000 && !(await condition()); i++) await this.step(ms);
    expect(await condition()).toBe(true);
  }

  put(stream: string, key = "k"): Admission {
    const { ingest } = this.gateway;
    // No stream can be created while the log is being reopened.
    if (ingest.stream(name(stream)) === undefined && this.gateway.status().trouble !== "") return "full";
    const handle = ingest.createStream(name(stream), BYTES);
    const text = `${stream} ${++this.#put}`;
    const source = new TextEncoder().encode(text);
    const target: AckTarget = {
      committed: () => {
        const texts = this.acked.get(stream) ?? [];
        texts.push(text);
        this.acked.set(stream, texts);
      },
      failed: () => {},
      flush: () => {},
    };
    return ingest.append(handle, key, 1, source, 0, source.length, target, 0);
  }

  idOf(stream: string): string {
    return this.gateway.ingest.stream(name(stream))?.id ?? "";
  }

  quarantineOf(stream: string): string {
    return this.core.streams.get(`default/${stream}.quarantine-${this.gateway.status().writer.slice(0, 8)}`)?.id ?? "";
  }
}
