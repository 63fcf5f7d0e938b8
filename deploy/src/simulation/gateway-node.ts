import { toTributaryError } from "@tributary/common/errors";
import { type Gateway, openGateway } from "@tributary/edge/gateway/gateway";
import { createEdgeStore } from "@tributary/edge/store/log-edge-store";
import { SimBus } from "./ports/sim-bus.ts";
import { type LogStore, SimLog } from "./ports/sim-log.ts";
import type { SimProcess } from "./process.ts";
import type { GatewayShape } from "./shape.ts";
import type { SimWorld, Target } from "./sim-world.ts";

const RESERVE_BYTES = 20_000;
const RETRY_MS = 1_000;

/** A gateway's machine: its disk, and the process that runs on it now, if any. */
export class GatewayNode {
  readonly name: string;
  readonly shape: GatewayShape;
  disk: LogStore;
  process: SimProcess | undefined;
  gateway: Gateway | undefined;
  bus: SimBus | undefined;
  /** MQTT connections by client: a newer one ends the one before. */
  readonly connections: Map<string, object> = new Map();
  /** It was taken out of service for good. */
  retired = false;
  /** Counts up where its ordinals may be given out anew: its disk was set back, or its log is opened after it was damaged. */
  lineage = 0;
  /** Something of its disk was damaged since its log was opened. */
  damaged = false;
  readonly #world: SimWorld;
  #reserved = true;
  #diskBytesMax = Number.POSITIVE_INFINITY;

  constructor(world: SimWorld, shape: GatewayShape, disk: LogStore) {
    this.#world = world;
    this.shape = shape;
    this.name = shape.name;
    this.disk = disk;
    this.#watch();
  }

  get target(): Target<Gateway> {
    return { process: this.process, service: this.gateway };
  }

  /** Puts another disk in. */
  replaceDisk(disk: LogStore): void {
    this.disk = disk;
    this.lineage++;
    this.#watch();
    this.#fit();
  }

  limitDisk(bytesMax: number): void {
    this.#diskBytesMax = bytesMax;
    this.#fit();
  }

  start(): void {
    if (this.process?.alive || this.retired) return;
    const world = this.#world;
    const process = world.spawn(this.name);
    this.process = process;
    this.gateway = undefined;
    this.connections.clear();
    const bus = new SimBus(world.network, process);
    this.bus = bus;
    const { disk } = this;
    const store = createEdgeStore({
      log: () => this.#openLog(disk, process),
      random: process.random,
      clock: process.clock,
      checkpointBytesMin: world.shape.edgeCheckpointBytes,
      reserve: {
        release: () => {
          if (!this.#reserved) return false;
          this.#reserved = false;
          this.#fit();
          return true;
        },
        restore: () => {
          if (this.#reserved || disk.bytes + RESERVE_BYTES > this.#diskBytesMax) return;
          this.#reserved = true;
          this.#fit();
        },
      },
      quarantine: (seq) => `quarantine/${seq}`,
    });
    const { freeAt, quota } = this.shape;
    world.trace(this.name, "starts");
    openGateway({
      store,
      bus,
      cluster: "sim",
      clock: process.clock,
      random: process.random,
      log: world.loggerOf(process),
      phases: world.phasesOf(process, () => this.crash("in a phase")),
      options: {
        name: this.name,
        version: "0",
        quota,
        lingerMsMax: 10,
        streamsMax: 1_000,
        uplink: { freeAt, requestTimeoutMs: 2_000, unitsMax: 64, bytesMax: 400_000 },
      },
    }).then(
      (gateway) => {
        if (!process.alive) return;
        this.gateway = gateway;
        const { writer, incarnation, recovery } = gateway.status();
        world.trace(
          this.name,
          `serves: writer ${writer.slice(0, 8)}, incarnation ${incarnation}, quarantined ${recovery.recordsQuarantined}`,
        );
      },
      (error: unknown) => {
        if (!process.alive) return;
        const { code, message } = toTributaryError(error);
        world.trace(this.name, `does not start: ${code} ${message}`);
        if (code === "INTERNAL") world.defect(this.name, error);
        this.crash("did not start");
      },
    );
  }

  /** The power goes. A watchdog starts it again. */
  crash(why: string, downMs: number = RETRY_MS): void {
    if (!this.process?.alive) return;
    this.#world.trace(this.name, `dies (${why})`);
    this.process.kill();
    this.gateway = undefined;
    this.#world.scheduler.schedule(downMs, undefined, () => this.start());
  }

  /** Is told to stop, and started again. */
  restart(): void {
    const { gateway, process } = this;
    if (!gateway || !process?.alive) return;
    this.#world.trace(this.name, "is told to stop");
    this.gateway = undefined;
    gateway.close().then(
      () => {
        if (process.alive) this.crash("stopped", 100);
      },
      (error: unknown) => {
        if (process.alive) this.#world.defect(this.name, error);
      },
    );
  }

  /** An engine that meets damage while it reads gives the record up when it is opened again. */
  async #openLog(disk: LogStore, process: SimProcess) {
    const { dice } = this.#world;
    return process.call(dice.between(`${disk.name} open`, 1, 20), 0, () => {
      if (this.damaged) this.lineage++;
      this.damaged = false;
      const recordsQuarantined = disk.unreadable.size;
      for (const seq of [...disk.unreadable]) disk.remove(seq);
      const log = new SimLog(disk, process, this.#world, this.#world.shape.edgeLog);
      return { value: { log, report: { recordsQuarantined, quarantinePath: recordsQuarantined > 0 ? "quarantine" : "" } } };
    });
  }

  #fit(): void {
    this.disk.bytesMax = this.#diskBytesMax - (this.#reserved && this.#diskBytesMax < Number.POSITIVE_INFINITY ? RESERVE_BYTES : 0);
  }

  /** Invariant 8: what goes from the disk is safe at the level asked for, or given up by its own log. */
  #watch(): void {
    const { observer, name } = this.disk;
    const { lake, ledger, logs } = this.#world;
    const safe = this.shape.freeAt === "tiered" ? lake.tiered : lake.committed;
    observer.landed = (seq, data) => logs.landed(name, seq, data);
    observer.damaged = (seq) => logs.damaged(name, seq, true);
    observer.truncating = (_, throughSeq) =>
      logs.freeing(name, throughSeq, this.#world.nowMs, ({ id, record }) => {
        const submission = ledger.submissions[id];
        return safe.has(id) || (submission !== undefined && this.#world.isExcused(submission, record.heldBy));
      });
  }
}
