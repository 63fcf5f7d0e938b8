import { errors, type Msg } from "@nats-io/transport-node";
import { TributaryError, toTributaryError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { bytesToHex } from "../names.ts";
import type { RequestHandler, Subscription } from "../ports/bus.ts";
import type { NatsLink } from "./nats-connection.ts";
import { guarded } from "./nats-inbox.ts";
import { cutIntoParts, PartCollector, type PartLimits, plainBytes } from "./nats-parts.ts";
import {
  decodeRequestPart,
  encodeAnswer,
  encodeError,
  encodeGrant,
  encodeReplyPart,
  HEADER_BYTES,
  MESSAGE_OVERHEAD_BYTES,
  REPLY_PART_HEADER_BYTES,
} from "./nats-wire.ts";

/** Handlers running at once for one subscription; requesters bound themselves, this is against those who do not. */
const HANDLERS_MAX = 4_096;
/** A part may take its time: an uplink can be slow. */
const PART_LIMITS: PartLimits = { messagesMax: 256, bytesMax: 8 * LIMITS.frameBytesMax, idleMsMax: 60_000 };

/** A large request whose parts are on their way. */
interface Granted {
  readonly reply: string;
  readonly subject: string;
  readonly run: (payload: Uint8Array) => void;
}

/** The serving half of the NATS bus: subscriptions, grants for large requests, handlers and their answers. */
export class NatsBusServer {
  readonly #link: NatsLink;
  readonly #grantPrefix: string;
  readonly #granted = new Map<string, Granted>();
  readonly #parts: PartCollector;
  #grants = 0;
  #grantSubscription: Promise<Subscription> | undefined;

  constructor(link: NatsLink) {
    this.#link = link;
    this.#grantPrefix = `_INBOX.${bytesToHex(link.random.bytes(12))}`;
    this.#parts = new PartCollector(link.clock, PART_LIMITS, (token) => {
      this.#refuse(token, new TributaryError("BUS_UNREACHABLE", "a part of the request was lost on its way; it was not carried out"));
    });
  }

  async serve(subject: string, options: { group?: string }, handler: RequestHandler): Promise<Subscription> {
    this.#grantSubscription ??= this.listen(`${this.#grantPrefix}.*`, {}, (msg) => this.#takePart(msg));
    await this.#grantSubscription;
    const running = new Set<Promise<void>>();
    const mine = new Set<string>();
    const run = (payload: Uint8Array, on: string, reply: string): void => {
      if (running.size >= HANDLERS_MAX) {
        this.#reply(reply, overloaded());
        return;
      }
      // Called before anything else can arrive, so that handlers begin in the order of the requests.
      const ending = this.#handle(handler, payload, on, reply).finally(() => running.delete(ending));
      running.add(ending);
    };
    const take = (msg: Msg): void => {
      if (!msg.reply) return;
      const { reply, subject: on } = msg;
      const announced = msg.headers?.get(HEADER_BYTES);
      if (!announced) {
        run(plainBytes(msg.data), on, reply);
        return;
      }
      const token = (this.#grants++).toString(36);
      const granted: Granted = {
        reply,
        subject: on,
        run: (payload) => {
          mine.delete(token);
          run(payload, on, reply);
        },
      };
      if (this.#grant(token, Number(announced), granted)) mine.add(token);
    };
    const subscription = await this.listen(subject, options, take);
    return {
      close: async () => {
        await subscription.close();
        for (const token of mine) {
          this.#parts.drop(token);
          this.#refuse(token, new TributaryError("BUS_NO_RESPONDER", "the one who served this subject has stopped"));
        }
        await Promise.all(running);
      },
    };
  }

  /** Subscribes, and resolves once the server knows of it. */
  async listen(subject: string, options: { group?: string }, take: (msg: Msg) => void): Promise<Subscription> {
    let refused: Error | undefined;
    const deliver = guarded(take);
    const subscription = this.#link.nc.subscribe(subject, {
      ...(options.group === undefined ? {} : { queue: options.group }),
      callback: (error, msg) => {
        if (error) refused = error;
        else deliver(msg);
      },
    });
    // After a lost connection the client library subscribes again by itself: nothing to do about a flush that fails.
    await this.#link.nc.flush().catch(() => {});
    if (refused instanceof errors.PermissionViolationError) {
      throw new TributaryError("CONFIG_INVALID", `this NATS user may not subscribe to ${subject}`, { subject }, { cause: refused });
    }
    return {
      // Draining hands over what has arrived already; on a closed connection there is nothing left to drain.
      close: () => subscription.drain().catch(() => {}),
    };
  }

  #grant(token: string, totalBytes: number, granted: Granted): boolean {
    if (!(totalBytes <= LIMITS.frameBytesMax) || !this.#parts.begin(token, totalBytes)) {
      this.#reply(granted.reply, overloaded());
      return false;
    }
    this.#granted.set(token, granted);
    this.#reply(granted.reply, encodeGrant(`${this.#grantPrefix}.${token}`));
    return true;
  }

  #takePart(msg: Msg): void {
    const token = msg.subject.slice(this.#grantPrefix.length + 1);
    const part = decodeRequestPart(msg.data);
    const whole = part && this.#parts.add(token, part.index, part.part);
    if (!whole) return;
    const granted = this.#granted.get(token);
    this.#granted.delete(token);
    granted?.run(whole);
  }

  #refuse(token: string, error: TributaryError): void {
    const granted = this.#granted.get(token);
    this.#granted.delete(token);
    if (granted) this.#reply(granted.reply, encodeError(error));
  }

  async #handle(handler: RequestHandler, payload: Uint8Array, subject: string, reply: string): Promise<void> {
    let answer: Uint8Array;
    try {
      answer = encodeAnswer(await handler(payload, subject));
    } catch (error) {
      answer = encodeError(toTributaryError(error));
    }
    this.#reply(reply, answer);
  }

  /** An answer that cannot be sent any more is left out: the requester's time runs out. */
  #reply(subject: string, answer: Uint8Array): void {
    const { inbox } = this.#link;
    try {
      const bytesMax = this.#link.maxPayloadBytes() - MESSAGE_OVERHEAD_BYTES;
      if (answer.length <= bytesMax) {
        inbox.send(subject, answer);
        return;
      }
      for (const { index, part } of cutIntoParts(answer, bytesMax - REPLY_PART_HEADER_BYTES)) {
        inbox.send(subject, encodeReplyPart(index, answer.length, part));
      }
    } catch (error) {
      if (!(error instanceof TributaryError)) throw error;
    }
  }
}

function overloaded(): Uint8Array {
  return encodeError(new TributaryError("OVERLOADED", "too many requests are being carried out or received"));
}
