import { TributaryError, toTributaryError } from "@tributary/common/errors";
import type { LogFields, Logger } from "@tributary/common/logger";
import type { StreamName } from "@tributary/common/names";
import type { Phase, PhaseListener } from "@tributary/common/phases";
import { decodeStreamRecord, STREAMS_PREFIX } from "@tributary/core/service/stream-record";
import { type Copy, EdgeLogs } from "../check/edge-logs.ts";
import { type Excuse, excuseOf } from "./checker.ts";
import type { Service, Workplace } from "./clients/client.ts";
import { startCloser, startEnder } from "./clients/closer.ts";
import { startDeleter } from "./clients/deleter.ts";
import { startHttpProducer, startPlainCaller } from "./clients/http-producer.ts";
import { startMqttClient } from "./clients/mqtt-client.ts";
import { startGatewayReader, startTailReader } from "./clients/reader.ts";
import { startSuccessor } from "./clients/successor.ts";
import { CoreGroup } from "./core-group.ts";
import { Dice, hashText } from "./dice.ts";
import { Faults } from "./faults.ts";
import { GatewayNode } from "./gateway-node.ts";
import { LakeWatch } from "./lake-watch.ts";
import { Ledger, type Submission } from "./ledger.ts";
import { BusNetwork } from "./ports/sim-bus.ts";
import { LogStore } from "./ports/sim-log.ts";
import { MetaState } from "./ports/sim-meta-store.ts";
import { ObjectShelf } from "./ports/sim-object-store.ts";
import { SimProcess } from "./process.ts";
import { Scheduler } from "./scheduler.ts";
import { type Shape, shapeOf } from "./shape.ts";
import type { SimWorld, Tail, Target } from "./sim-world.ts";
import { StreamFates, UNDER_WAY_MS_MAX } from "./stream-fates.ts";
import { WalShelf } from "./wal-shelf.ts";

export interface WorldOptions {
  readonly seed: number;
  /** Only these faults happen; undefined: whatever the seed says. */
  readonly allowedFaults?: ReadonlySet<string>;
  /** Only these clients act; undefined: all. */
  readonly allowedClients?: ReadonlySet<string>;
  /** The clients stop after this much of the active time. */
  readonly activeShare?: number;
  readonly onTrace?: (line: string) => void;
}

const PHASE_CRASH_PROBABILITY = 0.0015;

/** All that there is in a simulation. */
export class World implements SimWorld {
  readonly scheduler: Scheduler = new Scheduler((error) => this.defect("thrown out of a callback", error));
  readonly dice: Dice;
  readonly faults: Faults;
  readonly shape: Shape;
  readonly options: WorldOptions;
  readonly ledger: Ledger;
  readonly fates: StreamFates;
  readonly lake: LakeWatch;
  readonly logs: EdgeLogs;
  readonly network: BusNetwork;
  readonly meta: MetaState = new MetaState();
  readonly shelf: ObjectShelf = new ObjectShelf();
  readonly wals: WalShelf;
  readonly gateways: GatewayNode[] = [];
  readonly cores: CoreGroup;
  /** Clients go on beginning new things. */
  working = true;
  /** Containers of which something stored is damaged for good. */
  readonly damaged: Set<number> = new Set();
  hopeless = false;
  /** Streams that could not be read at the last try: the name of each id. */
  unreadable: ReadonlyMap<string, string> = new Map();
  readonly clientsBusy: Set<string> = new Set();
  readonly tails: Map<string, Tail> = new Map();
  readonly clients: string[] = [];
  traceHash = 0;
  traceLines = 0;
  #processes = 0;
  readonly #living = new Set<SimProcess>();

