import { hasCode, TributaryError } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { type Id, newId } from "@tributary/common/names";
import type { ObjectStore } from "@tributary/common/ports/object-store";
import { ensureClusterRecord } from "../service/cluster-record.ts";
import type { MetaAccess } from "../service/meta-change.ts";

/** Says whose lake it is: CBOR {cluster, name, lake}. Written once, by the first node of the cluster that opens the lake. */
export const IDENTITY_NAME = "cluster/identity";
const LAKE_ID_BYTES = 16;

export interface LakeIdentity {
  readonly cluster: Id;
  /** As in the setting `cluster`. */
  readonly name: string;
  /** Drawn once for the lake: tells it from another one that was marked for the same cluster. */
  readonly lake: Id;
}

/**
 * The cluster's id, on which MetaStore and lake agree, both ways: the lake names its cluster, and the cluster its lake. A
 * MetaStore without an id takes over the lake's: it was lost or is new.
 * @throws CONFIG_INVALID when they belong to others; STORE_CORRUPT; whatever both stores throw
 */
export async function agreeOnClusterId(access: MetaAccess, objects: ObjectStore, name: string): Promise<Id> {
  let marked = await readIdentity(objects);
  // Before anything is taken over from a lake that is another one's.
  if (marked && marked.name !== name)
    throw foreign(`the lake belongs to the cluster named '${marked.name}', and this one's name is '${name}'`);
  const { id, lake } = await ensureClusterRecord(access, { id: marked?.cluster });
  // Marked before the record names it; and not there yet when it was read above, if two nodes start at once.
  if (!marked && lake !== undefined) marked = await readIdentity(objects);
  if (!marked && lake !== undefined) throw foreign(`this is not the lake of the cluster '${name}', which has one already`);
  const identity = marked ?? (await markLake(objects, { cluster: id, name, lake: newId(access.random, LAKE_ID_BYTES) }));
  if (identity.cluster !== id) {
    throw foreign(
      `the lake belongs to the cluster ${identity.cluster}, and the metadata (in NATS, or in the data folder) to the cluster ${id}`,
    );
  }
  const agreed = await ensureClusterRecord(access, { id, lake: identity.lake });
  if (agreed.lake !== identity.lake) throw foreign(`this is not the lake of the cluster '${name}', which has another one`);
  return id;
}

function foreign(what: string): TributaryError {
  const remedy =
    "Name the cluster's own lake in core.lake: the same folder for all its nodes. A cluster that is new needs an empty folder and a name of its own in the setting cluster";
  return new TributaryError("CONFIG_INVALID", `${what}. ${remedy}.`);
}

/** Whose lake it is now. Another node may have marked it at the same time. */
async function markLake(objects: ObjectStore, own: LakeIdentity): Promise<LakeIdentity> {
  try {
    await objects.put(IDENTITY_NAME, encodeIdentity(own));
    return own;
  } catch (error) {
    if (!hasCode(error, "OBJECT_EXISTS", "LOG_RESULT_UNKNOWN")) throw error;
    const marked = await readIdentity(objects);
    if (marked === undefined) throw error;
    return marked;
  }
}

async function readIdentity(objects: ObjectStore): Promise<LakeIdentity | undefined> {
  let bytes: Uint8Array;
  try {
    bytes = await objects.get(IDENTITY_NAME);
  } catch (error) {
    if (hasCode(error, "OBJECT_NOT_FOUND")) return undefined;
    throw error;
  }
  return decodeIdentity(bytes);
}

export function encodeIdentity({ cluster, name, lake }: LakeIdentity): Uint8Array {
  return encodeCbor({ cluster, name, lake });
}

/** @throws STORE_CORRUPT */
export function decodeIdentity(bytes: Uint8Array): LakeIdentity {
  let value: unknown;
  try {
    value = decodeCbor(bytes);
  } catch {
    // Said below.
  }
  const { cluster, name, lake } = typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  if (typeof cluster === "string" && typeof name === "string" && typeof lake === "string") return { cluster, name, lake };
  throw new TributaryError("STORE_CORRUPT", `the lake's object ${IDENTITY_NAME} is damaged; it says which cluster the lake belongs to`);
}
