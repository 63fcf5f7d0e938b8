import { type Clock, systemClock } from "../clock.ts";
import { TributaryError, toTributaryError } from "../errors.ts";
import type { Bus, RequestHandler, Subscription } from "../ports/bus.ts";

/** Requests without an answer; more are refused. */
const REQUESTS_WAITING_MAX = 1024;
/** Handlers of one server that run, those whose requesters gave up included; more are refused. */
const HANDLERS_RUNNING_MAX = 4096;
/** Published messages on their way to subscribers; more are dropped, as the port allows. */
const MESSAGES_WAITING_MAX = 65_536;

/**
 * A Bus inside one process. Payloads are handed over by reference, both ways: whoever sends bytes gives them away and must not
 * change them afterwards, and whoever receives them may keep them but must not change them, for others may have received them too.
 */
export function createMemoryBus(options: { readonly clock?: Clock } = {}): Bus {
  return new MemoryBus(options.clock ?? systemClock);
}

interface Server {
  readonly tokens: readonly string[];
  readonly group: string | undefined;
  readonly handler: RequestHandler;
  readonly running: Set<Promise<unknown>>;
}

interface Listener {
  readonly tokens: readonly string[];
  readonly handler: (payload: Uint8Array, subject: string) => void;
}

class MemoryBus implements Bus {
  readonly #clock: Clock;
  readonly #servers = new Set<Server>();
  readonly #listeners = new Set<Listener>();
  readonly #statusListeners = new Set<(connected: boolean) => void>();
  /** Fails the requests that wait when the bus closes. */
  readonly #waiting = new Set<(error: TributaryError) => void>();
  #messagesWaiting = 0;
  #turn = 0;
  #connected = true;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  request(subject: string, payload: Uint8Array, { timeoutMs }: { timeoutMs: number }): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      if (!this.#connected) return reject(new TributaryError("BUS_UNREACHABLE", "the bus is closed"));
      if (this.#waiting.size >= REQUESTS_WAITING_MAX)
        return reject(new TributaryError("OVERLOADED", "too many requests wait for an answer"));
      const responders = this.#responders(subject);
      if (responders.length === 0) return reject(noResponder(subject));
      if (responders.some((server) => server.running.size >= HANDLERS_RUNNING_MAX))
        return reject(new TributaryError("OVERLOADED", `${subject} is busy`, { subject }));
      const fail = (error: TributaryError) => {
        finish();
        reject(error);
      };
      const cancelTimer = this.#clock.setTimer(timeoutMs, () => fail(timedOut(subject, `within ${timeoutMs} ms`)));
      const finish = () => {
        cancelTimer();
        this.#waiting.delete(fail);
      };
      this.#waiting.add(fail);
      // As on NATS each group and each single server gets the request, and the first answer counts.
      for (const server of responders) {
        const answer = Promise.resolve().then(() => server.handler(payload, subject));
        server.running.add(answer);
        answer
          .then(
            (bytes) => {
              finish();
              resolve(bytes);
            },
            (error: unknown) => fail(copyOf(error)),
          )
          .finally(() => server.running.delete(answer));
      }
    });
  }

  async serve(subject: string, { group }: { group?: string }, handler: RequestHandler): Promise<Subscription> {
    this.#assertConnected();
    const server: Server = { tokens: subject.split("."), group, handler, running: new Set() };
    this.#servers.add(server);
    return {
      close: async () => {
        this.#servers.delete(server);
        await Promise.allSettled(server.running);
      },
    };
  }

  publish(subject: string, payload: Uint8Array): void {
    if (!this.#connected) return;
    const tokens = subject.split(".");
    for (const listener of this.#listeners) {
      if (!matches(listener.tokens, tokens) || this.#messagesWaiting >= MESSAGES_WAITING_MAX) continue;
      this.#messagesWaiting++;
      queueMicrotask(() => {
        this.#messagesWaiting--;
        if (this.#listeners.has(listener)) listener.handler(payload, subject);
      });
    }
  }

  async subscribe(subject: string, handler: (payload: Uint8Array, subject: string) => void): Promise<Subscription> {
    this.#assertConnected();
    const listener: Listener = { tokens: subject.split("."), handler };
    this.#listeners.add(listener);
    return { close: async () => void this.#listeners.delete(listener) };
  }

  connected(): boolean {
    return this.#connected;
  }

  onStatus(listener: (connected: boolean) => void): () => void {
    this.#statusListeners.add(listener);
    return () => void this.#statusListeners.delete(listener);
  }

  async close(): Promise<void> {
    if (!this.#connected) return;
    this.#connected = false;
    for (const fail of [...this.#waiting]) fail(timedOut("the request", "before the bus was closed"));
    const running = [...this.#servers].flatMap((server) => [...server.running]);
    this.#servers.clear();
    this.#listeners.clear();
    for (const listener of this.#statusListeners) listener(false);
    await Promise.allSettled(running);
  }

  /** One member of each group and every server without one; members take turns. */
  #responders(subject: string): Server[] {
    const tokens = subject.split(".");
    const chosen: Server[] = [];
    const groups = new Map<string, Server[]>();
    for (const server of this.#servers) {
      if (!matches(server.tokens, tokens)) continue;
      if (server.group === undefined) chosen.push(server);
      else groups.set(server.group, [...(groups.get(server.group) ?? []), server]);
    }
    const turn = this.#turn++;
    for (const members of groups.values()) chosen.push(members[turn % members.length] as Server);
    return chosen;
  }

  #assertConnected(): void {
    if (!this.#connected) throw new TributaryError("BUS_UNREACHABLE", "the bus is closed");
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

/** A copy, so that the two sides share no object, as over a wire. */
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
