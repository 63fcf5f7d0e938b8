import { LIMITS } from "@tributary/common/limits";
import fc from "fast-check";
import { generate, parser as oracleParser, type Packet } from "mqtt-packet";
import { describe, expect, it } from "vitest";
import {
  ACK_HEAD,
  CONNACK,
  encodeConnack,
  encodeSubackRefused,
  MqttPacketReader,
  MqttProtocolError,
  PACKET,
  PINGRESP_BYTES,
  type ProtocolViolation,
  writeAck,
} from "./mqtt-packet.ts";

/** What the reader says of a packet, as plain values. */
type Seen = Record<string, unknown>;

function describePacket(reader: MqttPacketReader): Seen {
  const text = (from: number, to: number) => Buffer.from(reader.bytes.subarray(from, to)).toString("hex");
  switch (reader.type) {
    case PACKET.CONNECT: {
      const { will, password, ...rest } = reader.connect();
      const hex = (bytes: Uint8Array | undefined) => (bytes === undefined ? undefined : Buffer.from(bytes).toString("hex"));
      return { type: "connect", ...rest, willTopic: hex(will?.topic), willPayload: hex(will?.payload), password: hex(password) };
    }
    case PACKET.PUBLISH:
      return {
        type: "publish",
        qos: reader.qos,
        duplicate: reader.duplicate,
        packetId: reader.packetId,
        topic: text(reader.topicStart, reader.topicEnd),
        payload: text(reader.payloadStart, reader.bodyEnd),
      };
    case PACKET.SUBSCRIBE:
    case PACKET.UNSUBSCRIBE:
      return { type: reader.type, packetId: reader.packetId, filters: reader.filterCount() };
    case PACKET.PINGREQ:
    case PACKET.DISCONNECT:
      return { type: reader.type };
    default:
      return { type: reader.type, packetId: reader.packetId };
  }
}

/** Feeds chunks and collects packets; the reason if the reader refused. */
function readAll(chunks: readonly Uint8Array[]): { seen: Seen[]; refused: ProtocolViolation | undefined; pending: number } {
  const reader = new MqttPacketReader();
  const seen: Seen[] = [];
  try {
    for (const chunk of chunks) {
      // A socket may reuse its memory: the reader must not depend on what lies behind a chunk's end.
      reader.push(chunk.slice());
      while (reader.next()) seen.push(describePacket(reader));
    }
  } catch (error) {
    if (!(error instanceof MqttProtocolError)) throw error;
    return { seen, refused: error.reason, pending: 0 };
  }
  return { seen, refused: undefined, pending: reader.pending };
}

function split(bytes: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const at = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
  const chunks: Uint8Array[] = [];
  let from = 0;
  for (const to of [...at, bytes.length]) {
    if (to > from) chunks.push(bytes.subarray(from, to));
    from = to;
  }
  return chunks;
}

const text = fc.string({ unit: "grapheme", maxLength: 40 }).filter((value) => !value.includes("\0"));
const topic = fc.string({ unit: "grapheme-ascii", minLength: 1, maxLength: 40 }).filter((value) => !/[#+\0]/.test(value));
const payload = fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes));
const packetId = fc.integer({ min: 1, max: 65_535 });

const connectArbitrary = fc
  .record({
    level: fc.constantFrom(3 as const, 4 as const),
    clientId: fc.string({ unit: "grapheme-ascii", minLength: 1, maxLength: 23 }),
    clean: fc.boolean(),
    keepalive: fc.integer({ min: 0, max: 65_535 }),
    will: fc.option(fc.record({ topic, payload, qos: fc.constantFrom(0 as const, 1 as const, 2 as const), retain: fc.boolean() })),
    username: fc.option(text.filter((value) => value !== "")),
    password: fc.option(payload.filter((bytes) => bytes.length > 0)),
  })
  .map(
    ({ level, will, username, password, ...rest }): Packet => ({
      cmd: "connect",
      protocolId: level === 4 ? "MQTT" : "MQIsdp",
      protocolVersion: level,
      ...rest,
      ...(will ? { will: { ...will, payload: will.payload } } : {}),
      ...(username !== null ? { username } : {}),
      ...(username !== null && password !== null ? { password } : {}),
    }),
  );

