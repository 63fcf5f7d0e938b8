import { hasCode } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import type { ObjectStore } from "@tributary/common/ports/object-store";

/**
 * `map/{count, 10 digits}`: empty; the cluster has or had at least so many containers. Put before the MetaStore says so: if the MetaStore
 * goes back or is lost, none of the containers is forgotten.
 */
const PREFIX = "map/";
const COUNT_DIGITS = 10;

export async function noteContainers(objects: ObjectStore, count: number): Promise<void> {
  const name = PREFIX + String(count).padStart(COUNT_DIGITS, "0");
  if (await objects.head(name)) return;
  try {
    await objects.put(name, new Uint8Array(0));
  } catch (error) {
    if (!hasCode(error, "OBJECT_EXISTS")) throw error;
  }
}

/** 0 if the lake knows of none. */
export async function notedContainers(objects: ObjectStore): Promise<number> {
  const infos = await objects.list(PREFIX, { limit: LIMITS.containersMax });
  const counts = infos.map(({ name }) => Number(name.slice(PREFIX.length))).filter((count) => count >= 1 && count <= LIMITS.containersMax);
  return Math.max(0, ...counts);
}
