import { once } from "node:events";
import { connect, type Socket } from "node:net";
import mqttPacket, { type Packet } from "mqtt-packet";

/** A bare MQTT connection, so that a test can also send what no client would. */
export interface MqttPeer {
  readonly socket: Socket;
  readonly received: readonly Packet[];
  send(packet: Packet): void;
  sendRaw(bytes: Uint8Array): void;
  /** Resolves when the server has closed the connection. */
  readonly closed: Promise<unknown>;
}

export async function mqttPeer(port: number): Promise<MqttPeer> {
  const socket = connect({ host: "127.0.0.1", port, noDelay: true });
  await once(socket, "connect");
  const parser = mqttPacket.parser();
  const received: Packet[] = [];
  parser.on("packet", (packet: Packet) => received.push(packet));
  socket.on("data", (chunk) => parser.parse(chunk));
  socket.on("error", () => {});
  const closed = new Promise((resolve) => {
    socket.on("close", resolve);
  });
  return { socket, received, closed, send: (packet) => socket.write(mqttPacket.generate(packet)), sendRaw: (bytes) => socket.write(bytes) };
}

export const CONNECT: Packet = {
  cmd: "connect",
  protocolId: "MQTT",
  protocolVersion: 4,
  clean: true,
  clientId: "e2e",
  keepalive: 0,
};

export function publish(topic: string, payload: string | Buffer, messageId: number): Packet {
  return { cmd: "publish", topic, payload, qos: 1, dup: false, retain: false, messageId };
}
