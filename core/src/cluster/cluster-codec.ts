import { TributaryError } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import type { Id } from "@tributary/common/names";

/** Records of the cluster in the MetaStore. Each is a CBOR map; names that a reader does not know are passed over. */

export const NODES_PREFIX = "nodes";
export const ASSIGNMENT_KEY = "assignment";

/**
 * `nodes/{node}`: a node that lives, written anew at every beat. The node that it names writes it; others only delete it, when it
 * stood still for longer than its lease.
 */
export interface NodeRecord {
  readonly name: string;
  readonly url: string;
  readonly draining: boolean;
  /** Counts up, so that every beat changes the record. */
  readonly beat: number;
  readonly leaseMs: number;
  /** Of the program. */
  readonly version: string;
  /** The highest version of persisted formats that it reads. */
  readonly formatMax: number;
}

/** `assignment`: which node is to own each container, by number; "" for nobody. */
export interface Assignment {
  /** Counts up with each change. */
  readonly version: number;
  readonly owners: readonly Id[];
}

/** `cluster`: which one it is. */
export interface ClusterRecord {
  readonly id: Id;
  /** Of its lake; undefined until the first node has marked that. */
  readonly lake: Id | undefined;
}

/** `containers`: how many there are. */
export interface ContainerTable {
  readonly count: number;
  readonly version: number;
}

/** `containers/{container}/owner`: who won the container last. */
export interface OwnerRecord {
  readonly epoch: number;
  readonly node: Id;
  /** Drawn for each win: tells an own write whose answer was lost from all others. */
  readonly nonce: Id;
  /** Its owner has closed it and will not touch its log again. */
  readonly released: boolean;
}

export function nodeKey(node: Id): string {
  return `${NODES_PREFIX}/${node}`;
}

/** @throws STORE_CORRUPT */
export function decodeNodeRecord(key: string, bytes: Uint8Array): NodeRecord {
  const { name, url, draining, beat, leaseMs, version, formatMax } = decodeMap(key, bytes);
  if (typeof name !== "string" || typeof url !== "string" || typeof draining !== "boolean" || typeof version !== "string") {
    throw malformed(key);
  }
  if (!isNatural(beat) || !isNatural(leaseMs) || !isNatural(formatMax)) throw malformed(key);
  return { name, url, draining, beat, leaseMs, version, formatMax };
}

export function encodeNodeRecord({ name, url, draining, beat, leaseMs, version, formatMax }: NodeRecord): Uint8Array {
  return encodeCbor({ name, url, draining, beat, leaseMs, version, formatMax });
}

/** @throws STORE_CORRUPT */
export function decodeAssignment(bytes: Uint8Array): Assignment {
  const { version, owners } = decodeMap(ASSIGNMENT_KEY, bytes);
  if (!isNatural(version) || !Array.isArray(owners) || !owners.every((owner) => typeof owner === "string")) {
    throw malformed(ASSIGNMENT_KEY);
  }
  return { version, owners };
}

export function encodeAssignment({ version, owners }: Assignment): Uint8Array {
  return encodeCbor({ version, owners });
}

/** @throws STORE_CORRUPT */
export function decodeContainerTable(key: string, bytes: Uint8Array): ContainerTable {
  const { count, version } = decodeMap(key, bytes);
  if (!isNatural(count) || !isNatural(version)) throw malformed(key);
  return { count, version };
}

export function encodeContainerTable({ count, version }: ContainerTable): Uint8Array {
  return encodeCbor({ count, version });
}

/** Records of earlier programs do not say "released". @throws STORE_CORRUPT */
export function decodeOwnerRecord(key: string, bytes: Uint8Array): OwnerRecord {
  const { epoch, node, nonce, released } = decodeMap(key, bytes);
  if (!isNatural(epoch) || typeof node !== "string" || typeof nonce !== "string") throw malformed(key);
  return { epoch, node, nonce, released: released === true };
}

export function encodeOwnerRecord({ epoch, node, nonce, released }: OwnerRecord): Uint8Array {
  return encodeCbor({ epoch, node, nonce, released });
}

export function encodeClusterRecord({ id, lake }: ClusterRecord): Uint8Array {
  return encodeCbor(lake === undefined ? { id } : { id, lake });
}

/** Records of earlier programs do not name a lake. @throws STORE_CORRUPT */
export function decodeClusterRecord(key: string, bytes: Uint8Array): ClusterRecord {
  const { id, lake } = decodeMap(key, bytes);
  if (typeof id !== "string" || (lake !== undefined && typeof lake !== "string")) throw malformed(key);
  return { id, lake };
}

function isNatural(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function decodeMap(key: string, bytes: Uint8Array): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = decodeCbor(bytes);
  } catch (error) {
    throw new TributaryError("STORE_CORRUPT", `the value of '${key}' is not CBOR`, { key }, { cause: error });
  }
  if (typeof value !== "object" || value === null) throw malformed(key);
  return value as Readonly<Record<string, unknown>>;
}

function malformed(key: string): TributaryError {
  return new TributaryError("STORE_CORRUPT", `the value of '${key}' is malformed`, { key });
}
