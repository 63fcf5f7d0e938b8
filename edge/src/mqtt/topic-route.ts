import { isJsonContentType } from "@tributary/common/content-type";
import { LIMITS } from "@tributary/common/limits";
import { DEFAULT_SCOPE, isValidName, type StreamName } from "@tributary/common/names";
import type { Ingest, StreamHandle } from "../gateway/ingest.ts";
import { decodeText, MqttProtocolError } from "./mqtt-packet.ts";

/** Why a topic maps to no stream. MQTT 3.1.1 cannot refuse a single publish, so the connection is closed. */
export type TopicRefusal = "topic-text" | "topic-wildcard" | "topic-level-empty" | "topic-name-invalid" | "topic-key-too-long";

export type TopicMapping = { readonly name: StreamName; readonly key: string | undefined } | { readonly refused: TopicRefusal };

/**
 *   topic => scope "/" stream ["/" key]     the key may hold more levels
 *          | stream                         in the scope `default`
 *
 * Without a key the publishing client's id is the routing key: one device, one order. No level may be empty, names follow
 * names.ts (so nothing begins with "$"), and wildcards have no place in a publish [MQTT-3.3.2-2].
 */
export function mapTopic(topic: string): TopicMapping {
  if (/[#+]/.test(topic)) return { refused: "topic-wildcard" };
  const levels = topic.split("/");
  if (levels.includes("")) return { refused: "topic-level-empty" };
  const [scope, stream] = levels.length === 1 ? [DEFAULT_SCOPE, topic] : (levels as [string, string]);
  if (!isValidName(scope) || !isValidName(stream)) return { refused: "topic-name-invalid" };
  const key = levels.length > 2 ? levels.slice(2).join("/") : undefined;
  if (key !== undefined && Buffer.byteLength(key) > LIMITS.routingKeyBytesMax) return { refused: "topic-key-too-long" };
  return { name: { scope, stream }, key };
}

/** Where publishes to one topic go. */
export interface TopicRoute {
  readonly topic: Uint8Array;
  readonly name: StreamName;
  /** undefined: the client's id. */
  readonly key: string | undefined;
  handle: StreamHandle;
  /** Its events have to be JSON texts. */
  json: boolean;
}

/** Topics whose routes are remembered. The one used least recently is forgotten first. */
const ROUTES_MAX = 20_000;

/**
 * Finds the stream of a topic, and creates it if it does not exist. Topics come as bytes and are looked up as bytes (in a string of
 * one character a byte), so that a publish to a known topic decodes and checks nothing.
 */
export class TopicRoutes {
  readonly #ingest: Pick<Ingest, "stream" | "createStream">;
  readonly #routes = new Map<string, TopicRoute>();

  constructor(ingest: Pick<Ingest, "stream" | "createStream">) {
    this.#ingest = ingest;
  }

  /** @throws what Ingest.createStream throws */
  find(bytes: Uint8Array, start: number, end: number): TopicRoute | TopicRefusal {
    const id = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString("latin1");
    const known = this.#routes.get(id);
    if (known !== undefined) {
      // Moved to the young end of the map.
      this.#routes.delete(id);
      this.#routes.set(id, known);
      return known;
    }
    const topic = bytes.slice(start, end);
    const mapping = mapBytes(topic);
    if ("refused" in mapping) return mapping.refused;
    const handle = this.#open(mapping.name);
    const route = { topic, name: mapping.name, key: mapping.key, handle, json: isJsonContentType(handle.contentType) };
    if (this.#routes.size >= ROUTES_MAX) this.#routes.delete(this.#routes.keys().next().value as string);
    this.#routes.set(id, route);
    return route;
  }

  /** The route's stream was deleted: from now on it leads to the stream that has the name now, or to a new one. @throws like `find` */
  reopen(route: TopicRoute): void {
    route.handle = this.#open(route.name);
    route.json = isJsonContentType(route.handle.contentType);
  }

  #open(name: StreamName): StreamHandle {
    return (
      this.#ingest.stream(name) ?? this.#ingest.createStream(name, { contentType: "application/octet-stream", segments: 1, closed: false })
    );
  }
}

function mapBytes(topic: Uint8Array): TopicMapping {
  try {
    return mapTopic(decodeText(topic));
  } catch (error) {
    if (error instanceof MqttProtocolError) return { refused: "topic-text" };
    throw error;
  }
}

/** True if the bytes are the route's topic: the usual case, a device that publishes to one topic. */
export function isTopicOf(route: TopicRoute, bytes: Uint8Array, start: number, end: number): boolean {
  const { topic } = route;
  const length = end - start;
  if (topic.length !== length) return false;
  // From the end, where topics of one fleet differ.
  for (let i = length - 1; i >= 0; i--) if (topic[i] !== bytes[start + i]) return false;
  return true;
}
