import { TributaryError } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { keyHash } from "@tributary/common/key-hash";
import { type Id, newId } from "@tributary/common/names";
import { changeKey, type MetaAccess } from "./meta-change.ts";

const CLUSTER_ID_BYTES = 16;
const CLUSTER_KEY = "cluster";
const TABLE_KEY = "containers";
const NONCE_BYTES = 8;

/** `cluster` (CBOR map): the cluster's id, drawn once. */
export async function ensureClusterId(access: MetaAccess): Promise<Id> {
  const drawn = newId(access.random, CLUSTER_ID_BYTES);
  return changeKey<Id>(access, CLUSTER_KEY, (entry) => {
    if (!entry) return { type: "put", value: encodeCbor({ id: drawn }), result: () => drawn };
    const { id } = decode<{ id: unknown }>(CLUSTER_KEY, entry.value);
    if (typeof id !== "string") throw malformed(CLUSTER_KEY);
    return { type: "keep", result: id };
  });
}

/**
 * `containers` (CBOR map): how many containers there are. The number only grows: a stream's record names its containers, so new
 * ones take new streams and nothing moves.
 */
export async function ensureContainerCount(access: MetaAccess, wanted: number): Promise<number> {
  return changeKey<number>(access, TABLE_KEY, (entry) => {
    const before = entry ? decode<{ count: unknown; version: unknown }>(TABLE_KEY, entry.value) : { count: 0, version: 0 };
    if (!isNatural(before.count) || !isNatural(before.version)) throw malformed(TABLE_KEY);
    const count = Math.max(before.count, wanted);
    const version = count === before.count ? before.version : before.version + 1;
    return { type: "put", value: encodeCbor({ count, version }), result: () => count };
  });
}

/** The container that a new stream's segments go to. */
export function containerOfStream(streamId: Id, containerCount: number): number {
  return keyHash(streamId) % containerCount;
}

/**
 * Wins the next epoch of a container. `containers/{id}/owner` (CBOR map): epoch, node, nonce. The nonce tells a write of our own
 * whose answer was lost from that of another node, or of this node before it restarted. `above`: an epoch seen in the log, which
 * is ahead of the record if the MetaStore was lost or restored.
 */
export async function winEpoch(access: MetaAccess, container: number, node: Id, above: number): Promise<number> {
  const key = `${TABLE_KEY}/${container}/owner`;
  const nonce = newId(access.random, NONCE_BYTES);
  return changeKey<number>(access, key, (entry) => {
    const before = entry ? decode<{ epoch: unknown; node: unknown; nonce: unknown }>(key, entry.value) : { epoch: 0, node: "", nonce: "" };
    if (!isNatural(before.epoch)) throw malformed(key);
    if (before.nonce === nonce) return { type: "keep", result: before.epoch };
    const epoch = Math.max(before.epoch, above) + 1;
    return { type: "put", value: encodeCbor({ epoch, node, nonce }), result: () => epoch };
  });
}

function isNatural(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function decode<T extends object>(key: string, bytes: Uint8Array): T {
  let value: unknown;
  try {
    value = decodeCbor(bytes);
  } catch (error) {
    throw new TributaryError("STORE_CORRUPT", `the value of '${key}' is not CBOR`, { key }, { cause: error });
  }
  if (typeof value !== "object" || value === null) throw malformed(key);
  return value as T;
}

function malformed(key: string): TributaryError {
  return new TributaryError("STORE_CORRUPT", `the value of '${key}' is malformed`, { key });
}
