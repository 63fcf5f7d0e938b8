import { headers, type Msg } from "@nats-io/transport-node";
import { assert } from "../assert.ts";
import { TributaryError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { bytesToHex } from "../names.ts";
import type { Bus, RequestHandler, Subscription } from "../ports/bus.ts";
import { NatsBusServer } from "./nats-bus-server.ts";
import type { NatsLink } from "./nats-connection.ts";
import { cutIntoParts, PartCollector, type PartLimits, plainBytes } from "./nats-parts.ts";
import {
  decodePartHeader,
  decodeReply,
  encodeRequestPart,
  HEADER_BYTES,
  HEADER_PART,
  MESSAGE_OVERHEAD_BYTES,
  type Reply,
} from "./nats-wire.ts";

/** Requests sent and not yet answered. */
const REQUESTS_IN_FLIGHT_MAX = 16_384;
/** For answers and publications; a server has the same for requests. A reply is one byte longer than its answer. */
const PART_LIMITS: PartLimits = { messagesMax: 256, bytesMax: 8 * (LIMITS.frameBytesMax + 1), idleMsMax: 60_000 };

/** Bus over NATS. The link may be shared; closing the bus leaves it open. Wire format: nats-wire.ts. */
export class NatsBus implements Bus {
  readonly #link: NatsLink;
  readonly #server: NatsBusServer;
  readonly #answers: PartCollector;
  readonly #subscriptions = new Set<Subscription>();
  readonly #publisherId: string;
  readonly #statusListeners = new Set<() => void>();
  /** Of each subject to which a large request is on its way: settles when what was called before has been sent. */
  readonly #sending = new Map<string, Promise<void>>();
  #inFlight = 0;
  #publications = 0;
  #closed = false;

  constructor(link: NatsLink) {
    this.#link = link;
    this.#server = new NatsBusServer(link);
    this.#answers = new PartCollector(link.clock, PART_LIMITS, () => {});
    this.#publisherId = bytesToHex(link.random.bytes(8));
  }

  async request(subject: string, payload: Uint8Array, options: { timeoutMs: number }): Promise<Uint8Array> {
    assert(payload.length <= LIMITS.frameBytesMax, "a request fits in a frame");
    this.#mustBeOpen();
    if (this.#inFlight >= REQUESTS_IN_FLIGHT_MAX) {
      throw new TributaryError("OVERLOADED", `${REQUESTS_IN_FLIGHT_MAX} requests wait for their answers`);
    }
    this.#inFlight++;
    try {
      const whole = this.#fits(payload);
      const before = this.#sending.get(subject);
      // Nothing large ahead on this subject: sent now, in the order of the calls.
      if (whole && !before) return await this.#exchange(subject, payload, options.timeoutMs, () => {});
      return await this.#exchangeInTurn(subject, payload, whole, before, options.timeoutMs);
    } finally {
      this.#inFlight--;
    }
  }

  /** Waits until what was asked of this subject before has been sent; those who come later wait for this one. */
  async #exchangeInTurn(
    subject: string,
    payload: Uint8Array,
    whole: boolean,
    before: Promise<void> | undefined,
    timeoutMs: number,
  ): Promise<Uint8Array> {
    const startMs = this.#link.clock.monotonicMs();
    let markSent = () => {};
    const sent = new Promise<void>((resolve) => {
      markSent = resolve;
    });
    this.#sending.set(subject, sent);
    try {
      await before;
      const leftMs = timeoutMs - (this.#link.clock.monotonicMs() - startMs);
      if (leftMs <= 0) throw new TributaryError("BUS_TIMEOUT", `earlier requests to ${subject} took ${timeoutMs} ms; it was not sent`);
      this.#mustBeOpen();
      if (!whole) return await this.#exchange(subject, payload, leftMs, markSent);
      const answer = this.#exchange(subject, payload, leftMs, () => {});
      markSent();
      return await answer;
    } finally {
      markSent();
      if (this.#sending.get(subject) === sent) this.#sending.delete(subject);
    }
  }

  /** Sends one request, whole or by handshake, and resolves with its answer. `onSent`: all parts have been handed over. */
  #exchange(subject: string, payload: Uint8Array, timeoutMs: number, onSent: () => void): Promise<Uint8Array> {
    const { inbox } = this.#link;
    return new Promise((resolve, reject) => {
      let granted = false;
      const finish = () => {
        slot.close();
        this.#answers.drop(slot.subject);
      };
      const fail = (error: unknown) => {
        finish();
        reject(error);
      };
      const take = (reply: Reply | undefined): void => {
        switch (reply?.kind) {
          case "answer":
            finish();
            resolve(plainBytes(reply.body));
            break;
          case "error":
            fail(reply.error);
            break;
          case "grant":
            // Several may serve a subject without a group: the first who grants gets the parts.
            if (granted) return;
            granted = true;
            this.#sendParts(reply.subject, payload, onSent);
            break;
          case "part":
            this.#takeAnswerPart(slot.subject, reply, take, fail);
            break;
          default:
            fail(new TributaryError("INTERNAL", `${subject} was answered by something that is no Tributary bus`));
        }
      };
      const slot = inbox.open(timeoutMs, {
        failed: fail,
        message: (msg) => {
          try {
            take(decodeReply(msg.data));
          } catch (error) {
            fail(error);
          }
        },
      });
      try {
        this.#sendRequest(subject, payload, slot.subject);
      } catch (error) {
        fail(error);
      }
    });
  }

  #sendRequest(subject: string, payload: Uint8Array, reply: string): void {
    if (this.#fits(payload)) {
      this.#link.inbox.send(subject, payload, { reply });
      return;
    }
    const announced = headers();
    announced.set(HEADER_BYTES, String(payload.length));
    this.#link.inbox.send(subject, new Uint8Array(), { reply, headers: announced });
  }

  #sendParts(subject: string, payload: Uint8Array, onSent: () => void): void {
    for (const { index, part } of cutIntoParts(payload, this.#partBytesMax()))
      this.#link.inbox.send(subject, encodeRequestPart(index, part));
    onSent();
  }

  #fits(payload: Uint8Array): boolean {
    return payload.length + MESSAGE_OVERHEAD_BYTES <= this.#link.maxPayloadBytes();
  }

  #partBytesMax(): number {
    return Math.max(1, this.#link.maxPayloadBytes() - MESSAGE_OVERHEAD_BYTES);
  }

  #takeAnswerPart(
    key: string,
    reply: Extract<Reply, { kind: "part" }>,
    take: (reply: Reply | undefined) => void,
    fail: (error: TributaryError) => void,
  ): void {
    if (reply.index === 0 && (reply.totalBytes > LIMITS.frameBytesMax + 1 || !this.#answers.begin(key, reply.totalBytes))) {
      fail(new TributaryError("BUS_TIMEOUT", "a large answer was dropped: there is no room for it", { bytes: reply.totalBytes }));
      return;
    }
    const whole = this.#answers.add(key, reply.index, reply.part);
    if (whole) take(decodeReply(whole));
    else if (!this.#answers.has(key)) fail(new TributaryError("BUS_TIMEOUT", "a part of a large answer was lost"));
  }

  async serve(subject: string, options: { group?: string }, handler: RequestHandler): Promise<Subscription> {
    this.#mustBeOpen();
    return this.#track(await this.#server.serve(subject, options, handler));
  }

  publish(subject: string, payload: Uint8Array): void {
    assert(payload.length <= LIMITS.frameBytesMax, "a publication fits in a frame");
    if (this.#closed || !this.connected()) return;
    const { inbox } = this.#link;
    if (this.#fits(payload)) {
      inbox.send(subject, payload);
      return;
    }
    const id = `${this.#publisherId}.${this.#publications++}`;
    for (const { index, part } of cutIntoParts(payload, this.#partBytesMax())) {
      const described = headers();
      described.set(HEADER_PART, `${id} ${index} ${payload.length}`);
      inbox.send(subject, part, { headers: described });
    }
  }

  async subscribe(subject: string, handler: (payload: Uint8Array, subject: string) => void): Promise<Subscription> {
    this.#mustBeOpen();
    const parts = new PartCollector(this.#link.clock, PART_LIMITS, () => {});
    const take = (msg: Msg): void => {
      const header = msg.headers?.get(HEADER_PART);
      if (!header) {
        handler(plainBytes(msg.data), msg.subject);
        return;
      }
      const described = decodePartHeader(header);
      if (!described || described.totalBytes > LIMITS.frameBytesMax) return;
      if (described.index === 0) parts.begin(described.id, described.totalBytes);
      const whole = parts.add(described.id, described.index, msg.data);
      if (whole) handler(whole, msg.subject);
    };
    const subscription = await this.#server.listen(subject, {}, take);
    return this.#track({
      close: async () => {
        await subscription.close();
        parts.clear();
      },
    });
  }

  #track(inner: Subscription): Subscription {
    const subscription: Subscription = {
      close: async () => {
        this.#subscriptions.delete(subscription);
        await inner.close();
      },
    };
    this.#subscriptions.add(subscription);
    return subscription;
  }

  connected(): boolean {
    return !this.#closed && this.#link.connected();
  }

  onStatus(listener: (connected: boolean) => void): () => void {
    const remove = this.#link.onStatus(listener);
    this.#statusListeners.add(remove);
    return () => {
      this.#statusListeners.delete(remove);
      remove();
    };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await Promise.all([...this.#subscriptions].map((subscription) => subscription.close()));
    this.#answers.clear();
    for (const remove of this.#statusListeners) remove();
  }

  #mustBeOpen(): void {
    if (this.#closed) throw new TributaryError("BUS_UNREACHABLE", "this bus is closed");
    if (!this.#link.connected()) throw new TributaryError("BUS_UNREACHABLE", `not connected to ${this.#link.url}`, { url: this.#link.url });
  }
}