  constructor(options: WorldOptions) {
    this.options = options;
    this.dice = new Dice(options.seed);
    this.shape = shapeOf(this.dice);
    this.faults = new Faults(this.dice, () => this.nowMs, this.shape.faultRate, options.allowedFaults);
    this.ledger = new Ledger(() => this.nowMs);
    this.fates = new StreamFates(this.ledger, () => this.nowMs);
    this.lake = new LakeWatch(this.ledger);
    this.logs = new EdgeLogs(this.ledger.violate, (data) => this.ledger.identify(data));
    this.network = new BusNetwork(this, this.shape.bus);
    this.wals = new WalShelf(this.lake);
    this.lake.onOperation = (operation, frame) => this.fates.apply(operation, frame);
    this.lake.onEvent = (id, streamId, frame) => this.fates.hold(id, streamId, frame);
    this.shelf.onStored = (name, data) => this.lake.stored(name, data);
    this.shelf.onDeleted = (name) => this.lake.deleted(name);
    this.shelf.onRefused = (name) => this.lake.missing(name);
    for (const shape of this.shape.gateways) this.gateways.push(new GatewayNode(this, shape, new LogStore(`disk of ${shape.name}`)));
    this.cores = new CoreGroup(this);
    for (const _ of this.shape.cluster.startMs) this.cores.add();
  }

  get nowMs(): number {
    return this.scheduler.nowMs;
  }

