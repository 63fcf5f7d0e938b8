import { connect, type Socket } from "node:net";
import { TributaryError } from "@tributary/common/errors";
import mqttPacket, { type Packet } from "mqtt-packet";

/** Publishes at QoS 1 over one connection with many publishes in flight; a broken connection is an error. */
export interface MqttPublisher {
  /** Resolves once there is room for more, not when it is acknowledged. */
  publish(topic: string, payload: Uint8Array): Promise<void>;
  /** Resolves once everything published is acknowledged. */
  drain(): Promise<void>;
  close(): void;
}

const IN_FLIGHT_MAX = 1_000;

/** @throws SERVER_UNREACHABLE, UNAUTHORIZED */
export async function connectMqttPublisher(options: {
  host: string;
  port: number;
  user: string | undefined;
  password: string | undefined;
}): Promise<MqttPublisher> {
  const socket = connect({ host: options.host, port: options.port, noDelay: true });
  const parser = mqttPacket.parser();
  const inFlight = new Set<number>();
  let failure: TributaryError | undefined;
  let wake: () => void = () => {};
  let packetId = 0;
  const unreachable = (detail: string) => new TributaryError("SERVER_UNREACHABLE", `MQTT at ${options.host}:${options.port}: ${detail}`);
  const until = async (condition: () => boolean) => {
    while (!condition()) {
      if (failure) throw failure;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  let accepted = false;
  parser.on("packet", (packet: Packet) => {
    if (packet.cmd === "connack") {
      if (packet.returnCode === 0) accepted = true;
      else failure = new TributaryError("UNAUTHORIZED", `MQTT connection refused with return code ${packet.returnCode}`);
    } else if (packet.cmd === "puback") inFlight.delete(packet.messageId as number);
    wake();
  });
  parser.on("error", (error: Error) => socket.destroy(error));
  socket.on("data", (chunk) => parser.parse(chunk));
  socket.on("error", (error) => {
    failure ??= unreachable(error.message);
  });
  socket.on("close", () => {
    failure ??= unreachable("the connection was closed");
    wake();
  });
  sendConnect(socket, options);
  await until(() => accepted);
  return {
    async publish(topic, payload) {
      await until(() => inFlight.size < IN_FLIGHT_MAX);
      if (failure) throw failure;
      do packetId = (packetId % 65_535) + 1;
      while (inFlight.has(packetId));
      inFlight.add(packetId);
      const copy = Buffer.from(payload);
      socket.write(mqttPacket.generate({ cmd: "publish", topic, payload: copy, qos: 1, dup: false, retain: false, messageId: packetId }));
    },
    drain: () => until(() => inFlight.size === 0),
    close: () => socket.end(mqttPacket.generate({ cmd: "disconnect" })),
  };
}

function sendConnect(socket: Socket, options: { user: string | undefined; password: string | undefined }): void {
  socket.write(
    mqttPacket.generate({
      cmd: "connect",
      protocolId: "MQTT",
      protocolVersion: 4,
      clean: true,
      clientId: `tributary-replay-${process.pid}`,
      keepalive: 60,
      ...(options.user === undefined ? {} : { username: options.user }),
      ...(options.password === undefined ? {} : { password: Buffer.from(options.password) }),
    }),
  );
}
