import { parseStreamName } from "@tributary/common/names";
import { TributaryClient } from "@tributary/common/sdk/client";
import { recordAck, recordResend } from "../check/client-histories.ts";
import { HttpProducer } from "./http-producer.ts";
import { eventPayload, type Ledger } from "./ledger.ts";
import { MqttClient } from "./mqtt-client.ts";

export interface LoadOptions {
  readonly httpPort: number;
  readonly mqttPort: number;
  /** Distinguishes the clients of one run from those of another in one ledger. */
  readonly prefix: string;
  /** Streams that the clients are spread over; "scope/stream". */
  readonly streams: readonly string[];
  readonly http: number;
  /** Events of one HTTP request. */
  readonly httpBatch: number;
  readonly mqttQos1: number;
  readonly mqttQos2: number;
  readonly mqttDepth: number;
  /** Characters added to each payload. */
  readonly fillerChars: number;
  /** A device's pause before its next event or batch. Default 0: as fast as the answers come. */
  readonly intervalMs?: number;
}

export interface Load {
  /** Sends nothing new and waits until everything sent is acknowledged. */
  drain(): Promise<void>;
  /** Answers that no repetition can mend; empty unless something is wrong. */
  readonly refusals: readonly string[];
}

/** HTTP asks for a stream that the gateway knows, whoever made it at the core. */
export async function tellGateways(gatewayUrls: readonly string[], streams: readonly string[]): Promise<void> {
  for (const server of gatewayUrls) {
    for (const stream of streams) await new TributaryClient({ server }).createStream(parseStreamName(stream));
  }
}

/** Devices as connections of this process: each numbers its events, which all have one routing key, its name. */
export function startLoad(ledger: Ledger, options: LoadOptions): Load {
  const filler = "abcdefghijklmnopqrstuvwxyz0123456789".repeat(Math.ceil(options.fillerChars / 36)).slice(0, options.fillerChars);
  const drains: (() => Promise<void>)[] = [];
  const refusals: string[] = [];
  const streamOf = (i: number) => options.streams[i % options.streams.length] as string;

  for (let i = 0; i < options.http; i++) {
    const client = ledger.enter(`${options.prefix}-http-${i}`, streamOf(i), "exactly-once", filler);
    const producer = new HttpProducer({
      port: options.httpPort,
      stream: streamOf(i),
      producerId: client.client,
      key: client.client,
      batch: options.httpBatch,
      intervalMs: options.intervalMs ?? 0,
      next(count) {
        const from = client.sent + 1;
        client.sent += count;
        let body = "";
        for (let n = from; n <= client.sent; n++) body += eventPayload(client.client, n, filler);
        return { from, to: client.sent, body };
      },
      acked: (from, to) => recordAck(client, from, to),
      refused: (status, body) => refusals.push(`${client.client}: ${status} ${body.slice(0, 200)}`),
    });
    drains.push(() => producer.drain());
  }
  for (let i = 0; i < options.mqttQos1 + options.mqttQos2; i++) {
    const qos = i < options.mqttQos1 ? 1 : 2;
    const client = ledger.enter(`${options.prefix}-mqtt${qos}-${i}`, streamOf(i), qos === 1 ? "at-least-once" : "exactly-once", filler);
    const mqtt = new MqttClient({
      port: options.mqttPort,
      clientId: client.client,
      topic: `${streamOf(i)}/${client.client}`,
      qos,
      depth: options.mqttDepth,
      intervalMs: options.intervalMs ?? 0,
      next: () => ({ number: ++client.sent, payload: eventPayload(client.client, client.sent, filler) }),
      acked: (number) => recordAck(client, number, number),
      resent: (number) => recordResend(client, number),
    });
    drains.push(async () => {
      await mqtt.drain();
      mqtt.destroy();
    });
  }
  return {
    refusals,
    async drain() {
      await Promise.all(drains.map((drain) => drain()));
    },
  };
}
