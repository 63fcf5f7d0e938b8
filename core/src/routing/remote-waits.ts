import { TributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import { bytesToHex, type Id } from "@tributary/common/names";
import type { Bus } from "@tributary/common/ports/bus";
import type { Random } from "@tributary/common/random";
import type { ReadLevel } from "@tributary/common/stream-service";
import type { Position } from "../container/nonces.ts";
import { formatPosition } from "../service/offset.ts";
import { decodeWoken } from "./node-answers.ts";
import { encodeWait, NODE_SUBJECTS, type NodeWaitRequest } from "./node-requests.ts";

/** An answer may come this much later than the owner was asked to wait. */
const ANSWER_SLACK_MS = 5_000;
const encoder = new TextEncoder();

interface Wait {
  readonly id: string;
  readonly done: Promise<boolean>;
  readers: number;
}

/**
 * Waits at the ends of streams that other nodes own. All readers of one end share one request, which its owner holds until something
 * comes, its time is over, or the last reader here has left and it is told so. If that word is lost the time bounds what is left behind.
 */
export class RemoteWaits {
  readonly #bus: Bus;
  readonly #cluster: string;
  readonly #prefix: string;
  readonly #waits = new Map<string, Wait>();
  #count = 0;

  constructor(bus: Bus, cluster: string, random: Random) {
    this.#bus = bus;
    this.#cluster = cluster;
    this.#prefix = bytesToHex(random.bytes(8));
  }

  /**
   * True when something is there, the stream was closed or deleted; false when the time is over or the signal aborts.
   * @throws what the owner throws, OVERLOADED, and what the bus throws
   */
  async wait(
    node: Id,
    container: number,
    streamId: Id,
    position: Position,
    signal: AbortSignal,
    level: ReadLevel = "committed",
  ): Promise<boolean> {
    if (signal.aborted) return false;
    const key = `${node}/${container}/${formatPosition(streamId, position)}/${streamId}/${level}`;
    const wait = this.#waits.get(key) ?? this.#begin(key, node, { container, streamId, position, level });
    wait.readers++;
    const left = Promise.withResolvers<false>();
    const leave = () => left.resolve(false);
    signal.addEventListener("abort", leave, { once: true });
    try {
      return await Promise.race([wait.done, left.promise]);
    } finally {
      signal.removeEventListener("abort", leave);
      if (--wait.readers === 0 && this.#waits.get(key) === wait) {
        this.#waits.delete(key);
        this.#bus.publish(NODE_SUBJECTS.cancel(this.#cluster, node), encoder.encode(wait.id));
      }
    }
  }

  #begin(key: string, node: Id, what: Pick<NodeWaitRequest, "container" | "streamId" | "position" | "level">): Wait {
    if (this.#waits.size >= LIMITS.nodeWaitsMax) throw new TributaryError("OVERLOADED", "too many readers wait for streams of other nodes");
    const id = `${this.#prefix}.${this.#count++}`;
    const timeoutMs = LIMITS.nodeWaitMsMax;
    const done = this.#bus
      .request(NODE_SUBJECTS.operation(this.#cluster, node, "wait"), encodeWait({ ...what, id, timeoutMs }), {
        timeoutMs: timeoutMs + ANSWER_SLACK_MS,
      })
      .then(decodeWoken)
      .finally(() => {
        if (this.#waits.get(key) === wait) this.#waits.delete(key);
      });
    // Whoever still waits hears of it; if nobody does, nobody needs to.
    done.catch(() => {});
    const wait: Wait = { id, done, readers: 0 };
    this.#waits.set(key, wait);
    return wait;
  }
}
