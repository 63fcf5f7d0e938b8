import type { ProtocolViolation } from "./mqtt-packet.ts";
import type { TopicRefusal } from "./topic-route.ts";

/** Why a connection ended. */
export type CloseReason =
  | ProtocolViolation
  | TopicRefusal
  /** The client said DISCONNECT, or just went away. */
  | "disconnect"
  | "connection-lost"
  | "keep-alive"
  | "connect-timeout"
  | "taken-over"
  | "too-many-connections"
  | "protocol-level"
  | "client-id"
  | "credentials"
  | "credentials-missing"
  | "event-too-large"
  | "event-not-json"
  | "stream-closed"
  | "too-many-streams"
  | "quota"
  | "commit-failed"
  | "stopping"
  | "defect";

/** What the MQTT listener counts. Plain numbers that the metrics page reads when it is asked. */
export interface MqttCounters {
  connectionsOpen: number;
  connectionsAccepted: number;
  /** Publishes taken into the log, by quality of service 0, 1, 2. */
  readonly publishes: [number, number, number];
  /** QoS 2 publishes that repeated a packet id and were not appended again. */
  duplicates: number;
  /** Publishes answered with PUBACK or PUBREC. */
  acknowledged: number;
  /** Wills published, and those lost because nothing more could be taken in. */
  wills: number;
  willsLost: number;
  /** Times that a connection had to wait because the log was busy. */
  waits: number;
  readonly closed: Partial<Record<CloseReason, number>>;
}

export function createMqttCounters(): MqttCounters {
  return {
    connectionsOpen: 0,
    connectionsAccepted: 0,
    publishes: [0, 0, 0],
    duplicates: 0,
    acknowledged: 0,
    wills: 0,
    willsLost: 0,
    waits: 0,
    closed: {},
  };
}
