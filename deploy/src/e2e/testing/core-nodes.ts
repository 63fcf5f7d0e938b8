import { join } from "node:path";
import type { NatsServer } from "@tributary/common/testing/nats-server";
import { append, http } from "./http.ts";
import { type Server, startServer, statusOf, until } from "./tributary.ts";

export interface CoreFacts {
  readonly node: string;
  readonly member: boolean;
  readonly members: readonly { readonly node: string; readonly name: string; readonly url: string }[];
  readonly containers: readonly { readonly container: number; readonly state: string; readonly epoch: number; readonly owner: string }[];
}

export interface Producer {
  /** Events acknowledged so far. */
  sent(): number;
  /** Resolves with all that was acknowledged. */
  stop(): Promise<string[]>;
}

/** Core nodes on one nats-server or cluster of them, and those who append through them. */
export class CoreNodes {
  readonly #folder: string;
  readonly #nats: Pick<NatsServer, "url" | "monitoringUrl">;
  readonly #containers: number;
  /** Those that producers may use. */
  alive: readonly Server[] = [];

  constructor(folder: string, nats: Pick<NatsServer, "url" | "monitoringUrl">, containers: number) {
    this.#folder = folder;
    this.#nats = nats;
    this.#containers = containers;
  }

  argumentsOf(name: string): string[] {
    return [
      ...["--data", join(this.#folder, name), "--nats", this.#nats.url, "--set", `nats.monitorUrl=${this.#nats.monitoringUrl}`],
      ...["--set", `core.lake=${join(this.#folder, "lake")}`, "--set", `core.name=${name}`],
      ...["--set", `core.containers=${this.#containers}`, "--set", "core.flushIntervalMs=100"],
    ];
  }

  start(name: string): Promise<Server> {
    return startServer("core", this.argumentsOf(name));
  }

  async allServed(containers: number = this.#containers): Promise<boolean> {
    return (await this.#serving(containers)).every((owners) => owners.length === 1);
  }

  async balanced(containers: number = this.#containers): Promise<boolean> {
    const owners = await this.#serving(containers);
    const loads = this.alive.map((server) => owners.flat().filter((owner) => owner === server).length);
    return owners.every((list) => list.length === 1) && Math.max(...loads) - Math.min(...loads) <= 1;
  }

  /** Which nodes serve each container, as they say themselves. */
  async #serving(containers: number): Promise<Server[][]> {
    const { alive } = this;
    const facts = await Promise.all(alive.map((server) => statusOf<CoreFacts>(server.coreHttp)));
    return Array.from({ length: containers }, (_, id) => alive.filter((_, i) => facts[i]?.containers[id]?.state === "serving"));
  }

  async create(streams: readonly string[]): Promise<void> {
    for (const [i, stream] of streams.entries()) {
      await until(`${stream} to be created`, async () => {
        const server = this.alive[i % this.alive.length] as Server;
        const headers = { "Content-Type": "application/octet-stream" };
        return (await http("PUT", `${server.coreHttp}/v1/stream/${stream}`, { headers })).status < 300;
      });
    }
  }

  /** A producer that sends one event after the other to whatever node takes it, until it is told to stop. */
  produce(stream: string): Producer {
    const acknowledged: string[] = [];
    let stopped = false;
    const run = async () => {
      for (let seq = 0; !stopped; seq++) {
        const headers = { "Producer-Id": stream.replace("/", "-"), "Producer-Epoch": "0", "Producer-Seq": `${seq}` };
        for (let tries = 0; ; tries++) {
          const target = this.alive[(seq + tries) % this.alive.length] as Server;
          const answer = await append(target.coreHttp, stream, `${stream} ${seq}`, headers).catch(() => undefined);
          if (answer && answer.status < 300) break;
          if (answer && answer.status < 500) throw new Error(`${answer.status} ${answer.body}`);
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        acknowledged.push(`${stream} ${seq}`);
      }
      return acknowledged;
    };
    const running = run();
    return {
      sent: () => acknowledged.length,
      stop() {
        stopped = true;
        return running;
      },
    };
  }
}

/** Waits until each of them has so many more events acknowledged. */
export async function more(producers: readonly Producer[], count: number): Promise<void> {
  const before = producers.map((producer) => producer.sent());
  await until("more to be acknowledged", () => producers.every((producer, i) => producer.sent() >= (before[i] as number) + count));
}
