import { assert } from "@tributary/common/assert";
import { LIMITS } from "@tributary/common/limits";

/**
 * MQTT 3.1.1 (and 3.1) packets as a gateway meets them: what a publishing client sends, and what it is answered.
 * Written by hand, because a general library costs several times as much for each publish. [MQTT-x.y.z-n] names the
 * normative statement of the OASIS standard that a line carries out.
 *
 *   Packet => type:4 flags:4 remainingLength body       remainingLength: 1 to 4 bytes, 7 bits each, least significant first
 */
export const PACKET = {
  CONNECT: 1,
  CONNACK: 2,
  PUBLISH: 3,
  PUBACK: 4,
  PUBREC: 5,
  PUBREL: 6,
  PUBCOMP: 7,
  SUBSCRIBE: 8,
  SUBACK: 9,
  UNSUBSCRIBE: 10,
  UNSUBACK: 11,
  PINGREQ: 12,
  PINGRESP: 13,
  DISCONNECT: 14,
} as const;

/** Why a connection was closed for what it sent. Also the label under which it is counted. */
export type ProtocolViolation =
  | "packet-type"
  | "packet-flags"
  | "packet-length"
  | "packet-too-large"
  | "packet-id"
  | "quality-of-service"
  | "duplicate-flag"
  | "topic-empty"
  | "text"
  | "protocol-name"
  | "connect-flags"
  | "connect-expected"
  | "connect-twice"
  | "filters-missing";

/** The one error that the reader throws. The connection has to be closed: where the next packet begins is unknown. [MQTT-4.8.0-1] */
export class MqttProtocolError extends Error {
  override readonly name = "MqttProtocolError";
  readonly reason: ProtocolViolation;

  constructor(reason: ProtocolViolation, message: string) {
    super(message);
    this.reason = reason;
  }
}

export interface ConnectPacket {
  /** 4 for MQTT 3.1.1, 3 for 3.1. All else is empty for another level: only a return code can be given. */
  readonly level: number;
  readonly clientId: string;
  readonly cleanSession: boolean;
  readonly keepAliveSeconds: number;
  readonly will: { readonly topic: Uint8Array; readonly payload: Uint8Array } | undefined;
  readonly username: string | undefined;
  readonly password: Uint8Array | undefined;
}

/** A CONNECT has five fields of at most 64 KiB; nothing larger is worth reading from a stranger. */
const CONNECT_BYTES_MAX = 5 * 65_537 + 32;

/** Lower four bits of the first byte that each type demands; PUBLISH has its own, -1 marks what no client may send. [MQTT-2.2.2-1] [MQTT-2.2.2-2] */
const REQUIRED_FLAGS: readonly number[] = [-1, 0, -1, -2, 0, 0, 2, 0, 2, -1, 2, -1, 0, -1, 0, -1];

/**
 * Cuts a byte stream into packets. `push` gives it what the socket read, `next` moves to the next whole packet and says whether
 * there is one. The fields describe that packet until the next call; offsets point into `bytes`, so a publish is never copied here.
 * What is left of a packet that has not fully arrived is kept in a buffer of its own, at most one packet long.
 */
export class MqttPacketReader {
  bytes: Uint8Array = EMPTY;
  /** A value of PACKET. */
  type = 0;
  bodyStart = 0;
  bodyEnd = 0;
  /** PUBLISH: quality of service, duplicate flag, topic and payload. */
  qos = 0;
  duplicate = false;
  topicStart = 0;
  topicEnd = 0;
  payloadStart = 0;
  /** PUBLISH with QoS 1 and 2, acknowledgements, SUBSCRIBE, UNSUBSCRIBE. */
  packetId = 0;

  /** Where the packet at hand begins. */
  #start = 0;
  #at = 0;
  #end = 0;
  #connected = false;
  /** True while `bytes` is a buffer of our own with room behind #end, not a chunk of the socket. */
  #owned = false;

  /** Bytes that were pushed and belong to packets which `next` has not given yet. */
  get pending(): number {
    return this.#end - this.#at;
  }