const publishArbitrary = fc
  .record({
    topic,
    payload,
    qos: fc.constantFrom(0 as const, 1 as const, 2 as const),
    dup: fc.boolean(),
    retain: fc.boolean(),
    messageId: packetId,
  })
  .map(
    ({ qos, dup, messageId, ...rest }): Packet => ({
      cmd: "publish",
      ...rest,
      qos,
      dup: dup && qos > 0,
      ...(qos > 0 ? { messageId } : {}),
    }),
  );

const laterArbitrary: fc.Arbitrary<Packet> = fc.oneof(
  { weight: 6, arbitrary: publishArbitrary },
  fc.record({ cmd: fc.constantFrom("puback", "pubrec", "pubcomp", "pubrel"), messageId: packetId }) as fc.Arbitrary<Packet>,
  fc.record({
    cmd: fc.constant("subscribe"),
    messageId: packetId,
    subscriptions: fc.array(fc.record({ topic, qos: fc.constantFrom(0, 1, 2) }), { minLength: 1, maxLength: 4 }),
  }) as fc.Arbitrary<Packet>,
  fc.record({
    cmd: fc.constant("unsubscribe"),
    messageId: packetId,
    unsubscriptions: fc.array(topic, { minLength: 1, maxLength: 4 }),
  }) as fc.Arbitrary<Packet>,
  fc.constant({ cmd: "pingreq" } as Packet),
);

const sessionArbitrary = fc
  .tuple(connectArbitrary, fc.array(laterArbitrary, { maxLength: 12 }))
  .map(([connect, later]) => [connect, ...later]);

/** The same description, from what mqtt-packet parsed. */
function describeOracle(packet: Packet): Seen {
  const hex = (value: string | Buffer) => Buffer.from(value).toString("hex");
  switch (packet.cmd) {
    case "connect":
      return {
        type: "connect",
        level: packet.protocolVersion,
        clientId: packet.clientId,
        cleanSession: packet.clean,
        keepAliveSeconds: packet.keepalive,
        willTopic: packet.will ? hex(packet.will.topic) : undefined,
        willPayload: packet.will ? hex(packet.will.payload) : undefined,
        username: packet.username,
        password: packet.password ? hex(packet.password) : undefined,
      };
    case "publish":
      return {
        type: "publish",
        qos: packet.qos,
        duplicate: packet.dup,
        packetId: packet.messageId ?? 0,
        topic: hex(packet.topic),
        payload: hex(packet.payload),
      };
    case "subscribe":
      return { type: PACKET.SUBSCRIBE, packetId: packet.messageId, filters: packet.subscriptions.length };
    case "unsubscribe":
      return { type: PACKET.UNSUBSCRIBE, packetId: packet.messageId, filters: packet.unsubscriptions.length };
    case "pingreq":
      return { type: PACKET.PINGREQ };
    default:
      return { type: PACKET[packet.cmd.toUpperCase() as keyof typeof PACKET], packetId: packet.messageId };
  }
}

function oracleRead(bytes: Uint8Array): Seen[] {
  const seen: Seen[] = [];
  const parser = oracleParser();
  parser.on("packet", (packet) => seen.push(describeOracle(packet)));
  parser.on("error", (error) => {
    throw error;
  });
  parser.parse(Buffer.from(bytes));
  return seen;
}

