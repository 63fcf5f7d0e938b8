import { toTributaryError } from "@tributary/common/errors";
import type { Log } from "@tributary/common/ports/log";
import { createContainer } from "@tributary/core/container/create-container";
import { generationOf } from "@tributary/core/container/generation";
import { type Core, openCore } from "@tributary/core/core";
import { SimBus } from "./ports/sim-bus.ts";
import { SimLog } from "./ports/sim-log.ts";
import { SimMetaStore } from "./ports/sim-meta-store.ts";
import { SimObjectStore } from "./ports/sim-object-store.ts";
import { createWire, type SimProcess, type Wire } from "./process.ts";
import type { SimWorld } from "./sim-world.ts";

const RETRY_MS = 1_000;

/** What the other side of a connection is. */
export type WireName = "bus" | "meta" | "wal";

/** A node of the core. It keeps nothing of its own. */
export class CoreNode {
  readonly name: string;
  process: SimProcess | undefined;
  /** What clients reach. */
  core: Core | undefined;
  /** Goes on while it stops. */
  running: Core | undefined;
  bus: SimBus | undefined;
  retired = false;
  #wires: Readonly<Record<WireName, Wire>> | undefined;
  readonly #world: SimWorld;

  constructor(world: SimWorld, name: string) {
    this.#world = world;
    this.name = name;
  }

  get url(): string {
    return `http://${this.name}`;
  }

  wire(name: WireName): Wire | undefined {
    return this.#wires?.[name];
  }

  start(): void {
    if (this.process?.alive || this.retired) return;
    const world = this.#world;
    const { shape } = world;
    // Clocks are off by less than a lease's margin allows for.
    const process = world.spawn(this.name, world.dice.between(`clock of ${this.name}`, 0.96, 1.04));
    this.process = process;
    this.core = this.running = undefined;
    const bus = new SimBus(world.network, process);
    const meta = new SimMetaStore(world.meta, process, world, shape.meta);
    const wires = { bus, meta: meta.wire, wal: createWire() };
    this.bus = bus;
    this.#wires = wires;
    const objects = new SimObjectStore(world.shelf, process, world, shape.objects);
    const logs = new Map<number, Log>();
    const logger = world.loggerOf(process);
    const phases = world.phasesOf(process, () => this.crash("in a phase"));
    world.trace(this.name, "starts");
    openCore({
      meta,
      bus,
      objects,
      clock: process.clock,
      random: process.random,
      logger,
      options: { cluster: "sim", name: this.name, containers: shape.containers, shared: shape.cluster.shared },
      async containerFactory(id, epoch) {
        await logs.get(id)?.close();
        const store = world.wals.open(id, generationOf(epoch));
        // An engine that met damage while it read gives the record up when it is opened again.
        for (const seq of [...store.unreadable]) store.remove(seq);
        const log = new SimLog(store, process, world, shape.wal, wires.wal);
        logs.set(id, log);
        return createContainer({
          id,
          epoch,
          log,
          objects,
          clock: process.clock,
          random: process.random,
          phases,
          logger,
          options: { ...shape.container, appendTimeoutMs: 3_000 },
        });
      },
    }).then(
      (core) => {
        if (!process.alive) return;
        core.announce(this.url);
        this.core = this.running = core;
        world.trace(this.name, `serves as ${core.status().node}`);
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

  crash(why: string, downMs: number = RETRY_MS): void {
    if (!this.process?.alive) return;
    this.#world.trace(this.name, `dies (${why})`);
    this.process.kill();
    this.core = this.running = undefined;
    this.#world.scheduler.schedule(downMs, undefined, () => this.start());
  }

  retire(): void {
    this.retired = true;
    this.crash("for good");
  }

  restart(): void {
    const { core, process } = this;
    if (!core || !process?.alive) return;
    this.#world.trace(this.name, "is told to stop");
    this.core = undefined;
    core.close().then(
      () => {
        if (process.alive) this.crash("stopped", 100);
      },
      (error: unknown) => {
        if (process.alive) this.#world.defect(this.name, error);
      },
    );
  }

  /** What is broken about it is mended. */
  heal(): void {
    this.process?.resume();
    for (const wire of Object.values(this.#wires ?? {})) wire.cut = "none";
    this.bus?.setConnected(true);
  }
}
