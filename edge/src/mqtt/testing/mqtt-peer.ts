import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { generate, type Packet, parser } from "mqtt-packet";

type ConnectOptions = Partial<Extract<Packet, { cmd: "connect" }>>;

/** A raw MQTT connection under a test's control, packet by packet. */
export class MqttPeer {
  readonly socket: Socket;
  /** Settles when the connection has ended, however. */
  readonly ended: Promise<void>;
  readonly #received: Packet[] = [];
  #wake: () => void = () => {};
  #over = false;

  private constructor(socket: Socket) {
    this.socket = socket;
    const answers = parser();
    answers.on("packet", (packet) => {
      this.#received.push(packet);
      this.#wake();
    });
    socket.on("data", (chunk) => answers.parse(chunk));
    socket.on("error", () => {});
    this.ended = new Promise<void>((resolve) => {
      socket.on("close", () => {
        this.#over = true;
        this.#wake();
        resolve();
      });
    });
  }

  /** A connection that has sent nothing. */
  static async open(port: number): Promise<MqttPeer> {
    const socket = connect(port, "127.0.0.1");
    const peer = new MqttPeer(socket);
    await once(socket, "connect");
    return peer;
  }

  /** A connection that was accepted. */
  static async connect(port: number, options: ConnectOptions = {}): Promise<MqttPeer> {
    const peer = await MqttPeer.open(port);
    peer.sendConnect(options);
    const answer = await peer.next();
    if (answer?.cmd !== "connack" || answer.returnCode !== 0) throw new Error(`not accepted: ${JSON.stringify(answer)}`);
    return peer;
  }

  sendConnect(options: ConnectOptions = {}): void {
    this.send({ cmd: "connect", protocolId: "MQTT", protocolVersion: 4, clientId: "peer", clean: true, keepalive: 0, ...options });
  }

  send(...packets: readonly Packet[]): void {
    this.socket.write(Buffer.concat(packets.map((packet) => generate(packet))));
  }

  publish(topic: string, payload: string | Buffer, qos: 0 | 1 | 2, messageId = 0, dup = false): void {
    this.send({ cmd: "publish", topic, payload, qos, dup, retain: false, ...(qos > 0 ? { messageId } : {}) });
  }

  /** The next packet from the listener; undefined when the connection has ended. */
  async next(): Promise<Packet | undefined> {
    while (this.#received.length === 0 && !this.#over) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#received.shift();
  }

  /** What came before the answer to a ping that is sent now: the listener has then read everything sent so far. */
  async beforePong(): Promise<Packet[]> {
    this.send({ cmd: "pingreq" });
    const before: Packet[] = [];
    for (;;) {
      const packet = await this.next();
      if (packet === undefined) throw new Error("the connection ended before the pong");
      if (packet.cmd === "pingresp") return before;
      before.push(packet);
    }
  }

  destroy(): void {
    this.socket.destroy();
  }
}