describe("MqttPacketReader", () => {
  it("sees what mqtt-packet sees, however the stream is cut", () => {
    fc.assert(
      fc.property(sessionArbitrary, fc.array(fc.nat(), { maxLength: 20 }), (packets, cuts) => {
        const bytes = Buffer.concat(packets.map((packet) => generate(packet)));
        const result = readAll(split(bytes, cuts));
        expect(result.refused).toBeUndefined();
        expect(result.pending).toBe(0);
        expect(result.seen).toEqual(oracleRead(bytes));
      }),
      { numRuns: 300 },
    );
  });

  it("gives the same packets byte by byte", () => {
    fc.assert(
      fc.property(sessionArbitrary, (packets) => {
        const bytes = Buffer.concat(packets.map((packet) => generate(packet)));
        const single = [...bytes].map((byte) => Uint8Array.of(byte));
        expect(readAll(single)).toEqual(readAll([bytes]));
      }),
      { numRuns: 50 },
    );
  });

  it("throws nothing but its own error on garbage, and refuses alike however it is cut", () => {
    const connect = generate({ cmd: "connect", protocolId: "MQTT", protocolVersion: 4, clientId: "c", clean: true, keepalive: 0 });
    fc.assert(
      fc.property(fc.boolean(), fc.uint8Array({ maxLength: 200 }), fc.array(fc.nat(), { maxLength: 6 }), (afterConnect, garbage, cuts) => {
        const bytes = afterConnect ? Buffer.concat([connect, garbage]) : garbage;
        expect(readAll(split(bytes, cuts))).toEqual(readAll([bytes]));
      }),
      { numRuns: 2000 },
    );
  });

  it("throws nothing but its own error on damaged sessions", () => {
    fc.assert(
      fc.property(sessionArbitrary, fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { maxLength: 5 }), (packets, damage) => {
        const bytes = Buffer.concat(packets.map((packet) => generate(packet)));
        for (const [at, value] of damage) bytes[at % bytes.length] = value;
        readAll([bytes]);
      }),
      { numRuns: 500 },
    );
  });

  const connect = generate({ cmd: "connect", protocolId: "MQTT", protocolVersion: 4, clientId: "c", clean: true, keepalive: 0 });
  const malformed: readonly [ProtocolViolation, string, number[]][] = [
    ["connect-expected", "a publish before CONNECT", [0x30, 3, 0, 1, 97]],
    ["connect-twice", "a second CONNECT", [...connect, ...connect]],
    ["packet-type", "type 0", [...connect, 0x00, 0]],
    ["packet-type", "type 15", [...connect, 0xf0, 0]],
    ["packet-type", "CONNACK from a client", [...connect, 0x20, 2, 0, 0]],
    ["packet-flags", "PUBREL without its flags", [...connect, 0x60, 2, 0, 1]],
    ["packet-flags", "PINGREQ with flags", [...connect, 0xc1, 0]],
    ["packet-length", "a remaining length of five bytes", [...connect, 0x30, 0x80, 0x80, 0x80, 0x80, 0x01]],
    ["packet-length", "a topic longer than its packet", [...connect, 0x30, 3, 0, 9, 97]],
    ["packet-length", "PINGREQ with a body", [...connect, 0xc0, 1, 0]],
    ["packet-length", "PUBACK with a longer body", [...connect, 0x40, 3, 0, 1, 0]],
    ["packet-id", "packet id 0", [...connect, 0x32, 5, 0, 1, 97, 0, 0]],
    ["quality-of-service", "QoS 3", [...connect, 0x36, 5, 0, 1, 97, 0, 1]],
    ["quality-of-service", "a subscription with QoS 3", [...connect, 0x82, 6, 0, 1, 0, 1, 97, 3]],
    ["duplicate-flag", "DUP with QoS 0", [...connect, 0x38, 3, 0, 1, 97]],
    ["topic-empty", "an empty topic", [...connect, 0x30, 2, 0, 0]],
    ["filters-missing", "SUBSCRIBE without filters", [...connect, 0x82, 2, 0, 1]],
    ["protocol-name", "another protocol", [0x10, 12, 0, 4, 72, 84, 84, 80, 4, 2, 0, 0, 0, 0]],
    ["connect-flags", "the reserved connect flag", [0x10, 12, 0, 4, 77, 81, 84, 84, 4, 3, 0, 0, 0, 0]],
    ["connect-flags", "a password without a user", [0x10, 14, 0, 4, 77, 81, 84, 84, 4, 66, 0, 0, 0, 0, 0, 0]],
    ["connect-flags", "will QoS without a will", [0x10, 12, 0, 4, 77, 81, 84, 84, 4, 10, 0, 0, 0, 0]],
    ["text", "a client id that is not UTF-8", [0x10, 13, 0, 4, 77, 81, 84, 84, 4, 2, 0, 0, 0, 1, 0xff]],
    ["text", "a client id with U+0000", [0x10, 13, 0, 4, 77, 81, 84, 84, 4, 2, 0, 0, 0, 1, 0]],
    ["packet-length", "CONNECT with bytes left over", [0x10, 13, 0, 4, 77, 81, 84, 84, 4, 2, 0, 0, 0, 0, 7]],
  ];
  it.each(malformed)("refuses as %s: %s", (reason, _what, bytes) => {
    expect(readAll([Uint8Array.from(bytes)]).refused).toBe(reason);
  });

  it("reads the level of a protocol that it does not speak, and nothing else", () => {
    const five = generate({ cmd: "connect", protocolId: "MQTT", protocolVersion: 5, clientId: "c", clean: true, keepalive: 9 });
    expect(readAll([five]).seen[0]).toMatchObject({ type: "connect", level: 5, clientId: "" });
  });

  it("refuses a packet over the limit as soon as its length is known, and takes one at the limit", () => {
    const lengthOf = (total: number) => {
      const remaining = total - 4; // one byte of type and three of length
      return [0x30, (remaining & 127) | 128, ((remaining >> 7) & 127) | 128, remaining >> 14];
    };
    expect(readAll([connect, Uint8Array.from(lengthOf(LIMITS.mqttPacketBytesMax + 1))]).refused).toBe("packet-too-large");
    const whole = new Uint8Array(LIMITS.mqttPacketBytesMax);
    whole.set([...lengthOf(whole.length), 0, 1, 97]);
    const chunks = [connect];
    for (let at = 0; at < whole.length; at += 65_536) chunks.push(Buffer.from(whole.subarray(at, at + 65_536)));
    const { seen, pending } = readAll(chunks);
    expect(pending).toBe(0);
    expect(seen).toHaveLength(2);
    expect(seen[1]).toMatchObject({ type: "publish", topic: "61" });
  });

  it("refuses a CONNECT that claims more than its fields can hold", () => {
    expect(readAll([Uint8Array.of(0x10, 0xff, 0xff, 0x3f)]).refused).toBe("packet-too-large");
  });
});