  /** The reader keeps the chunk until its packets are read. */
  push(chunk: Uint8Array): void {
    const left = this.#end - this.#at;
    if (left === 0) {
      this.bytes = chunk;
      this.#at = 0;
      this.#end = chunk.length;
      this.#owned = false;
      return;
    }
    const needed = left + chunk.length;
    if (this.#owned && this.#end + chunk.length <= this.bytes.length) {
      this.bytes.set(chunk, this.#end);
    } else {
      // Doubles, so that a large packet is copied a few times and a claimed length costs no memory before its bytes arrive.
      const grown = new Uint8Array(Math.max(needed, Math.min(needed * 2, LIMITS.mqttPacketBytesMax)));
      grown.set(this.bytes.subarray(this.#at, this.#end));
      grown.set(chunk, left);
      this.bytes = grown;
      this.#at = 0;
      this.#owned = true;
      this.#end = left;
    }
    this.#end += chunk.length;
  }

  /** @throws MqttProtocolError */
  next(): boolean {
    const { bytes } = this;
    const at = this.#at;
    const end = this.#end;
    if (at === end) {
      this.bytes = EMPTY;
      this.#at = 0;
      this.#end = 0;
      return false;
    }
    const first = bytes[at] as number;
    const type = first >> 4;
    if (this.#connected !== (type !== PACKET.CONNECT)) throw this.#outOfTurn();
    const required = REQUIRED_FLAGS[type] as number;
    if (required !== (first & 15) && required !== -2) throw this.#badFirstByte(type, required, first & 15);

    let body = at + 2;
    if (body > end) return this.#waitForMore();
    let length = bytes[at + 1] as number;
    if (length > 127) {
      length &= 127;
      for (let shift = 7; ; shift += 7) {
        if (shift > 21) throw new MqttProtocolError("packet-length", "the remaining length has more than 4 bytes");
        if (body === end) return this.#waitForMore();
        const byte = bytes[body++] as number;
        length |= (byte & 127) << shift;
        if (byte < 128) break;
      }
    }
    const bytesMax = this.#connected ? LIMITS.mqttPacketBytesMax : CONNECT_BYTES_MAX;
    if (body - at + length > bytesMax) {
      throw new MqttProtocolError("packet-too-large", `a packet of ${body - at + length} bytes exceeds the limit of ${bytesMax}`);
    }
    const bodyEnd = body + length;
    if (bodyEnd > end) return this.#waitForMore();
    this.#start = at;
    this.#at = bodyEnd;
    this.type = type;
    this.bodyStart = body;
    this.bodyEnd = bodyEnd;
    if (type === PACKET.PUBLISH) this.#readPublish(first, body, bodyEnd);
    else this.#checkBody(type, body, bodyEnd);
    return true;
  }

  /** Puts back the packet that `next` has just given: it could not be taken yet, and `next` will give it again. */
  unread(): void {
    assert(this.#at > this.#start, "a packet is put back once");
    this.#at = this.#start;
    if (this.type === PACKET.CONNECT) this.#connected = false;
  }

  /** The CONNECT that `next` has just given. @throws MqttProtocolError */
  connect(): ConnectPacket {
    assert(this.type === PACKET.CONNECT, "a CONNECT is at hand");
    return decodeConnect(this.bytes.subarray(this.bodyStart, this.bodyEnd));
  }

  /** How many topic filters the SUBSCRIBE or UNSUBSCRIBE names that `next` has just given. @throws MqttProtocolError */
  filterCount(): number {
    assert(this.type === PACKET.SUBSCRIBE || this.type === PACKET.UNSUBSCRIBE, "a SUBSCRIBE or UNSUBSCRIBE is at hand");
    const fields = new FieldReader(this.bytes.subarray(this.bodyStart + 2, this.bodyEnd));
    let count = 0;
    while (fields.remaining > 0) {
      if (decodeText(fields.readBytes()) === "") throw new MqttProtocolError("topic-empty", "a topic filter is empty");
      if (this.type === PACKET.SUBSCRIBE && fields.readByte() > 2) {
        throw new MqttProtocolError("quality-of-service", "a subscription asks for a reserved QoS"); // [MQTT-3.8.3-4]
      }
      count++;
    }
    // [MQTT-3.8.3-3] [MQTT-3.10.3-2]
    if (count === 0) throw new MqttProtocolError("filters-missing", "a subscription names no topic filter");
    return count;
  }

  /** The socket's chunk may be large; only the head of the unfinished packet is kept. */
  #waitForMore(): false {
    if (!this.#owned) {
      this.bytes = this.bytes.slice(this.#at, this.#end);
      this.#end -= this.#at;
      this.#at = 0;
      this.#owned = true;
    }
    return false;
  }

  #readPublish(first: number, start: number, end: number): void {
    const { bytes } = this;
    const qos = (first >> 1) & 3;
    this.qos = qos;
    this.duplicate = (first & 8) !== 0;
    let at = start + 2;
    if (at > end) throw cutOff();
    this.topicStart = at;
    at += ((bytes[start] as number) << 8) | (bytes[start + 1] as number);
    if (at > end) throw cutOff();
    this.topicEnd = at;
    if (at === this.topicStart) throw new MqttProtocolError("topic-empty", "the topic of a publish is empty"); // [MQTT-4.7.3-1]
    if (qos === 0) {
      if (this.duplicate) throw new MqttProtocolError("duplicate-flag", "a QoS 0 publish is marked as a duplicate"); // [MQTT-3.3.1-2]
      this.packetId = 0;
    } else {
      if (qos === 3) throw new MqttProtocolError("quality-of-service", "a publish has QoS 3"); // [MQTT-3.3.1-4]
      this.packetId = this.#readPacketId(at, end);
      at += 2;
    }
    this.payloadStart = at;
  }

  #checkBody(type: number, start: number, end: number): void {
    if (type === PACKET.CONNECT) {
      this.#connected = true;
    } else if (type === PACKET.PINGREQ || type === PACKET.DISCONNECT) {
      if (start !== end) throw new MqttProtocolError("packet-length", "a packet without a body has one");
    } else {
      this.packetId = this.#readPacketId(start, end);
      const subscription = type === PACKET.SUBSCRIBE || type === PACKET.UNSUBSCRIBE;
      if (!subscription && end !== start + 2) throw new MqttProtocolError("packet-length", "an acknowledgement has 2 bytes");
    }
  }

  #readPacketId(at: number, end: number): number {
    if (at + 2 > end) throw cutOff();
    const id = ((this.bytes[at] as number) << 8) | (this.bytes[at + 1] as number);
    if (id === 0) throw new MqttProtocolError("packet-id", "a packet identifier is 0"); // [MQTT-2.3.1-1]
    return id;
  }

  #badFirstByte(type: number, required: number, flags: number): MqttProtocolError {
    if (required === -1) return new MqttProtocolError("packet-type", `a client may not send packets of type ${type}`);
    return new MqttProtocolError("packet-flags", `packets of type ${type} need the flags ${required}, not ${flags}`);
  }

  #outOfTurn(): MqttProtocolError {
    return this.#connected
      ? new MqttProtocolError("connect-twice", "a second CONNECT on one connection") // [MQTT-3.1.0-2]
      : new MqttProtocolError("connect-expected", "the first packet must be CONNECT"); // [MQTT-3.1.0-1]
  }
}

