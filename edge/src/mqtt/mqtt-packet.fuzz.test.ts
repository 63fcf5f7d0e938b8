import { LIMITS } from "@tributary/common/limits";
import { isValidName } from "@tributary/common/names";
import { fuzzBytes } from "@tributary/common/testing/fuzz";
import { Dice } from "@tributary/common/testing/mutate";
import { generate, type Packet } from "mqtt-packet";
import { expect, it } from "vitest";
import { MqttPacketReader, MqttProtocolError, PACKET } from "./mqtt-packet.ts";
import { mapTopic } from "./topic-route.ts";

const beside = import.meta.url;
const CONNECT: Packet = { cmd: "connect", protocolId: "MQTT", protocolVersion: 4, clientId: "press-7", clean: true, keepalive: 30 };
const WITH_ALL: Packet = {
  ...CONNECT,
  username: "u",
  password: Buffer.from("p"),
  will: { topic: "plant/press", payload: Buffer.from("gone"), qos: 1, retain: false },
};
const publish = (qos: 0 | 1 | 2, messageId?: number): Packet => {
  return {
    cmd: "publish",
    topic: "plant/press",
    payload: "pressure 8.13",
    qos,
    dup: false,
    retain: false,
    ...(messageId ? { messageId } : {}),
  };
};
const REST: Packet[] = [
  { cmd: "pubrel", messageId: 8, qos: 1 } as Packet,
  { cmd: "subscribe", messageId: 9, subscriptions: [{ topic: "a/#", qos: 1 }] },
  { cmd: "unsubscribe", messageId: 10, unsubscriptions: ["a/#"] },
  { cmd: "pingreq" },
  { cmd: "disconnect" },
];
const SESSIONS: readonly Packet[][] = [
  [CONNECT, publish(0), publish(1, 7), publish(2, 8), ...REST],
  [WITH_ALL, publish(1, 65_535), publish(0)],
  [{ ...CONNECT, protocolId: "MQIsdp", protocolVersion: 3 }, publish(0)],
  [{ ...CONNECT, protocolVersion: 5 }],
];

/** Everything that a connection asks of the reader, each packet in plain words. */
function readAll(reader: MqttPacketReader, seen: string[]): void {
  while (reader.next()) {
    const { type, bodyStart, bodyEnd, bytes } = reader;
    expect(bodyStart <= bodyEnd && bodyEnd <= bytes.length).toBe(true);
    let what = "";
    if (type === PACKET.CONNECT) what = JSON.stringify(reader.connect());
    else if (type === PACKET.SUBSCRIBE || type === PACKET.UNSUBSCRIBE) what = String(reader.filterCount());
    else if (type === PACKET.PUBLISH) {
      const { topicStart, topicEnd, payloadStart, qos, packetId } = reader;
      expect(bodyStart < topicStart && topicStart < topicEnd && topicEnd <= payloadStart && payloadStart <= bodyEnd).toBe(true);
      what = `${qos} ${packetId} ${Buffer.from(bytes.subarray(topicStart, bodyEnd)).toString("hex")}`;
    }
    seen.push(`${type} ${what}`);
  }
}

/** What was read, and why it ended, with the bytes arriving in pieces. */
function outcome(bytes: Uint8Array, pieces: readonly number[]): string[] {
  const reader = new MqttPacketReader();
  const seen: string[] = [];
  let at = 0;
  try {
    for (const length of [...pieces, bytes.length]) {
      const chunk = Uint8Array.from(bytes.subarray(at, at + length));
      at += chunk.length;
      if (chunk.length > 0) reader.push(chunk);
      readAll(reader, seen);
      expect(reader.bytes.length).toBeLessThanOrEqual(2 * LIMITS.mqttPacketBytesMax + bytes.length);
    }
  } catch (error) {
    if (!(error instanceof MqttProtocolError)) throw error;
    seen.push(error.reason);
  }
  return seen;
}

it("mutated sessions are read or end with a reason, however their bytes are cut", async () => {
  const dice = new Dice(11);
  await fuzzBytes({
    name: "mqtt-session",
    beside,
    seeds: SESSIONS.map((packets) => new Uint8Array(Buffer.concat(packets.map((packet) => generate(packet))))),
    run: (bytes) => {
      const pieces = Array.from({ length: 6 }, () => 1 + dice.below(Math.max(1, bytes.length >> 2)));
      const byOne = bytes.length > 2_000 ? [] : new Array<number>(bytes.length).fill(1);
      const whole = outcome(bytes, []);
      expect(outcome(bytes, pieces)).toEqual(whole);
      expect(outcome(bytes, byOne)).toEqual(whole);
    },
  });
});

it("a packet that claims to be large takes no memory before its bytes come", () => {
  const reader = new MqttPacketReader();
  reader.push(new Uint8Array(generate(CONNECT)));
  expect(reader.next()).toBe(true);
  reader.push(Uint8Array.of(0x30, 0xff, 0xff, 0x3f));
  expect(reader.next()).toBe(false);
  expect(reader.bytes.length).toBeLessThan(1_000);
});

it("mutated topics map to a stream or are refused", async () => {
  const utf8 = (text: string) => new TextEncoder().encode(text);
  await fuzzBytes({
    name: "mqtt-topic",
    beside,
    seeds: ["plant/press", "press", "plant/press/line 1/µ", "$SYS/a", "a/b/+/#"].map(utf8),
    run: (bytes) => {
      const mapping = mapTopic(Buffer.from(bytes).toString());
      if ("refused" in mapping) return;
      expect(isValidName(mapping.name.scope) && isValidName(mapping.name.stream)).toBe(true);
      expect(Buffer.byteLength(mapping.key ?? "")).toBeLessThanOrEqual(LIMITS.routingKeyBytesMax);
    },
  });
});
