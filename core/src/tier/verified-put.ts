import { hasCode, TributaryError } from "@tributary/common/errors";
import { lengthOf, type ObjectData, sliced } from "@tributary/common/object-data";
import type { ObjectStore } from "@tributary/common/ports/object-store";

const COMPARE_BYTES = 4_194_304;

/**
 * Stores an object and reads it back (rule L3). Resolves only if the store holds exactly these bytes under the name: what an
 * earlier try of unknown result left there is as good as a new one.
 * @throws STORE_CORRUPT if it holds others; what the store threw if that cannot be told
 */
export async function putVerified(objects: ObjectStore, name: string, data: ObjectData): Promise<void> {
  try {
    await objects.put(name, data);
  } catch (error) {
    // An unknown result is settled by reading; if nothing is there yet, the next try puts it again.
    if (!hasCode(error, "OBJECT_EXISTS", "LOG_RESULT_UNKNOWN")) throw error;
  }
  const length = lengthOf(data);
  const buffer = new Uint8Array(Math.min(length, COMPARE_BYTES));
  for (let offset = 0; offset < length; offset += COMPARE_BYTES) {
    const stored = await objects.get(name, { offset, length: COMPARE_BYTES }, buffer);
    if (!holds(stored, sliced(data, offset, offset + COMPARE_BYTES))) {
      throw new TributaryError("STORE_CORRUPT", `object ${name} holds other bytes than were put`, { object: name });
    }
  }
  const info = await objects.head(name);
  if (info?.bytes !== length) {
    throw new TributaryError("STORE_CORRUPT", `object ${name} has another length than what was put`, { object: name });
  }
}

function holds(stored: Uint8Array, expected: Iterable<Uint8Array>): boolean {
  let at = 0;
  for (const part of expected) {
    if (Buffer.compare(stored.subarray(at, at + part.length), part) !== 0) return false;
    at += part.length;
  }
  return true;
}
