import { hasCode, TributaryError } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import type { Id } from "@tributary/common/names";
import type { ObjectStore } from "@tributary/common/ports/object-store";
import { ensureClusterId } from "../service/cluster-record.ts";
import type { MetaAccess } from "../service/meta-change.ts";

/** Says whose lake it is: CBOR {cluster, name}. Written once, by the first node of the cluster that opens the lake. */
export const IDENTITY_NAME = "cluster/identity";

export interface LakeIdentity {
  readonly cluster: Id;
  /** As in the setting `cluster`. */
  readonly name: string;
}

/**
 * The cluster's id, which MetaStore and lake agree on. A MetaStore without one takes over the lake's: it was lost or is new.
 * @throws CONFIG_INVALID when the lake is another cluster's; STORE_CORRUPT; whatever both stores throw
 */
export async function agreeOnClusterId(access: MetaAccess, objects: ObjectStore, name: string): Promise<Id> {
  const marked = await readIdentity(objects);
  // Before anything is taken over from a lake that is another one's.
  if (marked && marked.name !== name)
    throw foreign(`the lake belongs to the cluster named '${marked.name}', and this one's name is '${name}'`);
  const id = await ensureClusterId(access, marked?.cluster);
  const { cluster } = marked ?? (await markLake(objects, { cluster: id, name }));
  if (cluster === id) return id;
  throw foreign(`the lake belongs to the cluster ${cluster}, and the metadata (in NATS, or in the data folder) to the cluster ${id}`);
}

function foreign(what: string): TributaryError {
  const remedy =
    "Name this cluster's own lake in core.lake (an empty folder will do), or use the settings and metadata of the lake's cluster";
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

export function encodeIdentity({ cluster, name }: LakeIdentity): Uint8Array {
  return encodeCbor({ cluster, name });
}

/** @throws STORE_CORRUPT */
export function decodeIdentity(bytes: Uint8Array): LakeIdentity {
  let value: unknown;
  try {
    value = decodeCbor(bytes);
  } catch {
    // Said below.
  }
  const { cluster, name } = typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  if (typeof cluster === "string" && typeof name === "string") return { cluster, name };
  throw new TributaryError("STORE_CORRUPT", `the lake's object ${IDENTITY_NAME} is damaged; it says which cluster the lake belongs to`);
}
