import { connect, type Socket } from "node:net";
import mqttPacket, { type Packet } from "mqtt-packet";

/**
 * A publishing MQTT 3.1.1 client with a persistent session that says exactly what it sent, resent and got acknowledged.
 * QoS 1 repeats what was not acknowledged (with DUP); QoS 2 goes on with its handshake, so that nothing is doubled.
 */
export interface MqttClientOptions {
  readonly port: number;
  readonly clientId: string;
  readonly topic: string;
  readonly qos: 1 | 2;
  /** Publishes in flight. */
  readonly depth: number;
  /** Between an acknowledgement and the next publish. */
  readonly intervalMs: number;
  /** The next payload, or undefined when there is nothing to send now. */
  next(): { number: number; payload: string } | undefined;
  acked(number: number): void;
  resent(number: number): void;
}

interface InFlight {
  readonly packetId: number;
  readonly number: number;
  readonly payload: string;
  state: "published" | "released";
}

const RECONNECT_MS = 100;

export class MqttClient {
  readonly #options: MqttClientOptions;
  /** In order of sending: resent in that order, as [MQTT-4.6.0-1] asks. */
  readonly #inFlight = new Map<number, InFlight>();
  #socket: Socket | undefined;
  #connected = false;
  #stopped = false;
  #packetId = 0;
  #idle: (() => void) | undefined;
  #reconnect: ReturnType<typeof setTimeout> | undefined;
  /** How often it was connected. */
  connects = 0;

  constructor(options: MqttClientOptions) {
    this.#options = options;
    this.#connect();
  }

  get isConnected(): boolean {
    return this.#connected;
  }

  /** Sends nothing new, and resolves once everything sent is acknowledged and the connection closed. */
  async drain(): Promise<void> {
    this.#stopped = true;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
      this.#settle();
    });
    clearTimeout(this.#reconnect);
    this.#socket?.removeAllListeners("close");
    this.#socket?.destroy();
  }

  #connect(): void {
    const socket = connect({ host: "127.0.0.1", port: this.#options.port, noDelay: true });
    const parser = mqttPacket.parser();
    this.#socket = socket;
    socket.on("connect", () => {
      const { clientId } = this.#options;
      socket.write(mqttPacket.generate({ cmd: "connect", protocolId: "MQTT", protocolVersion: 4, clean: false, clientId, keepalive: 30 }));
    });
    parser.on("packet", (packet) => this.#packet(packet));
    parser.on("error", () => socket.destroy());
    socket.on("data", (chunk) => parser.parse(chunk));
    socket.on("error", () => {});
    socket.on("close", () => {
      this.#connected = false;
      this.#reconnect = setTimeout(() => this.#connect(), RECONNECT_MS);
    });
  }

  #packet(packet: Packet): void {
    if (packet.cmd === "connack") {
      this.#connected = true;
      this.connects++;
      for (const publish of this.#inFlight.values()) {
        if (publish.state === "released") this.#send({ cmd: "pubrel", messageId: publish.packetId });
        else {
          if (this.#options.qos === 1) this.#options.resent(publish.number);
          this.#publish(publish, true);
        }
      }
      this.#fill();
      return;
    }
    if (packet.cmd !== "puback" && packet.cmd !== "pubrec" && packet.cmd !== "pubcomp") return;
    const packetId = packet.messageId as number;
    const publish = this.#inFlight.get(packetId);
    if (packet.cmd === "pubrec") {
      // An id that is not in flight any more is released all the same [MQTT-4.3.3-1].
      if (publish && publish.state === "published") {
        publish.state = "released";
        this.#options.acked(publish.number);
      }
      this.#send({ cmd: "pubrel", messageId: packetId });
      return;
    }
    if (!publish) return;
    this.#inFlight.delete(packetId);
    if (packet.cmd === "puback") this.#options.acked(publish.number);
    if (this.#options.intervalMs > 0 && !this.#stopped) setTimeout(() => this.#fill(), this.#options.intervalMs);
    else this.#fill();
  }

  #fill(): void {
    const { socket, options } = { socket: this.#socket, options: this.#options };
    socket?.cork();
    while (this.#connected && !this.#stopped && this.#inFlight.size < options.depth) {
      const event = options.next();
      if (!event) break;
      const publish: InFlight = { packetId: this.#freePacketId(), ...event, state: "published" };
      this.#inFlight.set(publish.packetId, publish);
      this.#publish(publish, false);
    }
    socket?.uncork();
    this.#settle();
  }

  #settle(): void {
    if (this.#stopped && this.#inFlight.size === 0) {
      this.#idle?.();
      this.#idle = undefined;
    }
  }

  #freePacketId(): number {
    do this.#packetId = (this.#packetId % 65_535) + 1;
    while (this.#inFlight.has(this.#packetId));
    return this.#packetId;
  }

  #publish(publish: InFlight, dup: boolean): void {
    const { topic, qos } = this.#options;
    this.#send({ cmd: "publish", topic, qos, dup, retain: false, messageId: publish.packetId, payload: publish.payload });
  }

  #send(packet: Packet): void {
    this.#socket?.write(mqttPacket.generate(packet));
  }
}