describe("answers", () => {
  it("are read by mqtt-packet as meant", () => {
    const ack = new Uint8Array(4);
    const written = (head: number, id: number) => {
      writeAck(ack, 0, head, id);
      return ack.slice();
    };
    const seen: unknown[] = [];
    const parser = oracleParser();
    parser.on("packet", (packet) => seen.push(packet));
    const parts = [
      encodeConnack(true, CONNACK.ACCEPTED),
      encodeConnack(false, CONNACK.BAD_CREDENTIALS),
      written(ACK_HEAD.PUBACK, 1),
      written(ACK_HEAD.PUBREC, 65_535),
      written(ACK_HEAD.PUBCOMP, 256),
      written(ACK_HEAD.UNSUBACK, 513),
      PINGRESP_BYTES,
      encodeSubackRefused(77, 200),
    ];
    parser.parse(Buffer.concat(parts));
    expect(seen).toMatchObject([
      { cmd: "connack", sessionPresent: true, returnCode: 0 },
      { cmd: "connack", sessionPresent: false, returnCode: 4 },
      { cmd: "puback", messageId: 1 },
      { cmd: "pubrec", messageId: 65_535 },
      { cmd: "pubcomp", messageId: 256 },
      { cmd: "unsuback", messageId: 513 },
      { cmd: "pingresp" },
      { cmd: "suback", messageId: 77, granted: new Array(200).fill(128) },
    ]);
  });
});
