import { TributaryError, toTributaryError } from "@tributary/common/errors";
import type { Bus, RequestHandler, Subscription } from "@tributary/common/ports/bus";
import type { SimEnvironment } from "../environment.ts";
import type { SimProcess } from "../process.ts";

interface Server {
  readonly tokens: readonly string[];
  readonly group: string | undefined;
  readonly handler: RequestHandler;
  readonly bus: SimBus;
  readonly running: Set<Promise<unknown>>;
}

interface Listener {
  readonly tokens: readonly string[];
  readonly handler: (payload: Uint8Array, subject: string) => void;
  readonly bus: SimBus;
  lastMs: number;
}

export interface BusBehaviour {
  readonly hopMs: readonly [number, number];
  readonly lostRequest: number;
  readonly lostAnswer: number;
  readonly delayed: number;
  readonly delayMs: readonly [number, number];
  /** A request arrives a second time, some time later. */
  readonly doubled: number;
  readonly lostMessage: number;
  /** How long the network goes on believing in a dead process or a cut wire. */
  readonly noticeMs: readonly [number, number];
}

export const QUIET_BUS: BusBehaviour = {
  hopMs: [0, 0],
  lostRequest: 0,
  lostAnswer: 0,
  delayed: 0,
  delayMs: [0, 0],
  doubled: 0,
  lostMessage: 0,
  noticeMs: [0, 0],
};

/** The message server in the middle. */
export class BusNetwork {
  readonly servers: Set<Server> = new Set();
  readonly listeners: Set<Listener> = new Set();
  readonly environment: SimEnvironment;
  readonly behaviour: BusBehaviour;

  constructor(environment: SimEnvironment, behaviour: BusBehaviour) {
    this.environment = environment;
    this.behaviour = behaviour;
  }

  /** One member of each group and every server without one. */
  responders(subject: string): Server[] {
    const tokens = subject.split(".");
    const chosen: Server[] = [];
    const groups = new Map<string, Server[]>();
    for (const server of this.servers) {
      if (!matches(server.tokens, tokens)) continue;
      if (server.group === undefined) chosen.push(server);
      else groups.set(server.group, [...(groups.get(server.group) ?? []), server]);
    }
    for (const members of groups.values()) chosen.push(this.environment.dice.pick(`bus group ${subject}`, members));
    return chosen;
  }
}

/** A process's connection. */
export class SimBus implements Bus {
  readonly process: SimProcess;
  readonly #network: BusNetwork;
  readonly #statusListeners = new Set<(connected: boolean) => void>();
  readonly #waiting = new Set<(error: TributaryError) => void>();
  /** When the last message of a subject arrives: the next comes behind it. */
  readonly #lanes = new Map<string, number>();
  #connected = true;
  #closed = false;
  /** Cut off: nothing comes through, one way or both. Noticed a little later. */
  cut: "none" | "out" | "in" | "both" = "none";