  spawn(name: string, rate?: number): SimProcess {
    const process = new SimProcess(this.scheduler, name, this.dice.random(`process ${name} ${this.#processes++}`), rate);
    this.#living.add(process);
    process.onDeath(() => this.#living.delete(process));
    return process;
  }

  /** The story is over: what still lives lets go of what would keep it in memory. */
  end(): void {
    for (const process of [...this.#living]) process.kill();
  }

  trace(who: string, what: string): void {
    const line = `${(this.nowMs / 1000).toFixed(4).padStart(9)} ${who.padEnd(8)} ${what}`;
    this.traceHash = hashText(line, this.traceHash);
    this.traceLines++;
    this.options.onTrace?.(line);
  }

  allows(client: string): boolean {
    return this.options.allowedClients?.has(client) ?? true;
  }

  request<S, T>(client: SimProcess, target: () => Target<S>, timeoutMs: number, work: (service: S) => Promise<T>): Promise<T> {
    const site = `device ${client.name}`;
    const { dice, faults, scheduler } = this;
    return new Promise<T>((resolve, reject) => {
      const cancelTimer = client.clock.setTimer(timeoutMs, () => reject(new TributaryError("BUS_TIMEOUT", "no answer in time")));
      const settle = (how: () => void) => {
        if (faults.strikes("device answer lost", site, 0.004)) return;
        client.deliver(dice.between(`${site} back`, 0.2, 3), () => {
          cancelTimer();
          how();
        });
      };
      if (faults.strikes("device request lost", site, 0.004)) return;
      scheduler.schedule(dice.between(`${site} hop`, 0.2, 3), undefined, () => {
        const { process, service } = target();
        if (!process?.alive || service === undefined)
          return settle(() => reject(new TributaryError("SERVER_UNREACHABLE", "nobody listens")));
        process.deliver(0, () => {
          const working = async () => work(service);
          working().then(
            (value) => process.alive && settle(() => resolve(value)),
            (error: unknown) => {
              if (!process.alive) return;
              const known = toTributaryError(error);
              if (known.code === "INTERNAL") this.defect(process.name, error);
              settle(() => reject(known));
            },
          );
        });
      });
    });
  }

  /** Everything that acts begins. */
  begin(): void {
    const { habits, cluster } = this.shape;
    for (const [i, startMs] of cluster.startMs.entries()) {
      this.scheduler.schedule(habits.coreLateMs + startMs, undefined, () => this.cores.nodes[i]?.start());
    }
    this.cores.watchLeases();
    for (const node of [...this.gateways]) {
      node.start();
      this.populate(node);
    }
    const shared = this.shape.gateways[0]?.streams.slice(0, 2) ?? [];
    const core = (client: string): Service => this.cores.service(client);
    const at: Workplace = { writer: () => "core", lastSeq: () => 0, streams: shared };
    for (let i = 0; i < this.shape.coreProducers; i++) {
      this.#meet(`core-p${i}`, (name) => startHttpProducer(this, name, core(name), at));
    }
    this.#meet("core-h0", (name) => startPlainCaller(this, name, core(name), at));
    if (habits.closes) this.#meet("core-ends", (name) => startCloser(this, name, core(name), at));
    if (habits.fences) this.#meet("core-epochs", (name) => startSuccessor(this, name, core(name), at));
    if (habits.closesShared) this.#meet("core-end", (name) => startEnder(this, name, core(name), at));
    if (habits.deletesAtCore) this.#meet("core-deletes", (name) => startDeleter(this, name, core(name), at));
    const streams = new Map(this.shape.gateways.flatMap((node) => node.streams).map((stream) => [stream.stream, stream]));
    for (const stream of streams.values()) {
      for (let i = 0; i < this.shape.readersPerStream; i++) {
        this.#meet(`tail${i}-${stream.stream}`, (name) => startTailReader(this, name, core(name), stream, "committed"));
      }
    }
    const tiered = this.dice.pick("stream of tail-tiered", [...streams.values()]);
    if (tiered) this.#meet("tail-tiered", (name) => startTailReader(this, name, core(name), tiered, "tiered"));
  }

  /** Clients of one gateway. */
  populate(node: GatewayNode): void {
    const { shape } = node;
    const at: Workplace = { writer: () => node.disk.name, lastSeq: () => node.disk.last, streams: shape.streams };
    const service: Service = () => ({ process: node.process, service: node.gateway?.streams });
    const each = (count: number, kind: string, start: (name: string) => void) => {
      for (let i = 0; i < count; i++) this.#meet(`${node.name}-${kind}${i}`, start);
    };
    each(shape.producers, "p", (name) => startHttpProducer(this, name, service, at));
    each(shape.plainCallers, "h", (name) => startPlainCaller(this, name, service, at));
    each(shape.qos1Clients, "q1-", (name) => startMqttClient(this, name, node, at, 1));
    each(shape.qos2Clients, "q2-", (name) => startMqttClient(this, name, node, at, 2));
    const { habits } = this.shape;
    each(habits.closes ? 1 : 0, "ends", (name) => startCloser(this, name, service, at));
    each(habits.fences ? 1 : 0, "epochs", (name) => startSuccessor(this, name, service, at));
    each(habits.deletesAtGateways ? 1 : 0, "deletes", (name) => startDeleter(this, name, service, at));
    for (const stream of shape.streams.slice(0, 2)) {
      this.#meet(`${node.name}-r-${stream.stream}`, (name) => startGatewayReader(this, name, service, stream, () => node.lineage));
    }
  }

  #meet(name: string, start: (name: string) => void): void {
    this.clients.push(name);
    start(name);
  }

  /** No more faults; what is broken is mended, what is down is started. */
  heal(): void {
    this.faults.active = false;
    this.shelf.full = false;
    for (const node of this.cores.nodes) node.heal();
    for (const node of this.gateways) {
      node.process?.resume();
      if (node.bus) {
        node.bus.cut = "none";
        node.bus.setConnected(true);
      }
    }
    for (const node of this.gateways) {
      node.limitDisk(Number.POSITIVE_INFINITY);
      node.start();
    }
    for (const node of this.cores.nodes) node.start();
  }

  /** So that nothing moves any more: gateways that cannot bring one container its events go on trying with all. */
  isolateGateways(): void {
    for (const { bus } of this.gateways) {
      if (!bus) continue;
      bus.cut = "both";
      bus.setConnected(false);
    }
  }

  get branched(): boolean {
    return this.ledger.losses.some(({ writer }) => writer !== "core") || this.gateways.length > this.shape.gateways.length;
  }

  /** Something that the core's logs or its MetaStore held is lost. */
  loseCore(): void {
    this.ledger.losses.push({ writer: "core", fromSeq: 0, throughSeq: 0, atMs: this.nowMs, reason: "went back" });
  }

  get wentBack(): boolean {
    return this.hadLoss("core");
  }

  /** Streams that the MetaStore has forgotten, and that did not get their names back yet. */
  #nameless(): string[] {
    const entries = this.meta.listAt(STREAMS_PREFIX, this.nowMs);
    const known = new Set(entries.map(({ key, value }) => decodeStreamRecord(key, value)).map(({ id }) => id));
    return [...this.lake.currentStreams()].flatMap((id) =>
      known.has(id) || this.lake.countOf(id) === 0 ? [] : `stream ${id} has no name`,
    );
  }

  /** No stream disappears that the counting frames have. */
  judgeStreams(found: ReadonlySet<string>): void {
    for (const streamId of this.lake.currentStreams()) {
      const records = this.lake.countOf(streamId);
      if (records > 0 && !found.has(streamId)) this.ledger.violate(1, "stream disappeared", `${streamId} has ${records} records`);
    }
  }

  /** Whoever follows a stream has read what counts, wherever it had to go on from. */
  judgeTails(): void {
    for (const { name, streamId, records } of this.tails.values()) {
      // Where damage keeps a stream from being read, nobody tells its readers where to go on.
      if (this.unreadable.has(streamId)) continue;
      const lost = this.lake.hasStream(streamId) ? records.find((record) => !this.lake.isCurrent(streamId, record)) : undefined;
      if (lost) this.ledger.violate(3, "tail on a lost history", `${name} has read ${lost.segment} ${lost.ordinal} under ${lost.nonce}`);
    }
  }

  isOwner(process: SimProcess | undefined, stream: StreamName): boolean {
    return this.cores.isOwner(process, stream);
  }

  hadLoss(writer: string): boolean {
    return this.ledger.losses.some((loss) => loss.writer === writer);
  }

  isExcused(submission: Submission, heldBy: ReadonlySet<string>): boolean {
    return this.excuseOf(submission).missing || this.fates.mayBeGivenUp(submission, heldBy);
  }

  excuseOf(submission: Submission): Excuse {
    const losses = excuseOf(this.ledger.losses, submission);
    const fates = this.fates.excuse(submission);
    const missing =
      losses.missing ||
      fates.missing ||
      this.#lostBehindEnd(submission) ||
      this.#forgottenAtCommitted(submission) ||
      this.#declaredElsewhere(submission) ||
      this.#keptByDamage(submission);
    return { missing, doubled: losses.doubled || fates.doubled };
  }

  /** Its stream was deleted there before it was carried out at the latest, and another one took it; or what the server knew is lost. */
  mayBeTaken({ writer, stream, lastMs }: Submission): boolean {
    const throughMs = lastMs + UNDER_WAY_MS_MAX;
    const { losses } = this.ledger;
    return this.fates.wasAsked(writer, stream, throughMs) || losses.some((loss) => loss.writer === writer && loss.atMs <= throughMs);
  }

  /** Only the core had it, in frames that its logs lost: whoever needs more reads at level `tiered`. */
  #lostBehindEnd({ id, writer }: Submission): boolean {
    return writer === "core" && this.fates.wasLost(id);
  }

