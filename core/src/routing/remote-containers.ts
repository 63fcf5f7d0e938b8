import { TributaryError } from "@tributary/common/errors";
import { encodeCbor } from "@tributary/common/format/cbor";
import { LIMITS } from "@tributary/common/limits";
import { bytesToHex, type Id } from "@tributary/common/names";
import type { Bus } from "@tributary/common/ports/bus";
import type { Random } from "@tributary/common/random";
import type { AppendRequest } from "@tributary/common/stream-service";
import type { AppendAnswer, LevelsAnswer, LevelsRequest } from "@tributary/common/uplink-protocol";
import type { ContainerAppendResult, ContainerStream, ContainerStreamState } from "../container/container.ts";
import type { AccessPage, ReadBounds, ReadFrom } from "./container-access.ts";
import { InFlight } from "./in-flight.ts";
import { decodeAppended, decodeBlockAnswer, decodeDone, decodeLevels, decodePage, decodeStates } from "./node-answers.ts";
import {
  encodeAppend,
  encodeBytes,
  encodeDelete,
  encodeDescribe,
  encodeEnsure,
  encodeRead,
  NODE_SUBJECTS,
  type NodeOperation,
} from "./node-requests.ts";

const PREFIX_BYTES = 8;

/** Asks another node, once. The owner answers, or says that it is not the owner: no request goes on from there (one hop). */
export class RemoteContainers {
  readonly #bus: Bus;
  readonly #cluster: string;
  /** Of the ids of appends. */
  readonly #prefix: string;
  #count = 0;
  readonly #inFlight = new InFlight(LIMITS.nodeRequestsInFlightMax, LIMITS.nodeRequestBytesInFlightMax);

  constructor(bus: Bus, cluster: string, random: Random) {
    this.#bus = bus;
    this.#cluster = cluster;
    this.#prefix = bytesToHex(random.bytes(PREFIX_BYTES));
  }

  async ensureStream(node: Id, container: number, stream: ContainerStream): Promise<void> {
    decodeDone(await this.#ask(node, "ensure", encodeEnsure({ container, stream })));
  }

  async append(node: Id, container: number, streamId: Id, request: AppendRequest): Promise<ContainerAppendResult> {
    return decodeAppended(
      await this.#ask(node, "append", encodeAppend({ id: `${this.#prefix}.${this.#count++}`, container, streamId, request })),
    );
  }

  /** `slices`: how many the block has. */
  async appendBlock(node: Id, container: number, block: Uint8Array, slices: number): Promise<AppendAnswer> {
    return decodeBlockAnswer(await this.#ask(node, "block", encodeBytes({ container, bytes: block }), LIMITS.rerouteMsMax), slices);
  }

  async levels(node: Id, container: number, request: LevelsRequest): Promise<LevelsAnswer> {
    const payload = encodeBytes({ container, bytes: encodeCbor(request) });
    return decodeLevels(await this.#ask(node, "levels", payload, LIMITS.rerouteMsMax), request.entries.length);
  }

  /** @throws CONTAINER_NOT_OWNED also if the node is of an earlier version and does not know the level */
  async read(node: Id, container: number, streamId: Id, from: ReadFrom, bounds: ReadBounds): Promise<AccessPage> {
    const { eventsMax, bytesMax, level = "committed" } = bounds;
    return decodePage(await this.#ask(node, "read", encodeRead({ container, streamId, from, eventsMax, bytesMax, level })), level);
  }

  async describe(node: Id, container: number, streamIds: readonly Id[]): Promise<(ContainerStreamState | undefined)[]> {
    const states: (ContainerStreamState | undefined)[] = [];
    while (states.length < streamIds.length) {
      const asked = streamIds.slice(states.length, states.length + LIMITS.nodeDescribeStreamsMax);
      states.push(...decodeStates(await this.#ask(node, "describe", encodeDescribe({ container, streamIds: asked })), asked.length));
    }
    return states;
  }

  async deleteStream(node: Id, container: number, streamId: Id): Promise<void> {
    decodeDone(await this.#ask(node, "delete", encodeDelete({ container, streamId })));
  }

  #ask(node: Id, operation: NodeOperation, payload: Uint8Array, timeoutMs: number = LIMITS.nodeRequestMsMax): Promise<Uint8Array> {
    if (payload.length > LIMITS.frameBytesMax) {
      throw new TributaryError("BATCH_TOO_LARGE", `${payload.length} bytes are too many for one request`);
    }
    const subject = NODE_SUBJECTS.operation(this.#cluster, node, operation);
    return this.#inFlight.run(payload.length, () => this.#bus.request(subject, payload, { timeoutMs }));
  }
}
