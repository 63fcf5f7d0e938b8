import { keyHash } from "@tributary/common/key-hash";
import { type Id, newId } from "@tributary/common/names";
import {
  type ClusterRecord,
  decodeClusterRecord,
  decodeContainerTable,
  decodeOwnerRecord,
  encodeClusterRecord,
  encodeContainerTable,
  encodeOwnerRecord,
  type OwnerRecord,
} from "../cluster/cluster-codec.ts";
import { changeKey, type MetaAccess } from "./meta-change.ts";

const CLUSTER_ID_BYTES = 16;
const CLUSTER_KEY = "cluster";
const NONCE_BYTES = 8;

/** The container table and, below it, the owner records. */
export const CONTAINERS_KEY = "containers";

/**
 * `cluster` (CBOR map): the cluster's id, drawn once unless one is wished for, and the id of its lake once that is known. What
 * stands there already holds.
 */
export async function ensureClusterRecord(
  access: MetaAccess,
  wish: { readonly id: Id | undefined; readonly lake?: Id },
): Promise<ClusterRecord> {
  const id = wish.id ?? newId(access.random, CLUSTER_ID_BYTES);
  return changeKey<ClusterRecord>(access, CLUSTER_KEY, (entry) => {
    const before = entry && decodeClusterRecord(CLUSTER_KEY, entry.value);
    if (before && (before.lake !== undefined || wish.lake === undefined)) return { type: "keep", result: before };
    const record: ClusterRecord = { id: before?.id ?? id, lake: wish.lake };
    return { type: "put", value: encodeClusterRecord(record), result: () => record };
  });
}

/**
 * `containers` (CBOR map): how many containers there are. The number only grows: a stream's record names its containers, so new
 * ones take new streams and nothing moves.
 */
export async function ensureContainerCount(access: MetaAccess, wanted: number): Promise<number> {
  return changeKey<number>(access, CONTAINERS_KEY, (entry) => {
    const before = entry ? decodeContainerTable(CONTAINERS_KEY, entry.value) : { count: 0, version: 0 };
    const count = Math.max(before.count, wanted);
    const version = count === before.count ? before.version : before.version + 1;
    return { type: "put", value: encodeContainerTable({ count, version }), result: () => count };
  });
}

/** The container that a new stream's segments go to. */
export function containerOfStream(streamId: Id, containerCount: number): number {
  return keyHash(streamId) % containerCount;
}

export function ownerKey(container: number): string {
  return `${CONTAINERS_KEY}/${container}/owner`;
}

export interface EpochWish {
  readonly container: number;
  readonly node: Id;
  /** An epoch seen in the log, which is ahead of the record if the MetaStore was lost or restored. */
  readonly above: number;
  /** Whether the container may be taken from the owner before. */
  readonly mayTake: (before: OwnerRecord) => boolean;
}

/** Wins the next epoch of a container. undefined where it may not be taken yet. */
export async function winEpoch(access: MetaAccess, wish: EpochWish): Promise<number | undefined> {
  const key = ownerKey(wish.container);
  const nonce = newId(access.random, NONCE_BYTES);
  return changeKey<number | undefined>(access, key, (entry) => {
    const before = entry ? decodeOwnerRecord(key, entry.value) : undefined;
    if (before?.nonce === nonce) return { type: "keep", result: before.epoch };
    if (before && !wish.mayTake(before)) return { type: "keep", result: undefined };
    const epoch = Math.max(before?.epoch ?? 0, wish.above) + 1;
    return { type: "put", value: encodeOwnerRecord({ epoch, node: wish.node, nonce, released: false }), result: () => epoch };
  });
}

/** Says that the node has closed the container of this epoch: the next owner need not wait. */
export async function releaseContainer(access: MetaAccess, container: number, node: Id, epoch: number): Promise<void> {
  const key = ownerKey(container);
  await changeKey<void>(access, key, (entry) => {
    const before = entry ? decodeOwnerRecord(key, entry.value) : undefined;
    // An old read: what this node itself won is newer.
    if (!before || before.epoch < epoch) return { type: "again" };
    if (before.epoch > epoch || before.node !== node || before.released) return { type: "keep", result: undefined };
    return { type: "put", value: encodeOwnerRecord({ ...before, released: true }), result: () => undefined };
  });
}
