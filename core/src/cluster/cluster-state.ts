import { toTributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { MetaChange } from "@tributary/common/ports/meta-store";
import { BoundedCache } from "../service/bounded-cache.ts";
import { CONTAINERS_KEY } from "../service/cluster-record.ts";
import {
  ASSIGNMENT_KEY,
  type Assignment,
  decodeAssignment,
  decodeContainerTable,
  decodeNodeRecord,
  decodeOwnerRecord,
  NODES_PREFIX,
  type NodeRecord,
  type OwnerRecord,
} from "./cluster-codec.ts";

/** A node's record, and since when it has not changed, by this node's monotonic clock. */
export interface Sighting {
  readonly record: NodeRecord;
  readonly revision: number;
  readonly sinceMs: number;
  /** It was seen to change: there is somebody who beats. */
  readonly beats: boolean;
}

/** Keys of nodes that are no more; an old read must not bring one back. */
const GONE_MAX = 1_024;

/** What this node has seen of the cluster's records, each at the highest revision seen. */
export class ClusterState {
  readonly #log: Logger;
  readonly #revisions = new Map<string, number>();
  readonly #gone = new BoundedCache<number>(GONE_MAX);
  readonly nodes: Map<Id, Sighting> = new Map();
  readonly owners: Map<number, OwnerRecord> = new Map();
  assignment: Assignment = { version: 0, owners: [] };
  containers = 0;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** The highest revision seen of a key that is there; 0 if it is not. */
  revision(key: string): number {
    return this.#revisions.get(key) ?? 0;
  }

  /** What was seen may belong to a past that is no more. That containers were raised stays known. */
  forget(): void {
    this.#revisions.clear();
    this.#gone.clear();
    this.nodes.clear();
    this.owners.clear();
    this.assignment = { version: 0, owners: [] };
  }

  /** Where each key was seen to stand until now: what is read later stands there or higher. */
  seen(): ReadonlyMap<string, number> {
    return new Map(this.#revisions);
  }

  /** Takes in what was read, written or watched. True if it is news for whoever looks at the cluster; a beat is none. */
  take(change: MetaChange, nowMs: number): boolean {
    const { key, value, revision } = change;
    if (revision <= this.revision(key) || revision <= (this.#gone.get(key) ?? 0)) return false;
    if (value === undefined) return this.remove(key, revision);
    this.#revisions.set(key, revision);
    try {
      return this.#decode(key, value, revision, nowMs);
    } catch (error) {
      // It is passed over: what was known before holds on. Whoever owns the record writes it again.
      this.#log.error("a record of the cluster is damaged and was passed over", { key, error: toTributaryError(error).message });
      return false;
    }
  }

  /** The key was deleted when it stood at `revision`, or with it. */
  remove(key: string, revision: number): boolean {
    if (revision < this.revision(key)) return false;
    this.#revisions.delete(key);
    if (!key.startsWith(`${NODES_PREFIX}/`)) return false;
    this.#gone.set(key, revision);
    return this.nodes.delete(key.slice(NODES_PREFIX.length + 1));
  }

  #decode(key: string, value: Uint8Array, revision: number, nowMs: number): boolean {
    if (key === ASSIGNMENT_KEY) {
      this.assignment = decodeAssignment(value);
      return true;
    }
    if (key === CONTAINERS_KEY) {
      const { count } = decodeContainerTable(key, value);
      if (count <= this.containers) return false;
      this.containers = count;
      return true;
    }
    if (key.startsWith(`${NODES_PREFIX}/`)) {
      const node = key.slice(NODES_PREFIX.length + 1);
      const before = this.nodes.get(node);
      const record = decodeNodeRecord(key, value);
      this.nodes.set(node, { record, revision, sinceMs: nowMs, beats: before !== undefined });
      if (!before?.beats) return true;
      return before.record.name !== record.name || before.record.url !== record.url || before.record.draining !== record.draining;
    }
    const container = containerOfKey(key);
    if (container === undefined) return false;
    this.owners.set(container, decodeOwnerRecord(key, value));
    return true;
  }
}

const OWNER_KEY_PATTERN = new RegExp(`^${CONTAINERS_KEY}/(\\d{1,9})/owner$`);

function containerOfKey(key: string): number | undefined {
  const match = OWNER_KEY_PATTERN.exec(key);
  return match ? Number(match[1]) : undefined;
}
