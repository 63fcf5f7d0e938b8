import { type ErrorCode, TributaryError } from "@tributary/common/errors";
import type { Id, StreamName } from "@tributary/common/names";
import type { EventPack } from "@tributary/common/stream-service";
import type { StateChange } from "../store/edge-store.ts";

/**
 * The way into a gateway, for every face. An event costs no promise, closure or object: its bytes are copied once into the open
 * batch, and whoever wants to know gets a token back once the commit that holds it is on disk.
 *
 * Everything is accepted in the order of the calls, committed in that order, and answered in that order. When a commit fails,
 * everything accepted and not yet durable fails with it: nothing is answered twice, and nothing is acknowledged falsely.
 */
export interface Ingest {
  /** undefined if it does not exist or is deleted. The handle may be kept: `append` says "gone" once it is of no use any more. */
  stream(name: StreamName): StreamHandle | undefined;
  /**
   * Creates the stream, durable together with or before everything that is accepted after this call. Returns the existing one if
   * there is one, whatever its options. Works while the core is away.
   * @throws INVALID_NAME, TOO_MANY_STREAMS, QUOTA_EXCEEDED, OVERLOADED (the log is being reopened), SHUTTING_DOWN
   */
  createStream(name: StreamName, options: NewStreamOptions): StreamHandle;
  /**
   * Takes one event: `source[start…end)` is copied before the call returns. `target` is answered with `token` unless it is
   * undefined (QoS 0). `change` becomes durable in the same commit, or not at all.
   */
  append(
    stream: StreamHandle,
    key: string,
    timeMs: number,
    source: Uint8Array,
    start: number,
    end: number,
    target: AckTarget | undefined,
    token: number,
    change?: StateChange,
  ): Admission;
  /** Takes all events of the pack, in one commit with the changes, or none. One answer for all. `arrivalMs` is their time if the pack has none. */
  appendPack(
    stream: StreamHandle,
    pack: EventPack,
    arrivalMs: number,
    target: AckTarget | undefined,
    token: number,
    changes?: readonly StateChange[],
  ): Admission;
  /** Makes a change of state durable with the next commit. Not subject to the disk quota. */
  change(change: StateChange, target: AckTarget | undefined, token: number): Admission;
  /**
   * Answers once everything accepted so far is durable, or failed. For answers that hang on something pending: a duplicate waits
   * for the commit of what it repeats (rule W3). Answers on a later turn of the loop, never inside the call.
   */
  barrier(target: AckTarget, token: number): void;
  /** True if a QoS 2 packet id was taken and not released; perhaps not durable yet. */
  holdsPacketId(clientId: string, packetId: number): boolean;
  /**
   * True if the publish that holds the packet id has this digest, or one that is not known; perhaps not durable yet: acknowledge the
   * repetition by `barrier`. A publish with another digest is another one, even if its id is held.
   */
  isRepetition(clientId: string, packetId: number, digest: number): boolean;
  /** True if the client has any packet id taken: its session exists. */
  hasPacketIds(clientId: string): boolean;
  /** Calls back once, as soon as a call refused with "full" is worth repeating. Also called when the gateway stops. */
  onRoom(callback: () => void): void;
}

/** What the gateway knows of a stream. Fields other than these belong to the gateway. */
export interface StreamHandle {
  readonly id: Id;
  readonly name: StreamName;
  readonly contentType: string;
}

export interface NewStreamOptions {
  readonly contentType: string;
  readonly segments: number;
  readonly closed: boolean;
}

/** Whoever waits for commits: one for a connection, say. Must not throw. */
export interface AckTarget {
  /** What was accepted with the token is on disk. */
  committed(token: number): void;
  /** It is not, and never will be. */
  failed(token: number, error: TributaryError): void;
  /** Called once after all the answers of a commit to this target, so that they go out in one write. */
  flush(): void;
}

/**
 * Answer to a call that wants something appended; anything but "accepted" left no trace.
 * - full: the open batch is full and the commits are busy. Stop reading the socket and go on at `onRoom`.
 * - closed, gone: the stream was closed, or deleted (look its name up again).
 * - too-large: event over LIMITS.eventBytesMax or key over LIMITS.routingKeyBytesMax.
 * - quota: the disk quota is used up and its policy is to reject.
 * - stopping: the gateway stops.
 */
export type Admission = "accepted" | "full" | "closed" | "gone" | "too-large" | "quota" | "stopping";

const REFUSALS: Readonly<Record<Exclude<Admission, "accepted">, readonly [ErrorCode, string]>> = {
  full: ["OVERLOADED", "the gateway takes in more than its disk can make durable"],
  closed: ["STREAM_CLOSED", "the stream is closed"],
  gone: ["STREAM_UNKNOWN", "the stream was deleted"],
  "too-large": ["EVENT_TOO_LARGE", "an event or its routing key is too large"],
  quota: ["QUOTA_EXCEEDED", "the disk quota of the gateway is used up"],
  stopping: ["SHUTTING_DOWN", "the gateway is stopping"],
};

export function admissionError(admission: Exclude<Admission, "accepted">): TributaryError {
  const [code, message] = REFUSALS[admission];
  return new TributaryError(code, message);
}