/**
 *   Connect => protocolName level:8 flags:8 keepAlive:16 clientId [willTopic willMessage] [username] [password]
 *   each name or text: length:16 bytes
 */
function decodeConnect(body: Uint8Array): ConnectPacket {
  const fields = new FieldReader(body);
  const protocol = Buffer.from(fields.readBytes()).toString("latin1");
  const level = fields.readByte();
  if (protocol !== "MQTT" && protocol !== "MQIsdp") {
    throw new MqttProtocolError("protocol-name", "the protocol is not MQTT"); // [MQTT-3.1.2-1]
  }
  if (level !== (protocol === "MQTT" ? 4 : 3)) return unsupportedLevel(level);
  const flags = fields.readByte();
  const keepAliveSeconds = (fields.readByte() << 8) | fields.readByte();
  const hasWill = (flags & 4) !== 0;
  const willQos = (flags >> 3) & 3;
  const hasUsername = (flags & 128) !== 0;
  const hasPassword = (flags & 64) !== 0;
  const badFlags =
    (flags & 1) !== 0 || // [MQTT-3.1.2-3]
    (!hasWill && (flags & 0b0011_1000) !== 0) || // [MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT-3.1.2-15]
    willQos === 3 || // [MQTT-3.1.2-14]
    (hasPassword && !hasUsername); // [MQTT-3.1.2-22]
  if (badFlags) throw new MqttProtocolError("connect-flags", `the connect flags ${flags} contradict each other`);

  const clientId = decodeText(fields.readBytes()); // [MQTT-3.1.3-3]
  // A will outlives the packet, so it is copied out of the socket's chunk.
  const will = hasWill ? { topic: fields.readBytes().slice(), payload: fields.readBytes().slice() } : undefined;
  const username = hasUsername ? decodeText(fields.readBytes()) : undefined;
  const password = hasPassword ? fields.readBytes().slice() : undefined;
  if (fields.remaining !== 0) throw new MqttProtocolError("packet-length", "bytes are left over behind a CONNECT");
  return { level, clientId, cleanSession: (flags & 2) !== 0, keepAliveSeconds, will, username, password };
}

