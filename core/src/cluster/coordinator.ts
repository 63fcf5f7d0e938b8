import { hasCode, toTributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { MetaAccess } from "../service/meta-change.ts";
import { assign } from "./assignment.ts";
import { ASSIGNMENT_KEY, type Assignment, encodeAssignment } from "./cluster-codec.ts";
import type { ClusterState } from "./cluster-state.ts";
import { within } from "./within.ts";

/**
 * Writes the assignment while this node is the coordinator: the one with the lowest id of those that it sees alive. Two nodes may
 * both believe it; each change is a compare-and-set, so they only repeat each other's work.
 *
 * Containers that nobody alive owns are given out at once. Moves that only balance wait until the members have stayed the same
 * for a while, so that a cluster whose nodes start or stop one after the other does not move everything each time.
 */
export class Coordinator {
  readonly #access: MetaAccess;
  readonly #state: ClusterState;
  readonly #settleMs: number;
  readonly #timeoutMs: number;
  readonly #log: Logger;
  #members = "";
  #membersSinceMs = 0;

  constructor(access: MetaAccess, state: ClusterState, timing: { settleMs: number; timeoutMs: number }, log: Logger) {
    this.#access = access;
    this.#state = state;
    this.#settleMs = timing.settleMs;
    this.#timeoutMs = timing.timeoutMs;
    this.#log = log;
  }

  /** Changes the assignment if that is this node's to do and there is something to change. True if it was changed. */
  async step(node: Id): Promise<boolean> {
    const { clock, meta } = this.#access;
    const nowMs = clock.monotonicMs();
    const { nodes, assignment } = this.#state;
    // The number only grows; the coordinator before may have heard of more.
    const containers = Math.max(this.#state.containers, assignment.owners.length);
    const members = [...nodes].flatMap(([id, { record }]) => (record.draining ? [] : [id])).sort();
    if (members.join() !== this.#members) {
      this.#members = members.join();
      this.#membersSinceMs = nowMs;
    }
    if ([...nodes.keys()].sort()[0] !== node) return false;
    const owners = assign(assignment.owners, members, containers, nowMs - this.#membersSinceMs >= this.#settleMs);
    if (owners.length === assignment.owners.length && owners.every((owner, i) => owner === assignment.owners[i])) return false;
    const changed: Assignment = { version: assignment.version + 1, owners };
    const value = encodeAssignment(changed);
    const before = this.#state.revision(ASSIGNMENT_KEY);
    try {
      const revision = await within(
        clock,
        this.#timeoutMs,
        before === 0 ? meta.create(ASSIGNMENT_KEY, value) : meta.update(ASSIGNMENT_KEY, value, before),
      );
      this.#state.take({ key: ASSIGNMENT_KEY, value, revision }, clock.monotonicMs());
      this.#log.info("containers were assigned", { version: changed.version, members: members.length, containers });
      return true;
    } catch (error) {
      // Another one was quicker, or it is unknown whether this landed: the next look shows what stands there, and this goes on from it.
      if (!hasCode(error, "META_CONFLICT", "META_EXISTS", "LOG_RESULT_UNKNOWN")) {
        this.#log.warn("containers could not be assigned", { code: toTributaryError(error).code });
      }
      return false;
    }
  }
}
