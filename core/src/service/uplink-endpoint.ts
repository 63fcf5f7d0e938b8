import { hasCode, TributaryError } from "@tributary/common/errors";
import { type Block, decodeBlock } from "@tributary/common/format/block";
import { encodeCbor } from "@tributary/common/format/cbor";
import { LIMITS } from "@tributary/common/limits";
import type { Id } from "@tributary/common/names";
import type { Bus, RequestHandler, Subscription } from "@tributary/common/ports/bus";
import { type AppendAnswer, type HelloAnswer, SLICE_STATUS, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import type { ContainerHost } from "./container-host.ts";
import type { CoreStreamService } from "./core-stream-service.ts";
import { fetchEvents } from "./event-fetch.ts";
import { KeyedQueue } from "./keyed-queue.ts";
import type { StreamDirectory } from "./stream-directory.ts";
import { containerOf, type StreamRegistrar } from "./stream-registrar.ts";
import { resolveStreams } from "./stream-resolver.ts";
import { decodeControlRequest, decodeLevelsRequest } from "./uplink-requests.ts";
import type { WriterRegistry } from "./writer-registry.ts";

export interface UplinkParts {
  readonly bus: Bus;
  /** Stands in the subjects. */
  readonly cluster: string;
  /** Told to gateways. */
  readonly clusterId: Id;
  readonly host: ContainerHost;
  readonly directory: StreamDirectory;
  readonly registrar: StreamRegistrar;
  readonly service: CoreStreamService;
  readonly writers: WriterRegistry;
}

const LOOKUPS_AT_ONCE_MAX = 32;
const NOTHING = new Uint8Array(0);

/**
 * What gateways talk to. Whatever goes wrong reaches the gateway as an error answer: OVERLOADED slows it down (rule C7), and its
 * own disk holds what was not answered.
 */
export class UplinkEndpoint {
  readonly #parts: UplinkParts;
  readonly #subscriptions: Subscription[] = [];
  /** Blocks of one writer reach a container in the order in which they came, also while the streams of one are looked up. */
  readonly #turns = new KeyedQueue();
  #stopTiered: (() => void) | undefined;
  #appendsInFlight = 0;
  #appendBytesInFlight = 0;
  #controlsInFlight = 0;

  constructor(parts: UplinkParts) {
    this.#parts = parts;
  }

  async start(): Promise<void> {
    const { bus, cluster, host } = this.#parts;
    this.#stopTiered = host.onTiered((container) => bus.publish(UPLINK_SUBJECTS.tiered(cluster, container), NOTHING));
    // A group, so that a request is carried out once where two nodes believe that they own a container.
    const serve = async (subject: string, handler: RequestHandler) => {
      this.#subscriptions.push(await bus.serve(subject, { group: "core" }, handler));
    };
    for (let container = 0; container < host.count; container++) {
      await serve(UPLINK_SUBJECTS.append(cluster, container), (payload) => this.#append(container, payload));
      await serve(UPLINK_SUBJECTS.levels(cluster, container), async (payload) => this.#levels(container, payload));
    }
    await serve(UPLINK_SUBJECTS.control(cluster), (payload) => this.#control(payload));
  }

  /** Takes no more requests and waits for the answers of those that run. */
  async close(): Promise<void> {
    await Promise.all(this.#subscriptions.splice(0).map((subscription) => subscription.close()));
    this.#stopTiered?.();
  }

  async #append(containerId: number, payload: Uint8Array): Promise<Uint8Array> {
    const bytes = payload.length;
    if (
      this.#appendsInFlight >= LIMITS.uplinkAppendsInFlightMax ||
      (this.#appendsInFlight > 0 && this.#appendBytesInFlight + bytes > LIMITS.uplinkAppendBytesInFlightMax)
    ) {
      throw new TributaryError("OVERLOADED", "too many blocks wait");
    }
    this.#appendsInFlight++;
    this.#appendBytesInFlight += bytes;
    try {
      const block = decodeBlock(payload);
      const container = this.#parts.host.get(containerId);
      const known = block.slices.every((slice) => container.knowsStream(slice.streamId));
      const turn = `${containerId}/${block.writer}`;
      if (known && !this.#turns.busy(turn)) return encodeCbor(await container.appendBlock(block));
      const { answer, elsewhere } = await this.#turns
        .run(turn, async () => {
          const elsewhere = await this.#registerStreams(containerId, block);
          return { answer: this.#parts.host.get(containerId).appendBlock(block), elsewhere };
        })
        .then(async (begun) => ({ ...begun, answer: await begun.answer }));
      return encodeCbor(redirect(block, answer, elsewhere));
    } finally {
      this.#appendsInFlight--;
      this.#appendBytesInFlight -= bytes;
    }
  }

  /** Makes the block's streams known to their container. Returns those that live in another one. */
  async #registerStreams(containerId: number, block: Block): Promise<ReadonlySet<Id>> {
    const { host, directory, registrar } = this.#parts;
    const container = host.get(containerId);
    const elsewhere = new Set<Id>();
    const unknown = [...new Set(block.slices.map((slice) => slice.streamId))].filter((id) => !container.knowsStream(id));
    const register = async (id: Id) => {
      const entry = await directory.findById(id);
      if (!entry) return;
      if (containerOf(entry) !== containerId) {
        elsewhere.add(id);
        return;
      }
      try {
        await registrar.ensure(entry);
      } catch (error) {
        // Deleted meanwhile: the container does not know it and says so.
        if (!hasCode(error, "STREAM_UNKNOWN")) throw error;
      }
    };
    for (let at = 0; at < unknown.length; at += LOOKUPS_AT_ONCE_MAX) {
      await Promise.all(unknown.slice(at, at + LOOKUPS_AT_ONCE_MAX).map(register));
    }
    return elsewhere;
  }

  #levels(containerId: number, payload: Uint8Array): Uint8Array {
    const request = decodeLevelsRequest(payload);
    return encodeCbor(this.#parts.host.get(containerId).levels(request));
  }

  async #control(payload: Uint8Array): Promise<Uint8Array> {
    if (this.#controlsInFlight >= LIMITS.controlRequestsInFlightMax) {
      throw new TributaryError("OVERLOADED", "too many control requests wait");
    }
    this.#controlsInFlight++;
    try {
      return encodeCbor(await this.#answerControl(payload));
    } finally {
      this.#controlsInFlight--;
    }
  }

  async #answerControl(payload: Uint8Array): Promise<object> {
    const { host, directory, service, writers, clusterId } = this.#parts;
    const request = decodeControlRequest(payload);
    switch (request.type) {
      case "hello": {
        const answer: HelloAnswer = { cluster: clusterId, containers: host.count, siblings: await writers.hello(request) };
        return answer;
      }
      case "resolve":
        return resolveStreams(service, directory, request.streams);
      case "fetch":
        return fetchEvents(service, request);
    }
  }
}

/** The container calls a stream that it does not know gone; if the stream lives in another container, the gateway must ask there. */
function redirect(block: Block, answer: AppendAnswer, elsewhere: ReadonlySet<Id>): AppendAnswer {
  if (elsewhere.size === 0) return answer;
  return {
    slices: answer.slices.map((row, i) =>
      elsewhere.has(block.slices[i]?.streamId ?? "") && row[0] === SLICE_STATUS.streamGone ? [SLICE_STATUS.wrongContainer, 0] : row,
    ),
  };
}