function unsupportedLevel(level: number): ConnectPacket {
  return { level, clientId: "", cleanSession: true, keepAliveSeconds: 0, will: undefined, username: undefined, password: undefined };
}

/** Reads fields of a body; running over its end is the client's mistake. */
class FieldReader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get remaining(): number {
    return this.#bytes.length - this.#at;
  }

  readByte(): number {
    const byte = this.#bytes[this.#at++];
    if (byte === undefined) throw cutOff();
    return byte;
  }

  readBytes(): Uint8Array {
    const length = (this.readByte() << 8) | this.readByte();
    const from = this.#at;
    this.#at += length;
    if (this.#at > this.#bytes.length) throw cutOff();
    return this.#bytes.subarray(from, this.#at);
  }
}

const EMPTY = new Uint8Array(0);

// A byte order mark is an ordinary character. [MQTT-1.5.3-3]
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** @throws MqttProtocolError for what is not UTF-8 or holds U+0000 [MQTT-1.5.3-1] [MQTT-1.5.3-2] */
export function decodeText(bytes: Uint8Array): string {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch {
    throw new MqttProtocolError("text", "a text is not UTF-8");
  }
  if (text.includes("\0")) throw new MqttProtocolError("text", "a text holds the character U+0000");
  return text;
}

function cutOff(): MqttProtocolError {
  return new MqttProtocolError("packet-length", "a field runs over the end of its packet");
}

/** Return codes of CONNACK (section 3.2.2.3). */
export const CONNACK = {
  ACCEPTED: 0,
  PROTOCOL_LEVEL: 1,
  CLIENT_ID: 2,
  UNAVAILABLE: 3,
  BAD_CREDENTIALS: 4,
  NOT_AUTHORIZED: 5,
} as const;

export function encodeConnack(sessionPresent: boolean, code: number): Uint8Array {
  return Uint8Array.of(PACKET.CONNACK << 4, 2, sessionPresent ? 1 : 0, code);
}

export const PINGRESP_BYTES: Uint8Array = Uint8Array.of(PACKET.PINGRESP << 4, 0);

/** Refuses every filter: a gateway takes publishes and serves reads over HTTP. */
export function encodeSubackRefused(packetId: number, filters: number): Uint8Array {
  const length = 2 + filters;
  const head = [PACKET.SUBACK << 4];
  for (let rest = length; ; rest >>= 7) {
    head.push(rest > 127 ? (rest & 127) | 128 : rest);
    if (rest <= 127) break;
  }
  const out = new Uint8Array(head.length + length).fill(0x80); // [MQTT-3.8.4-5]: one return code for each filter
  out.set(head);
  out[head.length] = packetId >> 8;
  out[head.length + 1] = packetId & 255;
  return out;
}

/** First byte of acknowledgements that carry nothing but a packet id. */
export const ACK_HEAD = {
  PUBACK: 0x40,
  PUBREC: 0x50,
  PUBCOMP: 0x70,
  UNSUBACK: 0xb0,
} as const;

/** Writes one 4-byte acknowledgement. */
export function writeAck(out: Uint8Array, at: number, head: number, packetId: number): void {
  out[at] = head;
  out[at + 1] = 2;
  out[at + 2] = packetId >> 8;
  out[at + 3] = packetId & 255;
}
