import type { Clock } from "@tributary/common/clock";
import { TributaryError, toTributaryError } from "@tributary/common/errors";
import { linkSignals } from "@tributary/common/http/link-signals";
import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { Bus, Subscription } from "@tributary/common/ports/bus";
import type { ClusterView } from "../cluster/cluster-view.ts";
import { BoundedCache } from "../service/bounded-cache.ts";
import { decodeLevelsRequest } from "../service/uplink-requests.ts";
import { InFlight } from "./in-flight.ts";
import type { LocalContainers } from "./local-containers.ts";
import { encodeAppended, encodeDone, encodePage, encodeStates, encodeUplinkAnswer, encodeWoken } from "./node-answers.ts";
import {
  decodeAppend,
  decodeBytes,
  decodeDelete,
  decodeDescribe,
  decodeEnsure,
  decodeRead,
  decodeWait,
  NODE_OPERATIONS,
  NODE_SUBJECTS,
  type NodeAppendRequest,
  type NodeOperation,
  REQUEST_ID_CHARS_MAX,
} from "./node-requests.ts";

export interface NodeEndpointParts {
  readonly bus: Bus;
  readonly cluster: string;
  readonly view: ClusterView;
  readonly local: LocalContainers;
  readonly clock: Clock;
  readonly log: Logger;
}

interface Served {
  readonly node: Id;
  readonly subscriptions: Promise<Subscription[]>;
}

const RETRY_MS = 500;
/** What the network doubles comes soon after. */
const APPENDS_KNOWN_MAX = 16_384;
const decoder = new TextDecoder();

/** What other core nodes ask of the containers that this node owns. Nothing is handed on from here. */
export class NodeEndpoint {
  readonly #parts: NodeEndpointParts;
  readonly #inFlight = new InFlight(LIMITS.nodeRequestsInFlightMax, LIMITS.nodeRequestBytesInFlightMax);
  readonly #waitsInFlight = new InFlight(2 * LIMITS.nodeWaitsMax);
  /** Answers to appends by their ids. */
  readonly #appends = new BoundedCache<Promise<Uint8Array>>(APPENDS_KNOWN_MAX);
  readonly #waits = new Map<string, () => void>();
  readonly #closing = new AbortController();
  #served: Served | undefined;
  #stopListening: (() => void) | undefined;
  #cancelRetry: (() => void) | undefined;

  constructor(parts: NodeEndpointParts) {
    this.#parts = parts;
  }

  async start(): Promise<void> {
    this.#stopListening = this.#parts.view.onChange(() => this.#follow());
    this.#follow();
    await this.#served?.subscriptions;
  }

  async close(): Promise<void> {
    this.#stopListening?.();
    this.#cancelRetry?.();
    this.#closing.abort();
    await this.#stopServing();
  }

  /** A node that lost its lease goes on under another id, and is asked under that one. */
  #follow(): void {
    const { node } = this.#parts.view;
    if (this.#served?.node === node || this.#closing.signal.aborted) return;
    void this.#stopServing();
    const served: Served = { node, subscriptions: this.#serve(node) };
    this.#served = served;
    served.subscriptions.catch((error: unknown) => {
      this.#parts.log.warn("other core nodes cannot ask this one yet", { code: toTributaryError(error).code });
      if (this.#served !== served) return;
      this.#served = undefined;
      this.#cancelRetry = this.#parts.clock.setTimer(RETRY_MS, () => this.#follow());
    });
  }

  async #stopServing(): Promise<void> {
    const served = this.#served;
    this.#served = undefined;
    const subscriptions = await served?.subscriptions.catch(() => []);
    await Promise.all((subscriptions ?? []).map((subscription) => subscription.close()));
  }

  async #serve(node: Id): Promise<Subscription[]> {
    const { bus, cluster } = this.#parts;
    const subscriptions: Subscription[] = [];
    try {
      for (const operation of NODE_OPERATIONS) {
        const handler = (payload: Uint8Array) => this.#take(operation, payload);
        subscriptions.push(await bus.serve(NODE_SUBJECTS.operation(cluster, node, operation), {}, handler));
      }
      subscriptions.push(await bus.subscribe(NODE_SUBJECTS.cancel(cluster, node), (payload) => this.#cancelWait(payload)));
    } catch (error) {
      await Promise.all(subscriptions.map((subscription) => subscription.close()));
      throw error;
    }
    return subscriptions;
  }

  async #take(operation: NodeOperation, payload: Uint8Array): Promise<Uint8Array> {
    if (operation === "wait") return this.#waitsInFlight.run(0, () => this.#wait(payload));
    return this.#inFlight.run(payload.length, () => this.#carryOut(operation, payload));
  }

  async #carryOut(operation: Exclude<NodeOperation, "wait">, payload: Uint8Array): Promise<Uint8Array> {
    const { local } = this.#parts;
    switch (operation) {
      case "ensure": {
        const { container, stream } = decodeEnsure(payload);
        await local.ensureStream(container, stream);
        return encodeDone();
      }
      case "append":
        return this.#append(decodeAppend(payload));
      case "block": {
        const { container, bytes } = decodeBytes(payload);
        return encodeUplinkAnswer(await local.appendBlock(container, bytes));
      }
      case "levels": {
        const { container, bytes } = decodeBytes(payload);
        return encodeUplinkAnswer(await local.levels(container, decodeLevelsRequest(bytes)));
      }
      case "read": {
        const { container, streamId, from, eventsMax, bytesMax, level } = decodeRead(payload);
        const bounds = { eventsMax, bytesMax: Math.min(bytesMax, LIMITS.nodePageBytesMax), level };
        return encodePage(await local.read(container, streamId, from, bounds), level);
      }
      case "describe": {
        const { container, streamIds } = decodeDescribe(payload);
        return encodeStates(await local.describe(container, streamIds));
      }
      case "delete": {
        const { container, streamId } = decodeDelete(payload);
        await local.deleteStream(container, streamId);
        return encodeDone();
      }
    }
  }

  /** An append without a producer's numbers that the network brings twice must not be there twice: the second one has the same answer. */
  #append({ id, container, streamId, request }: NodeAppendRequest): Promise<Uint8Array> {
    const before = id === undefined ? undefined : this.#appends.get(id);
    if (before) return before;
    const answer = this.#parts.local.append(container, streamId, request).then(encodeAppended);
    if (id !== undefined) this.#appends.set(id, answer);
    return answer;
  }

  async #wait(payload: Uint8Array): Promise<Uint8Array> {
    const { local, clock } = this.#parts;
    const { id, container, streamId, position, timeoutMs, level } = decodeWait(payload);
    if (this.#waits.has(id)) throw new TributaryError("INVALID_REQUEST", "a wait of this id is held already");
    const link = linkSignals([this.#closing.signal]);
    const cancelTimer = clock.setTimer(timeoutMs, link.abort);
    this.#waits.set(id, link.abort);
    try {
      await local.waitForData(container, streamId, position, link.signal, level);
      return encodeWoken(!link.signal.aborted);
    } finally {
      this.#waits.delete(id);
      cancelTimer();
      link.unlink();
    }
  }

  #cancelWait(payload: Uint8Array): void {
    if (payload.length <= REQUEST_ID_CHARS_MAX) this.#waits.get(decoder.decode(payload))?.();
  }
}
