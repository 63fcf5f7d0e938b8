import type { Socket } from "node:net";
import type { Clock } from "@tributary/common/clock";
import { toTributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import type { Random } from "@tributary/common/random";
import type { Admission, Ingest } from "../gateway/ingest.ts";
import { type Acceptors, openAcceptors } from "./acceptors.ts";
import type { Credentials } from "./credentials.ts";
import { type ConnectionHost, MqttConnection, type RoomWaiter, SWEEP_INTERVAL_MS } from "./mqtt-connection.ts";
import type { CloseReason, MqttCounters } from "./mqtt-counters.ts";
import { ReasonLog } from "./reason-log.ts";
import { type TopicRoute, TopicRoutes } from "./topic-route.ts";
import { TurnQueue } from "./turn-queue.ts";

export interface MqttListenerOptions {
  readonly host: string;
  /** 0 picks a free one. */
  readonly port: number;
  /** undefined: everyone may publish. */
  readonly credentials: Credentials | undefined;
}

export interface MqttListenerDependencies {
  readonly ingest: Ingest;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly counters: MqttCounters;
  readonly options: MqttListenerOptions;
}

export interface MqttListener {
  readonly port: number;
  /** Takes nothing more, answers what was taken, then closes all connections. */
  close(): Promise<void>;
}

/** Sessions without packet ids that are remembered, so that a client that comes back hears that its session is there. */
const SESSIONS_MAX = 100_000;
/** Wills that wait for room in the log. */
const WAITING_WILLS_MAX = 1_000;
/** How long a closing listener waits for the answers of what was taken. */
const CLOSE_MS_MAX = 5_000;

/** Ends that are a client's own affair. */
const QUIET_REASONS: ReadonlySet<CloseReason> = new Set(["disconnect", "connection-lost", "stopping"]);

/**
 * MQTT 3.1.1 (and 3.1) for devices that publish. What a broker does beyond that is answered, not done: subscriptions are refused in
 * SUBACK, the retain flag and a will's QoS mean nothing here. Readers use HTTP.
 *
 * MQTT 3.1.1 has no answer that refuses a publish. Where one cannot be taken (topic, size, quota, disk, closed stream), the connection
 * is closed without an acknowledgement, and the reason is counted and logged; where it cannot be taken yet, the connection waits.
 *
 * @throws PORT_IN_USE, CONFIG_INVALID
 */
export async function createMqttListener(dependencies: MqttListenerDependencies): Promise<MqttListener> {
  const hub = new MqttHub(dependencies);
  const { host, port } = dependencies.options;
  const acceptors = await openAcceptors({ host, port, onSocket: (socket) => hub.accept(socket) });
  hub.startSweep();
  return { port: acceptors.port, close: () => hub.close(acceptors) };
}

/** What the connections of one listener share. */
class MqttHub implements ConnectionHost {
  readonly ingest: Ingest;
  readonly clock: Clock;
  readonly random: Random;
  readonly routes: TopicRoutes;
  readonly turns: TurnQueue;
  readonly counters: MqttCounters;
  readonly credentials: Credentials | undefined;
  tick = 0;
  readonly #reasons: ReasonLog;
  readonly #connections = new Set<MqttConnection>();
  readonly #clients = new Map<string, MqttConnection>();
  readonly #sessions = new Set<string>();
  #waiters: RoomWaiter[] = [];
  #roomAsked = false;
  #waitingWills = 0;
  #stopping = false;
  #cancelSweep: () => void = () => {};

  constructor(dependencies: MqttListenerDependencies) {
    this.ingest = dependencies.ingest;
    this.clock = dependencies.clock;
    this.random = dependencies.random;
    this.counters = dependencies.counters;
    this.credentials = dependencies.options.credentials;
    this.routes = new TopicRoutes(dependencies.ingest);
    this.turns = new TurnQueue(dependencies.clock);
    this.#reasons = new ReasonLog(dependencies.log, dependencies.clock);
  }

  accept(socket: Socket): void {
    if (this.#stopping || this.#connections.size >= LIMITS.mqttConnectionsMax) {
      socket.on("error", () => {}).destroy();
      this.#count(this.#stopping ? "stopping" : "too-many-connections", "", socket.remoteAddress);
      return;
    }
    this.counters.connectionsAccepted++;
    this.counters.connectionsOpen++;
    this.#connections.add(new MqttConnection(this, socket));
  }

  takeOver(clientId: string, connection: MqttConnection, cleanSession: boolean): boolean {
    const before = this.#clients.get(clientId);
    if (before !== connection) before?.close("taken-over", clientId);
    this.#clients.set(clientId, connection);
    const known = this.#sessions.delete(clientId);
    if (!cleanSession) {
      if (this.#sessions.size >= SESSIONS_MAX) this.#sessions.delete(this.#sessions.keys().next().value as string);
      this.#sessions.add(clientId);
    }
    return known;
  }

  closed(connection: MqttConnection, reason: CloseReason, detail: string): void {
    this.#connections.delete(connection);
    if (this.#clients.get(connection.clientId) === connection) this.#clients.delete(connection.clientId);
    this.counters.connectionsOpen--;
    this.#count(reason, detail, connection.clientId);
  }

  /** In the order of asking. Whoever still finds no room asks again, and the rest keep their places before it. */
  waitForRoom(waiter: RoomWaiter): void {
    this.#waiters.push(waiter);
    if (this.#roomAsked) return;
    this.#roomAsked = true;
    this.ingest.onRoom(() => this.#roomAgain());
  }

  publishWill(route: TopicRoute, key: string, payload: Uint8Array): void {
    const admission = this.#appendWill(route, key, payload);
    if (admission === "accepted") {
      this.counters.wills++;
    } else if (admission === "full" && this.#waitingWills < WAITING_WILLS_MAX) {
      this.#waitingWills++;
      this.waitForRoom({
        roomAgain: () => {
          this.#waitingWills--;
          this.publishWill(route, key, payload);
        },
      });
    } else {
      this.counters.willsLost++;
      this.#reasons.warn("will-lost", "an MQTT will could not be published", { client: key, cause: admission });
    }
  }

  startSweep(): void {
    this.#cancelSweep = this.clock.setTimer(SWEEP_INTERVAL_MS, () => {
      this.tick++;
      for (const connection of this.#connections) connection.sweep();
      this.startSweep();
    });
  }

  async close(acceptors: Acceptors): Promise<void> {
    this.#stopping = true;
    this.#cancelSweep();
    const accepted = acceptors.close();
    for (const connection of this.#connections) connection.stop();
    await this.#allAnswered();
    for (const connection of this.#connections) connection.close("stopping");
    await accepted;
  }

  #allAnswered(): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.clock.setTimer(CLOSE_MS_MAX, resolve);
      const done = () => {
        cancel();
        resolve();
      };
      this.ingest.barrier({ committed: () => {}, failed: () => {}, flush: done }, 0);
    });
  }

  #roomAgain(): void {
    this.#roomAsked = false;
    const waiting = this.#waiters;
    this.#waiters = [];
    let next = 0;
    while (next < waiting.length && !this.#roomAsked) waiting[next++]?.roomAgain();
    if (next < waiting.length) this.#waiters = [...waiting.slice(next), ...this.#waiters];
  }

  #appendWill(route: TopicRoute, key: string, payload: Uint8Array): Admission | "refused" {
    const append = () => this.ingest.append(route.handle, key, this.clock.nowMs(), payload, 0, payload.length, undefined, 0);
    const admission = append();
    if (admission !== "gone") return admission;
    try {
      this.routes.reopen(route);
    } catch (error) {
      return toTributaryError(error).code === "OVERLOADED" ? "full" : "refused";
    }
    return append();
  }

  #count(reason: CloseReason, detail: string, client: string | undefined): void {
    this.counters.closed[reason] = (this.counters.closed[reason] ?? 0) + 1;
    if (!QUIET_REASONS.has(reason)) {
      this.#reasons.warn(reason, "MQTT connection closed", { client: client?.slice(0, 80), detail: detail === "" ? undefined : detail });
    }
  }
}