  /**
   * Its gateway freed it, or the gap record that told that it was dropped, at `committed`, and the core lost it. No gap record tells what a
   * stream had that the core does not know at all any more, nor what incarnations before the one had that the gateway is asked for; and it
   * is asked only where it sends more.
   */
  #forgottenAtCommitted({ id, writer, stream }: Submission): boolean {
    const node = this.gateways.find(({ disk }) => disk.name === writer);
    if (node?.shape.freeAt !== "committed") return false;
    if (this.fates.wasForgotten(stream)) return true;
    const lostFrom = this.#lostFrom(id);
    if (lostFrom.length === 0 || this.fates.holdersOf(id).length > 0) return false;
    return this.logs.wasFollowed(id) || !this.#wasAskedFor(id, lostFrom);
  }

  /** Streams that had the event, or a gap record that told of it, in frames that a log lost. */
  #lostFrom(id: number): readonly string[] {
    const gaps = this.logs.copiesOf(id).flatMap((copy) => this.#gapsOf(copy).filter(({ frame }) => !frame.counts));
    return [...this.fates.lostFrom(id), ...gaps.map(({ streamId }) => streamId)];
  }

  /** Streams, deleted ones among them, of which a gap record tells of the event. */
  declaredIn(copy: Copy): readonly string[] {
    return this.#gapsOf(copy).flatMap(({ streamId, frame }) => (frame.counts ? [streamId] : []));
  }

  #gapsOf(copy: Copy): ReturnType<StreamFates["gapsOf"]> {
    return this.fates.gapsOf(copy, this.logs.mappedOf(copy.localId), (streamId) => this.logs.segmentOf(copy, streamId));
  }

  /** The core has what came behind the event in its segment, and so lacked the event. */
  #wasAskedFor(id: number, lostFrom: readonly string[]): boolean {
    return lostFrom.some((streamId) => {
      const isHeld = (later: Copy) => this.fates.holdersOf(later.id).includes(streamId);
      return this.logs.copiesOf(id).some((copy) => this.logs.behind(copy, streamId).some(isHeld));
    });
  }

  /** Its gateway dropped it, and the gap record that says so may have gone with the stream, or be where damage keeps it. */
  #declaredElsewhere({ id, writer, stream }: Submission): boolean {
    const node = this.gateways.find(({ disk }) => disk.name === writer);
    if (node?.shape.quota.whenFull !== "drop-oldest" || this.fates.holdersOf(id).length > 0) return false;
    const isOf = (name: string) => name === stream || name.startsWith(`${stream}.quarantine-`);
    return this.fates.wasAsked("core", stream) || [...this.unreadable.values()].some(isOf);
  }

  /** It is in a stream that cannot be read now, or on a gateway that cannot send all. */
  #keptByDamage({ id, writer }: Submission): boolean {
    if (this.damaged.size === 0) return false;
    const holders = this.fates.holdersOf(id);
    if (holders.length === 0) return writer !== "core" && this.outOfService.length > 0;
    return holders.every((streamId) => this.unreadable.has(streamId) || this.fates.isDeleted(streamId));
  }

  /** Containers that damage keeps from being served. */
  get outOfService(): number[] {
    return this.cores.outOfService();
  }

  get atRest(): boolean {
    return this.unrest().length === 0;
  }

  /** What is not done yet. */
  unrest(): string[] {
    const found: string[] = [];
    if (this.clientsBusy.size > 0) found.push(`these clients wait for answers: ${[...this.clientsBusy].join(" ")}`);
    for (const node of this.gateways) {
      const status = node.gateway?.status();
      if (!status) found.push(`${node.name} does not serve`);
      // What it has for a container that is not served keeps it from sending all.
      else if (this.outOfService.length > 0) continue;
      else if (status.trouble !== "") found.push(`${node.name}: ${status.trouble}`);
      else if (status.overQuota) found.push(`${node.name} refuses at its quota, ${status.usage.eventsHeld} events held`);
      else if (status.uplink?.state !== "sending" || status.uplink.unitsOutstanding > 0 || status.usage.eventsHeld > 0) {
        found.push(
          `${node.name} is ${status.uplink?.state}, ${status.usage.eventsHeld} events held, ${status.usage.eventsUnsent} of them unsent, ${status.uplink?.unitsOutstanding} units not freed (${status.uplink?.lastError})`,
        );
      }
    }
    found.push(...this.cores.unrest(this.outOfService));
    if (this.wentBack) found.push(...this.#nameless());
    return found;
  }

  defect(who: string, error: unknown): void {
    const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    this.trace(who, `DEFECT ${text}`);
    this.ledger.violate(0, "defect", `${who}: ${text}${error instanceof Error && error.stack ? `\n${error.stack}` : ""}`);
  }

  loggerOf(process: SimProcess): Logger {
    const at =
      (level: string) =>
      (message: string, fields: LogFields = {}) => {
        if (!process.alive) return;
        const facts = Object.entries(fields).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`]));
        this.trace(process.name, `${level} ${message} ${facts.join(" ")}`);
        if (fields["code"] === "INTERNAL") this.defect(process.name, new Error(`${message}: ${facts.join(" ")}`));
      };
    return { debug: () => {}, info: at("info"), warn: at("warn"), error: at("error") };
  }

  phasesOf(process: SimProcess, crash: () => void): PhaseListener {
    const begin = (phase: Phase) => {
      const site = `${process.name} ${phase}`;
      const rare = phase === "commit" || phase === "uplink" ? 0.3 : 4;
      if (process.alive && this.faults.strikes("crash in a phase", site, PHASE_CRASH_PROBABILITY * rare)) {
        this.scheduler.schedule(this.dice.between(`${site} crash`, 0, 15), undefined, () => {
          if (process.alive) crash();
        });
      }
    };
    return { begin, end() {} };
  }
}
