import { crc32c } from "@tributary/common/checksum";
import { TributaryError } from "@tributary/common/errors";
import type { Gateway } from "@tributary/edge/gateway/gateway";
import type { AckTarget } from "@tributary/edge/gateway/ingest";
import type { StateChange } from "@tributary/edge/store/edge-store";
import type { GatewayNode } from "../gateway-node.ts";
import type { Submission } from "../ledger.ts";
import type { SimProcess } from "../process.ts";
import type { StreamShape } from "../shape.ts";
import type { SimWorld } from "../sim-world.ts";
import { compose, nextOperation, pause, startClient, type Workplace } from "./client.ts";

const TIMEOUT_MS = 3_000;
/** Packet ids come round soon. */
const PACKET_IDS = 24;

interface Publish {
  readonly stream: StreamShape;
  readonly submission: Submission;
  readonly data: Uint8Array;
  readonly packetId: number;
  stage: "publish" | "release" | "done";
}

/** A device with QoS 1 or 2 and a session that the gateway keeps: what is not answered is sent again on the next connection. */
export function startMqttClient(world: SimWorld, name: string, node: GatewayNode, at: Workplace, qos: 1 | 2): void {
  startClient(world, name, async (client) => {
    let nextPacketId = 1;
    while (await nextOperation(world, client)) {
      const { stream, submissions, pack } = compose(world, name, at, qos === 2 ? "exactly-once" : "at-least-once", 8);
      const publishes = submissions.map((submission, i): Publish => {
        const packetId = nextPacketId;
        nextPacketId = (nextPacketId % PACKET_IDS) + 1;
        return { stream, submission, data: pack.payload.slice(i === 0 ? 0 : pack.ends[i - 1], pack.ends[i]), packetId, stage: "publish" };
      });
      for (let connection: object | undefined; publishes.some(({ stage }) => stage !== "done") && !world.hopeless; ) {
        connection ??= await connect(world, client, node, name);
        if (connection) {
          const session = new Session(world, client, node, name, connection, qos, at);
          const results = await Promise.all(publishes.filter(({ stage }) => stage !== "done").map((publish) => session.advance(publish)));
          if (results.every((advanced) => advanced)) continue;
        }
        connection = undefined;
        await pause(world, client, 600);
      }
    }
  });
}

async function connect(world: SimWorld, client: SimProcess, node: GatewayNode, name: string): Promise<object | undefined> {
  const connection = {};
  try {
    await world.request(
      client,
      () => node.target,
      TIMEOUT_MS,
      async () => void node.connections.set(name, connection),
    );
    return connection;
  } catch {
    return undefined;
  }
}

/** One connection. What arrives on one that a newer one has ended is not looked at. */
class Session {
  readonly #world: SimWorld;
  readonly #client: SimProcess;
  readonly #node: GatewayNode;
  readonly #name: string;
  readonly #connection: object;
  readonly #qos: 1 | 2;
  readonly #at: Workplace;

  constructor(world: SimWorld, client: SimProcess, node: GatewayNode, name: string, connection: object, qos: 1 | 2, at: Workplace) {
    this.#world = world;
    this.#client = client;
    this.#node = node;
    this.#name = name;
    this.#connection = connection;
    this.#qos = qos;
    this.#at = at;
  }

  /** Sends the next packet of the exchange; true once it is answered. */
  async advance(publish: Publish): Promise<boolean> {
    const releases = publish.stage === "release";
    if (!releases) this.#world.ledger.sent([publish.submission]);
    try {
      await this.#world.request(
        this.#client,
        () => this.#node.target,
        TIMEOUT_MS,
        (gateway) => (releases ? this.#release(gateway, publish) : this.#publish(gateway, publish)),
      );
      publish.stage = this.#qos === 2 && !releases ? "release" : "done";
      return true;
    } catch {
      return false;
    }
  }

  /** As the MQTT listener does it. */
  #publish({ ingest }: Gateway, { stream, submission, data, packetId }: Publish): Promise<void> {
    const acknowledged = () => this.#world.ledger.acknowledge([submission], this.#at.lastSeq());
    const digest = crc32c(data);
    if (this.#qos === 2 && ingest.isRepetition(this.#name, packetId, digest)) {
      return this.#answered((target) => {
        ingest.barrier(target, 0);
        return "accepted";
      }).then(acknowledged);
    }
    const handle =
      ingest.stream(stream) ??
      ingest.createStream(stream, {
        contentType: stream.contentType ?? "application/octet-stream",
        segments: stream.segments,
        closed: false,
      });
    const change: StateChange | undefined = this.#qos === 2 ? { type: "packet-id", clientId: this.#name, packetId, digest } : undefined;
    return this.#answered((target) => ingest.append(handle, submission.key, 0, data, 0, data.length, target, 0, change)).then(acknowledged);
  }

  #release({ ingest }: Gateway, { packetId }: Publish): Promise<void> {
    return this.#answered((target) => {
      if (ingest.holdsPacketId(this.#name, packetId))
        return ingest.change({ type: "release-packet-id", clientId: this.#name, packetId }, target, 0);
      ingest.barrier(target, 0);
      return "accepted";
    });
  }

  #answered(begin: (target: AckTarget) => string): Promise<void> {
    if (this.#node.connections.get(this.#name) !== this.#connection) return new Promise(() => {});
    return new Promise((resolve, reject) => {
      const target: AckTarget = { committed: () => resolve(), failed: (_, error) => reject(error), flush() {} };
      const admission = begin(target);
      if (admission !== "accepted") reject(new TributaryError("OVERLOADED", `not taken: ${admission}`));
    });
  }
}
