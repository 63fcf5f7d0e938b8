import type { Msg, MsgHdrs, NatsConnection } from "@nats-io/transport-node";
import type { Clock } from "../clock.ts";
import { type ErrorCode, TributaryError } from "../errors.ts";
import { bytesToHex } from "../names.ts";
import type { Random } from "../random.ts";

/** A connection as its inbox sees it. */
export interface NatsTransport {
  readonly nc: NatsConnection;
  readonly clock: Clock;
  readonly random: Random;
  /** The servers, without credentials. */
  readonly url: string;
  connected(): boolean;
  onStatus(listener: (connected: boolean) => void): () => void;
}

/**
 * A callback whose exception ends the process as uncaught. Thrown into the client library it would end its reader, and leave a
 * connection that looks alive and hears nothing.
 */
export function guarded<T>(callback: (value: T) => void): (value: T) => void {
  return (value) => {
    try {
      callback(value);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  };
}

export const INBOX_PREFIX_DEFAULT = "_INBOX";

/** @throws CONFIG_INVALID */
export function checkInboxPrefix(prefix: string): void {
  if (/^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/.test(prefix)) return;
  throw new TributaryError("CONFIG_INVALID", `nats.inboxPrefix: '${prefix}' cannot begin a subject`, { setting: "nats.inboxPrefix" });
}

interface Waiter {
  readonly message: (msg: Msg) => void;
  readonly failed: (error: TributaryError) => void;
  readonly cancelTimer: () => void;
}

/** A reply subject that is open. */
export interface ReplySlot {
  readonly subject: string;
  close(): void;
}

/**
 * The replies of all requests of a connection, through one wildcard subscription and one map: a fifth of the cost of the
 * client library's own requests. Waiters fail as soon as the connection is lost; they are never left hanging.
 */
export class NatsInbox {
  readonly #link: NatsTransport;
  readonly #prefix: string;
  readonly #waiters = new Map<string, Waiter>();
  #counter = 0;
  #refused = false;

  constructor(link: NatsTransport, prefix: string) {
    this.#link = link;
    this.#prefix = `${prefix}.${bytesToHex(link.random.bytes(12))}`;
    const deliver = guarded((msg: Msg) => this.#deliver(msg));
    link.nc.subscribe(`${this.#prefix}.*`, {
      callback: (error, msg) => {
        if (error) this.#refused = true;
        else deliver(msg);
      },
    });
    link.onStatus((connected) => (connected ? undefined : this.#failAll()));
  }

  /** True when the server does not let this user subscribe to its inbox. */
  refused(): boolean {
    return this.#refused;
  }

  /**
   * Opens a reply subject until it is closed, its time is over or the connection is lost; `failed` is called once then, with
   * BUS_TIMEOUT, for the request may have been carried out. A server's "no responders" comes as BUS_NO_RESPONDER.
   */
  open(timeoutMs: number, handlers: { message: (msg: Msg) => void; failed: (error: TributaryError) => void }): ReplySlot {
    const token = (this.#counter++).toString(36);
    const cancelTimer = this.#link.clock.setTimer(timeoutMs, () => this.#fail(token, "BUS_TIMEOUT", `no answer within ${timeoutMs} ms`));
    this.#waiters.set(token, { ...handlers, cancelTimer });
    return { subject: `${this.#prefix}.${token}`, close: () => void this.#take(token) };
  }

  /**
   * Sends one message and resolves with the first reply. Messages leave in the order of the calls.
   * @throws BUS_UNREACHABLE (not sent), BUS_NO_RESPONDER (not carried out), BUS_TIMEOUT (perhaps carried out)
   */
  request(subject: string, payload: Uint8Array | string, options: { timeoutMs: number; headers?: MsgHdrs }): Promise<Msg> {
    return new Promise((resolve, reject) => {
      const slot = this.open(options.timeoutMs, {
        message: (msg) => {
          slot.close();
          resolve(msg);
        },
        failed: reject,
      });
      try {
        this.send(subject, payload, { reply: slot.subject, ...(options.headers ? { headers: options.headers } : {}) });
      } catch (error) {
        slot.close();
        reject(error);
      }
    });
  }

  /** @throws BUS_UNREACHABLE: the client library would keep the message for an unknown later moment, or lose it */
  send(subject: string, payload: Uint8Array | string, options: { reply?: string; headers?: MsgHdrs } = {}): void {
    if (!this.#link.connected() || this.#link.nc.isClosed()) {
      throw new TributaryError("BUS_UNREACHABLE", `not connected to ${this.#link.url}`, { url: this.#link.url });
    }
    this.#link.nc.publish(subject, payload, options);
  }

  #deliver(msg: Msg): void {
    const token = msg.subject.slice(this.#prefix.length + 1);
    // The server's own status: nobody listens on the subject that was asked.
    if (msg.data.length === 0 && msg.headers?.code === 503) this.#fail(token, "BUS_NO_RESPONDER", "nobody serves this subject now");
    else this.#waiters.get(token)?.message(msg);
  }

  #take(token: string): Waiter | undefined {
    const waiter = this.#waiters.get(token);
    this.#waiters.delete(token);
    waiter?.cancelTimer();
    return waiter;
  }

  #fail(token: string, code: ErrorCode, message: string): void {
    this.#take(token)?.failed(new TributaryError(code, message));
  }

  #failAll(): void {
    for (const token of [...this.#waiters.keys()]) {
      this.#fail(token, "BUS_TIMEOUT", `the connection to ${this.#link.url} was lost before the answer came`);
    }
  }
}
