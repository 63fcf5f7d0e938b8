import { hasCode, TributaryError } from "@tributary/common/errors";
import { encodeCbor } from "@tributary/common/format/cbor";
import { hexToBytes, type Id } from "@tributary/common/names";
import type { ObjectStore } from "@tributary/common/ports/object-store";
import { EPOCHS_PER_GENERATION, epochBefore, generationOf } from "../container/generation.ts";
import { claimName, claimPrefix } from "./object-names.ts";
import { encodeFooterOnly, OBJECT_KIND } from "./tier-object.ts";

const PAGE = 1_000;

/**
 * Makes sure that an epoch is used once, whatever MetaStore and log have forgotten: names of objects, and the order of owners, rest on
 * it. The claim (CBOR map `v`: the owner's nonce) is put before the owner writes anything else.
 * @throws CONTAINER_NOT_OWNED with details epoch: the highest one that is known to have been used; what the store throws
 */
export async function claimEpoch(objects: ObjectStore, container: number, epoch: number, nonce: Id): Promise<void> {
  const highest = await highestClaimed(objects, container, epoch);
  if (highest > epoch) throw used(epoch, highest);
  const { bytes } = encodeFooterOnly(OBJECT_KIND.claim, encodeCbor({ v: hexToBytes(nonce) }));
  const name = claimName(container, epoch);
  try {
    await objects.put(name, bytes);
  } catch (error) {
    // A lake that takes nothing now must not keep a container from being served.
    if (hasCode(error, "STORAGE_FULL")) return;
    if (!hasCode(error, "OBJECT_EXISTS", "LOG_RESULT_UNKNOWN")) throw error;
    const there = await objects.get(name);
    if (Buffer.compare(there, bytes) !== 0) throw used(epoch, epoch);
  }
}

/**
 * Makes sure that nobody took the container over from the owner of an epoch. The log says so, too, but for one that went back behind the
 * take-over: then the lake alone knows of it, and whoever opens the container next goes on from what the later owner brought there.
 * @throws CONTAINER_NOT_OWNED with details epoch: the highest one that was used; what the store throws
 */
export async function refuseDeposed(objects: ObjectStore, container: number, epoch: number): Promise<void> {
  const highest = await highestClaimed(objects, container, epoch);
  if (highest > epoch)
    throw new TributaryError("CONTAINER_NOT_OWNED", `epoch ${epoch} was deposed by epoch ${highest}, the lake says`, { epoch: highest });
}

/** The highest epoch of a generation that was claimed after this one; this one if none was. */
async function highestClaimed(objects: ObjectStore, container: number, epoch: number): Promise<number> {
  const generation = generationOf(epoch);
  const prefix = claimPrefix(container, generation);
  let highest = epoch;
  for (let after = claimName(container, epoch); ; ) {
    const page = await objects.list(prefix, { after, limit: PAGE });
    for (const { name } of page) {
      const number = Number(name.slice(prefix.length));
      if (number < EPOCHS_PER_GENERATION) highest = Math.max(highest, epochBefore(generation) + number);
    }
    const last = page.at(-1);
    if (!last || page.length < PAGE) return highest;
    after = last.name;
  }
}

function used(epoch: number, highest: number): TributaryError {
  return new TributaryError("CONTAINER_NOT_OWNED", `epoch ${epoch} was used before; the MetaStore went back`, { epoch: highest });
}