  constructor(network: BusNetwork, process: SimProcess) {
    this.#network = network;
    this.process = process;
    process.onDeath(() => {
      const { environment, behaviour } = network;
      // Until the server notices, requests still go to the dead process.
      environment.scheduler.schedule(environment.dice.between("bus notices death", ...behaviour.noticeMs), undefined, () => this.#forget());
    });
  }

  request(subject: string, payload: Uint8Array, { timeoutMs }: { timeoutMs: number }): Promise<Uint8Array> {
    const { environment, behaviour } = this.#network;
    const { dice, faults, scheduler } = environment;
    return new Promise<Uint8Array>((resolve, reject) => {
      if (!this.#connected) return reject(new TributaryError("BUS_UNREACHABLE", "the bus is not connected"));
      const finish = () => {
        cancelTimer();
        this.#waiting.delete(fail);
      };
      const fail = (error: TributaryError) => {
        finish();
        reject(error);
      };
      const cancelTimer = this.process.clock.setTimer(timeoutMs, () => fail(timedOut(subject, `within ${timeoutMs} ms`)));
      this.#waiting.add(fail);
      const site = `bus ${this.process.name} ${subject}`;
      const lane = `${subject}`;
      let arrivesMs = scheduler.nowMs + dice.between(`${site} hop`, ...behaviour.hopMs);
      if (faults.strikes("message delayed", site, behaviour.delayed)) arrivesMs += dice.between(`${site} delay`, ...behaviour.delayMs);
      // Requests of one requester to one subject keep their order.
      arrivesMs = Math.max(arrivesMs, this.#lanes.get(lane) ?? 0);
      this.#lanes.set(lane, arrivesMs);
      const sent = new Uint8Array(payload);
      const answer = (settle: () => void) => {
        if (faults.strikes("answer lost", site, behaviour.lostAnswer) || this.cut === "in" || this.cut === "both") return;
        let backMs = dice.between(`${site} back`, ...behaviour.hopMs);
        if (faults.strikes("answer delayed", site, behaviour.delayed)) backMs += dice.between(`${site} delay`, ...behaviour.delayMs);
        this.process.deliver(backMs, () => {
          finish();
          settle();
        });
      };
      let delivered = false;
      const arrive = () => {
        if (this.cut === "out" || this.cut === "both") return;
        const responders = this.#network.responders(subject);
        if (responders.length === 0) {
          // A network that passed it on once never says that nobody was there.
          if (!delivered) answer(() => reject(noResponder(subject)));
          return;
        }
        delivered = true;
        for (const server of responders) {
          server.bus.#serve(server, sent, subject).then(
            (bytes) => answer(() => resolve(new Uint8Array(bytes))),
            (error: unknown) => answer(() => reject(copyOf(error))),
          );
        }
      };
      if (faults.strikes("request lost", site, behaviour.lostRequest)) return;
      scheduler.schedule(arrivesMs - scheduler.nowMs, undefined, arrive);
      if (faults.strikes("request doubled", site, behaviour.doubled)) {
        scheduler.schedule(arrivesMs - scheduler.nowMs + dice.between(`${site} double`, ...behaviour.delayMs), undefined, arrive);
      }
    });
  }

  async serve(subject: string, { group }: { group?: string }, handler: RequestHandler): Promise<Subscription> {
    this.#assertOpen();
    const server: Server = { tokens: subject.split("."), group, handler, bus: this, running: new Set() };
    this.#network.servers.add(server);
    return {
      close: async () => {
        this.#network.servers.delete(server);
        await Promise.allSettled(server.running);
      },
    };
  }

  publish(subject: string, payload: Uint8Array): void {
    if (!this.#connected || this.cut === "out" || this.cut === "both") return;
    const { environment, behaviour, listeners } = this.#network;
    const { dice, faults, scheduler } = environment;
    const tokens = subject.split(".");
    for (const listener of listeners) {
      if (!matches(listener.tokens, tokens)) continue;
      const site = `bus ${this.process.name} ${subject} to ${listener.bus.process.name}`;
      if (faults.strikes("message lost", site, behaviour.lostMessage)) continue;
      listener.lastMs = Math.max(listener.lastMs, scheduler.nowMs + dice.between(`${site} hop`, ...behaviour.hopMs));
      const sent = new Uint8Array(payload);
      listener.bus.process.deliver(listener.lastMs - scheduler.nowMs, () => {
        const { cut } = listener.bus;
        if (listeners.has(listener) && cut !== "in" && cut !== "both") listener.handler(sent, subject);
      });
    }
  }

  async subscribe(subject: string, handler: (payload: Uint8Array, subject: string) => void): Promise<Subscription> {
    this.#assertOpen();
    const listener: Listener = { tokens: subject.split("."), handler, bus: this, lastMs: 0 };
    this.#network.listeners.add(listener);
    return { close: async () => void this.#network.listeners.delete(listener) };
  }

  connected(): boolean {
    return this.#connected;
  }

  onStatus(listener: (connected: boolean) => void): () => void {
    this.#statusListeners.add(listener);
    return () => this.#statusListeners.delete(listener);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const running = [...this.#network.servers].filter((server) => server.bus === this).flatMap((server) => [...server.running]);
    this.#forget();
    this.setConnected(false);
    for (const fail of [...this.#waiting]) fail(timedOut("the request", "before the bus was closed"));
    await Promise.allSettled(running);
  }

  /** The process notices that the wire is cut, or whole again. */
  setConnected(connected: boolean): void {
    if (connected === this.#connected || (connected && this.#closed)) return;
    this.#connected = connected;
    for (const listener of [...this.#statusListeners]) listener(connected);
  }

  /** Runs the handler in its own process. Never settles if that dies, or is cut off. */
  #serve(server: Server, payload: Uint8Array, subject: string): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.process.deliver(0, () => {
        if (this.cut === "in" || this.cut === "both") return;
        if (!this.#network.servers.has(server)) return reject(noResponder(subject));
        const answer = Promise.resolve().then(() => server.handler(payload, subject));
        server.running.add(answer);
        const out = (settle: () => void) => {
          server.running.delete(answer);
          if (this.process.alive && this.cut !== "out" && this.cut !== "both") settle();
        };
        answer.then(
          (bytes) => out(() => resolve(bytes)),
          (error: unknown) => out(() => reject(error)),
        );
      });
    });
  }

  #forget(): void {
    for (const server of this.#network.servers) if (server.bus === this) this.#network.servers.delete(server);
    for (const listener of this.#network.listeners) if (listener.bus === this) this.#network.listeners.delete(listener);
  }

  #assertOpen(): void {
    if (this.#closed) throw new TributaryError("BUS_UNREACHABLE", "the bus is closed");
  }
}

/** NATS matching: "*" stands for one token, a final ">" for one or more. */
function matches(pattern: readonly string[], subject: readonly string[]): boolean {
  for (const [index, token] of pattern.entries()) {
    if (token === ">" && index === pattern.length - 1) return subject.length > index;
    if (index >= subject.length || (token !== "*" && token !== subject[index])) return false;
  }
  return pattern.length === subject.length;
}

function copyOf(error: unknown): TributaryError {
  const { code, message, details } = toTributaryError(error);
  return new TributaryError(code, message, { ...details });
}

function noResponder(subject: string): TributaryError {
  return new TributaryError("BUS_NO_RESPONDER", `nobody serves ${subject}`, { subject });
}

function timedOut(subject: string, when: string): TributaryError {
  return new TributaryError("BUS_TIMEOUT", `${subject} had no answer ${when}`, { subject });
}
