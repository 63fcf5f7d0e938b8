import type { Socket } from "node:net";
import { crc32c } from "@tributary/common/checksum";
import type { Clock } from "@tributary/common/clock";
import { type TributaryError, toTributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import { bytesToHex } from "@tributary/common/names";
import type { Random } from "@tributary/common/random";
import type { AckTarget, Admission, Ingest } from "../gateway/ingest.ts";
import { type Credentials, checkCredentials } from "./credentials.ts";
import type { CloseReason, MqttCounters } from "./mqtt-counters.ts";
import {
  ACK_HEAD,
  CONNACK,
  type ConnectPacket,
  encodeConnack,
  encodeSubackRefused,
  MqttPacketReader,
  MqttProtocolError,
  PACKET,
  PINGRESP_BYTES,
  writeAck,
} from "./mqtt-packet.ts";
import { isTopicOf, type TopicRoute, type TopicRoutes } from "./topic-route.ts";
import type { TurnQueue, TurnWaiter } from "./turn-queue.ts";

/** What a connection needs of the listener that it belongs to. */
export interface ConnectionHost {
  readonly ingest: Ingest;
  readonly clock: Clock;
  readonly random: Random;
  readonly routes: TopicRoutes;
  readonly counters: MqttCounters;
  readonly credentials: Credentials | undefined;
  /** Counts up every SWEEP_INTERVAL_MS: time that is read for nothing on every chunk. */
  readonly tick: number;
  /**
   * The client is this connection from now on; another connection that said it was is closed [MQTT-3.1.4-2]. Returns whether the
   * client was here before with a session that outlives its connections; a clean session ends that one.
   */
  takeOver(clientId: string, connection: MqttConnection, cleanSession: boolean): boolean;
  readonly turns: TurnQueue;
  /** `roomAgain` is called once when the log takes more. */
  waitForRoom(waiter: RoomWaiter): void;
  publishWill(route: TopicRoute, key: string, payload: Uint8Array): void;
  closed(connection: MqttConnection, reason: CloseReason, detail: string): void;
}

export interface RoomWaiter {
  roomAgain(): void;
}

export const SWEEP_INTERVAL_MS = 500;

/** Bytes read ahead of a connection that has to wait; beyond them its socket is paused and the client feels it. */
const READ_AHEAD_BYTES_MAX = 65_536;

/** What a token stands for: the kind of answer above the packet id. */
const TOKEN = { PUBACK: 0x1_0000, PUBREC: 0x2_0000, PUBCOMP: 0x3_0000, CONNACK: 0x4_0000 } as const;

/**
 * Why nothing is read from the connection just now: the log takes no more ("room"), too many publishes are unanswered ("answers"),
 * the client does not read its answers ("drain"), the state of its session is not durable yet ("session"), others come first in this
 * turn of the event loop ("turn"), the listener stops ("stop").
 */
type Wait = "turn" | "room" | "answers" | "drain" | "session" | "stop";

/**
 * One MQTT connection: packets in, events into the ingest, acknowledgements out once the commit is on disk.
 *
 * QoS 1: PUBACK after the commit. QoS 2: the packet id becomes durable with the event, PUBREC after that commit; a repetition is not
 * appended but answered when the original is durable; PUBREL forgets the id durably before PUBCOMP, so that a crash between can
 * neither double an event nor mistake a new one for a repetition.
 */
export class MqttConnection implements AckTarget, RoomWaiter, TurnWaiter {
  readonly #host: ConnectionHost;
  readonly #socket: Socket;
  readonly #reader = new MqttPacketReader();
  readonly #onData = (chunk: Uint8Array): void => this.#receive(chunk);
  #clientId = "";
  #connected = false;
  /** The clean session of the CONNECT at hand is on disk. */
  #sessionDurable = false;
  #closed = false;
  #will: { readonly route: TopicRoute; readonly payload: Uint8Array } | undefined;
  #route: TopicRoute | undefined;
  #wait: Wait | undefined;
  #paused = false;
  /** Publishes and releases accepted and not yet answered. */
  #unanswered = 0;
  #acks = new Uint8Array(16);
  #ackBytes = 0;
  #failure: TributaryError | undefined;
  #lastSeenTick: number;
  /** Ticks without a packet after which the client counts as gone; 0: never. */
  #silentTicksMax = Math.ceil(LIMITS.mqttConnectMsMax / SWEEP_INTERVAL_MS);

  constructor(host: ConnectionHost, socket: Socket) {
    this.#host = host;
    this.#socket = socket;
    this.#lastSeenTick = host.tick;
    socket.on("data", this.#onData);
    socket.on("drain", () => this.#goOn("drain"));
    // An error is always followed by "close".
    socket.on("error", () => {});
    socket.on("close", () => this.close("connection-lost"));
  }

  get clientId(): string {
    return this.#clientId;
  }

  /** Called every SWEEP_INTERVAL_MS. A connection that waits for us is not silent by its own will. */
  sweep(): void {
    if (this.#wait !== undefined) this.#lastSeenTick = this.#host.tick;
    if (this.#silentTicksMax === 0 || this.#host.tick - this.#lastSeenTick <= this.#silentTicksMax) return;
    this.close(this.#connected ? "keep-alive" : "connect-timeout"); // [MQTT-3.1.2-24]
  }

  /** Takes nothing more; what was taken is still answered. */
  stop(): void {
    this.#wait = "stop";
    this.#socket.pause();
  }

  /** Ends the connection at once. Events taken and not yet answered stay in the log; their client sends them again. */
  close(reason: CloseReason, detail = ""): void {
    this.#end(reason, detail, () => this.#socket.destroy());
  }

  // AckTarget

  committed(token: number): void {
    if (token >= TOKEN.CONNACK) {
      this.#sessionDurable = true;
      return;
    }
    this.#unanswered--;
    if (this.#closed) return;
    let head: number = ACK_HEAD.PUBACK;
    if (token >= TOKEN.PUBCOMP) head = ACK_HEAD.PUBCOMP;
    else {
      this.#host.counters.acknowledged++;
      if (token >= TOKEN.PUBREC) head = ACK_HEAD.PUBREC;
    }
    if (this.#ackBytes === this.#acks.length) {
      const grown = new Uint8Array(this.#acks.length * 2);
      grown.set(this.#acks);
      this.#acks = grown;
    }
    writeAck(this.#acks, this.#ackBytes, head, token & 0xffff);
    this.#ackBytes += 4;
  }

  failed(token: number, error: TributaryError): void {
    if (token < TOKEN.CONNACK) this.#unanswered--;
    this.#failure ??= error;
  }

  flush(): void {
    if (this.#closed) return;
    if (this.#sessionDurable && !this.#connected) this.#accept(false);
    if (this.#ackBytes > 0) {
      const bytes = Buffer.allocUnsafe(this.#ackBytes);
      bytes.set(this.#acks.subarray(0, this.#ackBytes));
      this.#ackBytes = 0;
      this.#write(bytes);
    }
    if (this.#failure !== undefined) {
      // There is no negative acknowledgement: the client sends again when it is back.
      if (this.#connected) this.close("commit-failed", this.#failure.code);
      else this.#refuse(CONNACK.UNAVAILABLE, "commit-failed", this.#failure.code);
      return;
    }
    this.#goOn("answers");
  }

  roomAgain(): void {
    this.#goOn("room");
  }

  turnAgain(): void {
    this.#goOn("turn");
  }

  // Packets

  #receive(chunk: Uint8Array): void {
    if (this.#closed) return;
    this.#lastSeenTick = this.#host.tick;
    this.#reader.push(chunk);
    if (this.#wait === undefined) {
      // A CONNECT is quick, and nobody should wait for others to be let in.
      if (!this.#connected || this.#host.turns.mayWork()) {
        this.#readPackets();
      } else {
        this.#wait = "turn";
        this.#host.turns.wait(this);
      }
    }
    if (this.#wait !== undefined && !this.#paused && this.#reader.pending > READ_AHEAD_BYTES_MAX) {
      this.#paused = true;
      this.#socket.pause();
    }
  }

  #goOn(from: Wait): void {
    if (this.#wait !== from || this.#closed) return;
    this.#wait = undefined;
    this.#readPackets();
    if (this.#wait === undefined && this.#paused && !this.#closed) {
      this.#paused = false;
      this.#socket.resume();
    }
  }

  #readPackets(): void {
    const timeMs = this.#host.clock.nowMs();
    try {
      while (this.#wait === undefined && !this.#closed && this.#reader.next()) {
        if (this.#reader.type === PACKET.PUBLISH) this.#publish(timeMs);
        else this.#control();
      }
    } catch (error) {
      this.#violated(error);
    }
  }

  #violated(error: unknown): void {
    if (error instanceof MqttProtocolError) {
      this.close(error.reason, error.message);
      return;
    }
    const known = toTributaryError(error);
    switch (known.code) {
      case "OVERLOADED":
        this.#waitForRoom();
        return;
      case "SHUTTING_DOWN":
        this.close("stopping");
        return;
      case "TOO_MANY_STREAMS":
        this.close("too-many-streams", known.message);
        return;
      case "QUOTA_EXCEEDED":
      case "STORAGE_FULL":
        this.close("quota", known.message);
        return;
      default:
        this.close("defect", known.message);
        return;
    }
  }

  #publish(timeMs: number): void {
    const reader = this.#reader;
    const { ingest, counters, routes } = this.#host;
    const { bytes, qos, packetId } = reader;
    if (this.#unanswered >= LIMITS.mqttUnansweredMax) {
      this.#waitFor("answers");
      return;
    }
    let route = this.#route;
    if (route === undefined || !isTopicOf(route, bytes, reader.topicStart, reader.topicEnd)) {
      const found = routes.find(bytes, reader.topicStart, reader.topicEnd);
      if (typeof found === "string") {
        this.close(found, topicText(bytes.subarray(reader.topicStart, reader.topicEnd)));
        return;
      }
      this.#route = route = found;
    }
    const digest = qos === 2 ? crc32c(bytes.subarray(reader.topicStart, reader.bodyEnd)) : 0;
    if (qos === 2 && ingest.isRepetition(this.#clientId, packetId, digest)) {
      // Until it is released, a packet id names the publish that was taken [MQTT-4.3.3-2]. A publish of other bytes cannot be that one:
      // it was released in a part of our past, or of the client's, that is lost (a restored backup). The DUP flag does not tell, for
      // the first attempt may have been lost, and there are clients that do not set it.
      counters.duplicates++;
      this.#unanswered++;
      ingest.barrier(this, TOKEN.PUBREC | packetId);
      return;
    }
    if (route.json && !isJson(bytes.subarray(reader.payloadStart, reader.bodyEnd))) {
      this.close("event-not-json", topicText(route.topic));
      return;
    }
    let admission = this.#append(route, timeMs, digest);
    if (admission === "gone") {
      routes.reopen(route);
      admission = this.#append(route, timeMs, digest);
    }
    if (admission !== "accepted") {
      this.#notAccepted(admission);
      return;
    }
    if (qos > 0) this.#unanswered++;
    counters.publishes[qos as 0 | 1 | 2]++;
  }

  /** `digest`: of topic, packet id and payload, for QoS 2. */
  #append(route: TopicRoute, timeMs: number, digest: number): Admission {
    const { bytes, qos, packetId, payloadStart, bodyEnd } = this.#reader;
    const { ingest } = this.#host;
    const clientId = this.#clientId;
    const key = route.key ?? clientId;
    if (qos === 1) return ingest.append(route.handle, key, timeMs, bytes, payloadStart, bodyEnd, this, TOKEN.PUBACK | packetId);
    if (qos === 0) return ingest.append(route.handle, key, timeMs, bytes, payloadStart, bodyEnd, undefined, 0);
    const change = { type: "packet-id", clientId, packetId, digest } as const;
    return ingest.append(route.handle, key, timeMs, bytes, payloadStart, bodyEnd, this, TOKEN.PUBREC | packetId, change);
  }

  #notAccepted(admission: Exclude<Admission, "accepted">): void {
    switch (admission) {
      case "full":
        this.#waitForRoom();
        return;
      case "too-large":
        this.close("event-too-large", `an event may have ${LIMITS.eventBytesMax} bytes, its key ${LIMITS.routingKeyBytesMax}`);
        return;
      case "quota":
        this.close("quota", "the disk quota of the gateway is used up");
        return;
      case "stopping":
        this.close("stopping");
        return;
      case "closed":
      case "gone":
        this.close("stream-closed", topicText(this.#route?.topic ?? new Uint8Array(0)));
        return;
    }
  }

  #control(): void {
    const reader = this.#reader;
    switch (reader.type) {
      case PACKET.CONNECT:
        this.#connect(reader.connect());
        return;
      case PACKET.PUBREL:
        this.#release(reader.packetId);
        return;
      case PACKET.PINGREQ:
        this.#write(PINGRESP_BYTES); // [MQTT-3.12.4-1]
        return;
      case PACKET.SUBSCRIBE:
        this.#write(encodeSubackRefused(reader.packetId, reader.filterCount()));
        return;
      case PACKET.UNSUBSCRIBE: {
        reader.filterCount();
        const bytes = new Uint8Array(4);
        writeAck(bytes, 0, ACK_HEAD.UNSUBACK, reader.packetId); // [MQTT-3.10.4-5]: also where nothing was subscribed
        this.#write(bytes);
        return;
      }
      case PACKET.DISCONNECT:
        this.#will = undefined; // [MQTT-3.14.4-3]
        this.close("disconnect");
        return;
      default:
        // PUBACK, PUBREC, PUBCOMP answer publishes of ours, and there are none.
        return;
    }
  }

  #connect(connect: ConnectPacket): void {
    const { ingest, credentials, random, routes } = this.#host;
    if (connect.level !== 4 && connect.level !== 3) {
      this.#refuse(CONNACK.PROTOCOL_LEVEL, "protocol-level"); // [MQTT-3.1.2-2]
      return;
    }
    const code = checkCredentials(credentials, connect);
    if (code !== CONNACK.ACCEPTED) {
      this.#refuse(code, code === CONNACK.NOT_AUTHORIZED ? "credentials-missing" : "credentials");
      return;
    }
    // An empty id asks for one of ours, which nobody can come back under [MQTT-3.1.3-7] [MQTT-3.1.3-8]; 3.1 does not know that.
    const mayBeEmpty = connect.cleanSession && connect.level === 4;
    if (connect.clientId === "" ? !mayBeEmpty : Buffer.byteLength(connect.clientId) > LIMITS.routingKeyBytesMax) {
      this.#refuse(CONNACK.CLIENT_ID, "client-id", connect.clientId.slice(0, 40));
      return;
    }
    const clientId = connect.clientId === "" ? `auto-${bytesToHex(random.bytes(8))}` : connect.clientId;
    if (connect.will !== undefined) {
      const { topic, payload } = connect.will;
      const route = routes.find(topic, 0, topic.length);
      if (typeof route === "string") {
        this.#refuse(CONNACK.NOT_AUTHORIZED, route, topicText(topic));
        return;
      }
      this.#will = { route, payload };
    }
    this.#clientId = clientId;
    this.#silentTicksMax = Math.ceil((connect.keepAliveSeconds * 1500) / SWEEP_INTERVAL_MS);
    const known = this.#host.takeOver(clientId, this, connect.cleanSession) || ingest.hasPacketIds(clientId);
    if (!connect.cleanSession) {
      this.#accept(known); // [MQTT-3.2.2-2]
      return;
    }
    // A clean session begins when nothing of the old one can come back [MQTT-3.1.2-6]: a packet id that came back would make a
    // repetition of the client's next event. Without ids there may still be a release that is not durable yet.
    this.#wait = "session";
    if (!ingest.hasPacketIds(clientId)) {
      ingest.barrier(this, TOKEN.CONNACK);
      return;
    }
    const admission = ingest.change({ type: "clear-packet-ids", clientId }, this, TOKEN.CONNACK);
    if (admission !== "accepted") this.#notAccepted(admission);
  }

  #accept(sessionPresent: boolean): void {
    if (this.#closed) return;
    this.#connected = true;
    this.#write(encodeConnack(sessionPresent, CONNACK.ACCEPTED));
    this.#goOn("session");
  }

  #release(packetId: number): void {
    const { ingest } = this.#host;
    if (this.#unanswered >= LIMITS.mqttUnansweredMax) {
      this.#waitFor("answers");
      return;
    }
    const token = TOKEN.PUBCOMP | packetId;
    if (ingest.holdsPacketId(this.#clientId, packetId)) {
      const change = { type: "release-packet-id", clientId: this.#clientId, packetId } as const;
      const admission = ingest.change(change, this, token);
      if (admission !== "accepted") {
        this.#notAccepted(admission);
        return;
      }
    } else {
      // Released before, perhaps a moment ago and not durably: answered too early, the id could come back after a crash.
      ingest.barrier(this, token);
    }
    this.#unanswered++;
  }

  // Effects

  #waitFor(what: Wait): void {
    this.#reader.unread();
    this.#wait = what;
  }

  #waitForRoom(): void {
    this.#waitFor("room");
    this.#host.counters.waits++;
    this.#host.waitForRoom(this);
  }

  #write(bytes: Uint8Array): void {
    const roomLeft = this.#socket.write(bytes);
    if (!roomLeft) this.#wait ??= "drain";
  }

  /** Tells the client why, then closes. */
  #refuse(code: number, reason: CloseReason, detail = ""): void {
    this.#will = undefined;
    this.#end(reason, detail, () => {
      this.#socket.end(encodeConnack(false, code), () => this.#socket.destroy()); // [MQTT-3.2.2-4] [MQTT-3.2.2-5]
    });
  }

  #end(reason: CloseReason, detail: string, endSocket: () => void): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#wait = undefined;
    this.#socket.off("data", this.#onData);
    endSocket();
    const will = this.#will;
    this.#will = undefined;
    this.#host.closed(this, reason, detail);
    // Every end but DISCONNECT [MQTT-3.1.2-8] and our own shutdown.
    if (will !== undefined && reason !== "stopping") this.#host.publishWill(will.route, will.route.key ?? this.#clientId, will.payload);
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function isJson(bytes: Uint8Array): boolean {
  try {
    JSON.parse(utf8.decode(bytes));
    return true;
  } catch {
    return false;
  }
}

/** For a log line: what a stranger sent must neither flood nor break it. */
function topicText(topic: Uint8Array): string {
  const text = Buffer.from(topic.subarray(0, 120)).toString("utf8");
  return topic.length > 120 ? `${text}…` : text;
}
