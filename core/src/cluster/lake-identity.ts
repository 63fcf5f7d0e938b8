import { crc32c } from "@tributary/common/checksum";
import { hasCode, TributaryError } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { type Id, newId } from "@tributary/common/names";
import type { ObjectStore } from "@tributary/common/ports/object-store";
import { ensureClusterRecord } from "../service/cluster-record.ts";
import type { MetaAccess } from "../service/meta-change.ts";
import { putVerified } from "../tier/verified-put.ts";

/**
 * Says whose lake it is: CBOR {cluster, name, lake, sum}, sum: CRC32C of the three texts, each followed by a line end; it may be missing.
 * Written once, by the first node of the cluster that opens the lake.
 */
export const IDENTITY_NAME = "cluster/identity";
/** Where a store kept other bytes than it was given, the next name is taken: the first one that is whole counts, for all nodes. */
const IDENTITY_NAMES = [IDENTITY_NAME, `${IDENTITY_NAME}-2`, `${IDENTITY_NAME}-3`] as const;
const LAKE_ID_BYTES = 16;

export interface LakeIdentity {
  readonly cluster: Id;
  /** As in the setting `cluster`. */
  readonly name: string;
  /** Drawn once for the lake: tells it from another one that was marked for the same cluster. */
  readonly lake: Id;
}

interface Marks {
  readonly identity: LakeIdentity | undefined;
  /** The name to mark the lake under, if there is no identity. */
  readonly free: string;
  /** A store kept something else under the names before. */
  readonly damaged: boolean;
}

/**
 * The cluster's id, on which MetaStore and lake agree, both ways: the lake names its cluster, and the cluster its lake. A
 * MetaStore without an id takes over the lake's: it was lost or is new.
 * @throws CONFIG_INVALID when they belong to others; STORE_CORRUPT; whatever both stores throw
 */
export async function agreeOnClusterId(access: MetaAccess, objects: ObjectStore, name: string): Promise<Id> {
  let marks = await readMarks(objects);
  // Before anything is taken over from a lake that is another one's.
  if (marks.identity && marks.identity.name !== name) {
    throw foreign(`the lake belongs to the cluster named '${marks.identity.name}', and this one's name is '${name}'`);
  }
  const { id, lake } = await ensureClusterRecord(access, { id: marks.identity?.cluster });
  // Marked before the record names it; and not there yet when it was read above, if two nodes start at once.
  if (!marks.identity && lake !== undefined) marks = await readMarks(objects);
  if (!marks.identity && lake !== undefined) {
    throw marks.damaged ? corrupt() : foreign(`this is not the lake of the cluster '${name}', which has one already`);
  }
  const identity = marks.identity ?? (await markLake(objects, marks, { cluster: id, name, lake: newId(access.random, LAKE_ID_BYTES) }));
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
async function markLake(objects: ObjectStore, marks: Marks, own: LakeIdentity): Promise<LakeIdentity> {
  for (let { identity, free, damaged } = marks; ; { identity, free, damaged } = await readMarks(objects)) {
    if (identity) return identity;
    // A lake that holds more belongs to somebody, and nothing is left that says to whom.
    if (damaged && !(await isEmpty(objects))) throw corrupt();
    try {
      await putVerified(objects, free, encodeIdentity(own));
      return own;
    } catch (error) {
      // Another node's identity, or damaged.
      if (!hasCode(error, "STORE_CORRUPT")) throw error;
    }
  }
}

async function isEmpty(objects: ObjectStore): Promise<boolean> {
  const found = await objects.list("", { limit: IDENTITY_NAMES.length + 1 });
  return found.every(({ name }) => (IDENTITY_NAMES as readonly string[]).includes(name));
}

/** @throws STORE_CORRUPT if all names are taken by something else */
async function readMarks(objects: ObjectStore): Promise<Marks> {
  for (const [before, name] of IDENTITY_NAMES.entries()) {
    const damaged = before > 0;
    try {
      return { identity: await readIdentity(objects, name), free: name, damaged };
    } catch (error) {
      if (hasCode(error, "OBJECT_NOT_FOUND")) return { identity: undefined, free: name, damaged };
      if (!hasCode(error, "STORE_CORRUPT")) throw error;
    }
  }
  throw corrupt();
}

/** @throws OBJECT_NOT_FOUND, STORE_CORRUPT */
async function readIdentity(objects: ObjectStore, name: string): Promise<LakeIdentity> {
  try {
    return decodeIdentity(await objects.get(name));
  } catch (error) {
    if (!hasCode(error, "STORE_CORRUPT")) throw error;
    // Perhaps only on its way here.
    return decodeIdentity(await objects.get(name));
  }
}

export function encodeIdentity(identity: LakeIdentity): Uint8Array {
  const { cluster, name, lake } = identity;
  return encodeCbor({ cluster, name, lake, sum: sumOf(identity) });
}

/** @throws STORE_CORRUPT */
export function decodeIdentity(bytes: Uint8Array): LakeIdentity {
  let value: unknown;
  try {
    value = decodeCbor(bytes);
  } catch {
    // Said below.
  }
  const { cluster, name, lake, sum } = typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  if (typeof cluster !== "string" || typeof name !== "string" || typeof lake !== "string") throw corrupt();
  const identity = { cluster, name, lake };
  if (sum !== undefined && sum !== sumOf(identity)) throw corrupt();
  return identity;
}

function sumOf({ cluster, name, lake }: LakeIdentity): number {
  return crc32c(new TextEncoder().encode([cluster, name, lake].map((text) => `${text}\n`).join("")));
}

function corrupt(): TributaryError {
  return new TributaryError("STORE_CORRUPT", `the lake's object ${IDENTITY_NAME} is damaged; it says which cluster the lake belongs to`);
}
