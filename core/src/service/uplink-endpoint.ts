import { type Clock, sleep } from "@tributary/common/clock";
import { TributaryError, toTributaryError } from "@tributary/common/errors";
import { encodeCbor } from "@tributary/common/format/cbor";
import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { Bus, RequestHandler, Subscription } from "@tributary/common/ports/bus";
import { containerOfSubject, type HelloAnswer, type MovedMessage, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import type { ContainerAccess } from "../routing/container-access.ts";
import { InFlight } from "../routing/in-flight.ts";
import type { LocalContainers, LocalHost } from "../routing/local-containers.ts";
import type { Routes } from "../routing/routes.ts";
import type { OpenedContainer } from "./container-host.ts";
import type { CoreStreamService } from "./core-stream-service.ts";
import { fetchEvents } from "./event-fetch.ts";
import type { StreamDirectory } from "./stream-directory.ts";
import { resolveStreams } from "./stream-resolver.ts";
import { decodeControlRequest, decodeLevelsRequest } from "./uplink-requests.ts";
import type { WriterRegistry } from "./writer-registry.ts";

export interface UplinkParts {
  readonly bus: Bus;
  /** Stands in the subjects. */
  readonly cluster: string;
  /** Told to gateways. */
  readonly clusterId: Id;
  readonly host: LocalHost;
  readonly local: LocalContainers;
  /** All containers, here or elsewhere. */
  readonly access: ContainerAccess;
  readonly routes: Routes;
  readonly directory: StreamDirectory;
  readonly service: CoreStreamService;
  readonly writers: WriterRegistry;
  readonly clock: Clock;
  readonly log: Logger;
}

const NOTHING = new Uint8Array(0);
const SERVE_RETRY_MS = 1_000;

/** How a request came: straight to the owner, or through any node. */
type Way = "direct" | "anyNode";

/**
 * What gateways talk to. Every node takes what is for any container and hands it on; what is for an owner of one epoch is served by
 * that owner alone. Whatever goes wrong reaches the gateway as an error answer: OVERLOADED slows it down (rule C7), and its own disk
 * holds what was not answered.
 */
export class UplinkEndpoint {
  readonly #parts: UplinkParts;
  readonly #subscriptions: Subscription[] = [];
  /** Of the containers that are served here. */
  readonly #direct = new Set<Promise<void>>();
  /** Blocks for containers that have no owner at the moment wait: those that came straight to an owner do not wait with them. */
  readonly #appends = {
    direct: new InFlight(LIMITS.uplinkAppendsInFlightMax, LIMITS.uplinkAppendBytesInFlightMax),
    anyNode: new InFlight(LIMITS.uplinkAppendsInFlightMax, LIMITS.uplinkAppendBytesInFlightMax),
  };
  readonly #levelsAsked = {
    direct: new InFlight(LIMITS.uplinkAppendsInFlightMax),
    anyNode: new InFlight(LIMITS.uplinkAppendsInFlightMax),
  };
  readonly #controls = new InFlight(LIMITS.controlRequestsInFlightMax);
  readonly #closing = new AbortController();
  readonly #stopTiered: () => void;

  constructor(parts: UplinkParts) {
    this.#parts = parts;
    const { bus, cluster, host } = parts;
    this.#stopTiered = host.onTiered((container) => bus.publish(UPLINK_SUBJECTS.tiered(cluster, container), NOTHING));
    host.onOpened((opened) => {
      const serving = this.#serveDirect(opened).finally(() => this.#direct.delete(serving));
      this.#direct.add(serving);
    });
  }

  async start(): Promise<void> {
    const { cluster, access } = this.#parts;
    // A group, so that a request is carried out once.
    const serve = async (subject: string, handler: RequestHandler) => {
      this.#subscriptions.push(await this.#parts.bus.serve(subject, { group: "core" }, handler));
    };
    await serve(UPLINK_SUBJECTS.append(cluster, "*"), async (payload, subject) =>
      this.#append("anyNode", access, this.#containerOf(subject), payload),
    );
    await serve(UPLINK_SUBJECTS.levels(cluster, "*"), async (payload, subject) =>
      this.#levels("anyNode", access, this.#containerOf(subject), payload),
    );
    await serve(UPLINK_SUBJECTS.control(cluster), (payload) => this.#control(payload));
  }

  /** Takes no more requests and waits for the answers of those that run. */
  async close(): Promise<void> {
    this.#closing.abort();
    this.#stopTiered();
    await Promise.all([...this.#subscriptions.splice(0).map((subscription) => subscription.close()), ...this.#direct]);
  }

  /** Serves the direct subjects of a container for as long as this instance of it lives, and tells gateways so. */
  async #serveDirect({ container, epoch, ended }: OpenedContainer): Promise<void> {
    const { bus, cluster, local, clock, log } = this.#parts;
    const until = AbortSignal.any([ended, this.#closing.signal]);
    const handler: RequestHandler = async (payload, subject) => {
      // Where an instance follows another at once, the one that is asked may have ended.
      if (local.epochOf(container) !== epoch) {
        throw new TributaryError("CONTAINER_NOT_OWNED", "the owner of this epoch has stopped", { container });
      }
      const append = subject.endsWith(".append");
      return append ? this.#append("direct", local, container, payload) : this.#levels("direct", local, container, payload);
    };
    while (!until.aborted) {
      try {
        const subscription = await bus.serve(UPLINK_SUBJECTS.direct(cluster, container, epoch, "*"), {}, handler);
        if (!until.aborted) {
          const moved: MovedMessage = { epoch };
          bus.publish(UPLINK_SUBJECTS.moved(cluster, container), encodeCbor(moved));
          await new Promise<void>((resolve) => until.addEventListener("abort", () => resolve(), { once: true }));
        }
        await subscription.close();
      } catch (error) {
        // Meanwhile gateways find the container through the subjects that every node serves.
        log.warn("the direct subjects of a container are not served yet", { container, epoch, code: toTributaryError(error).code });
        await sleep(clock, SERVE_RETRY_MS, until);
      }
    }
  }

  /** @throws INVALID_REQUEST */
  #containerOf(subject: string): number {
    const container = containerOfSubject(subject);
    if (container === undefined) throw new TributaryError("INVALID_REQUEST", "the subject names no container");
    return container;
  }

  #append(way: Way, access: ContainerAccess, container: number, payload: Uint8Array): Promise<Uint8Array> {
    return this.#appends[way].run(payload.length, async () => encodeCbor(await access.appendBlock(container, payload)));
  }

  #levels(way: Way, access: ContainerAccess, container: number, payload: Uint8Array): Promise<Uint8Array> {
    return this.#levelsAsked[way].run(payload.length, async () => encodeCbor(await access.levels(container, decodeLevelsRequest(payload))));
  }

  #control(payload: Uint8Array): Promise<Uint8Array> {
    return this.#controls.run(payload.length, async () => encodeCbor(await this.#answerControl(payload)));
  }

  async #answerControl(payload: Uint8Array): Promise<object> {
    const { routes, directory, service, writers, clusterId } = this.#parts;
    const request = decodeControlRequest(payload);
    switch (request.type) {
      case "hello": {
        const { containers } = routes;
        const epochs = Array.from({ length: containers }, (_, container) => routes.epochOf(container));
        const answer: HelloAnswer = { cluster: clusterId, containers, epochs, siblings: await writers.hello(request) };
        return answer;
      }
      case "resolve":
        return resolveStreams(service, directory, request.streams);
      case "fetch":
        return fetchEvents(service, request);
    }
  }
}
