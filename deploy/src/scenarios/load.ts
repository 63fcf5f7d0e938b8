import { parseStreamName } from "@tributary/common/names";
import { TributaryClient } from "@tributary/common/sdk/client";
import { type ClientHistory, recordAck, recordResend } from "../check/client-histories.ts";
import { HttpProducer } from "./http-producer.ts";
import type { Ledger } from "./ledger.ts";
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
  connections(): Connections;
  /** Answers that no repetition can mend; empty unless something is wrong. */
  readonly refusals: readonly string[];
}

export interface Connections {
  readonly open: number;
  /** Since the beginning. */
  readonly made: number;
}

/** What one device speaks; MQTT with its QoS. */
type Face = "http" | 1 | 2;

/** HTTP asks for a stream that the gateway knows, whoever made it at the core. */
export async function tellGateways(gatewayUrls: readonly string[], streams: readonly string[]): Promise<void> {
  for (const server of gatewayUrls) {
    for (const stream of streams) await new TributaryClient({ server }).createStream(parseStreamName(stream));
  }
}

/** Devices of a load, in this process or another: each numbers its events, which all have one routing key, its name. */
export function enterDevices(ledger: Ledger, options: LoadOptions): { readonly face: Face; readonly history: ClientHistory }[] {
  const { prefix, streams, http, mqttQos1, mqttQos2 } = options;
  const filler = fillerOf(options);
  const enter = (face: Face, i: number) => {
    const client = `${prefix}-${face === "http" ? face : `mqtt${face}`}-${i}`;
    const promise = face === 1 ? "at-least-once" : "exactly-once";
    return { face, history: ledger.enter(client, streams[i % streams.length] as string, promise, filler) };
  };
  return [
    ...Array.from({ length: http }, (_, i) => enter("http", i)),
    ...Array.from({ length: mqttQos1 + mqttQos2 }, (_, i) => enter(i < mqttQos1 ? 1 : 2, i)),
  ];
}

/** The devices as connections of this process. */
export function startLoad(ledger: Ledger, options: LoadOptions): Load {
  const refusals: string[] = [];
  const devices = enterDevices(ledger, options).map(({ face, history }) =>
    face === "http" ? startProducer(history, options, refusals) : startMqtt(history, face, options),
  );
  return {
    refusals,
    connections: () => ({
      open: devices.filter(({ isConnected }) => isConnected).length,
      made: devices.reduce((sum, { connects }) => sum + connects, 0),
    }),
    async drain() {
      await Promise.all(devices.map((device) => device.drain()));
    },
  };
}

function startProducer(history: ClientHistory, options: LoadOptions, refusals: string[]): HttpProducer {
  const { client, stream, payload } = history;
  return new HttpProducer({
    port: options.httpPort,
    stream,
    producerId: client,
    key: client,
    batch: options.httpBatch,
    intervalMs: options.intervalMs ?? 0,
    next(count) {
      const from = history.sent + 1;
      history.sent += count;
      let body = "";
      for (let n = from; n <= history.sent; n++) body += payload(n);
      return { from, to: history.sent, body };
    },
    acked: (from, to) => recordAck(history, from, to),
    refused: (status, body) => refusals.push(`${client}: ${status} ${body.slice(0, 200)}`),
  });
}

function startMqtt(history: ClientHistory, qos: 1 | 2, options: LoadOptions): MqttClient {
  const { client, stream, payload } = history;
  return new MqttClient({
    port: options.mqttPort,
    clientId: client,
    topic: `${stream}/${client}`,
    qos,
    depth: options.mqttDepth,
    intervalMs: options.intervalMs ?? 0,
    next: () => ({ number: ++history.sent, payload: payload(history.sent) }),
    acked: (number) => recordAck(history, number, number),
    resent: (number) => recordResend(history, number),
  });
}

function fillerOf({ fillerChars }: LoadOptions): string {
  return "abcdefghijklmnopqrstuvwxyz0123456789".repeat(Math.ceil(fillerChars / 36)).slice(0, fillerChars);
}
