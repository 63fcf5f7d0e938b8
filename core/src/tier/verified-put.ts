import { hasCode, TributaryError } from "@tributary/common/errors";
import type { ObjectStore } from "@tributary/common/ports/object-store";

const COMPARE_BYTES = 4_194_304;

/**
 * Stores an object and reads it back (rule L3). Resolves only if the store holds exactly these bytes under the name: what an
 * earlier try of unknown result left there is as good as a new one.
 * @throws STORE_CORRUPT if it holds others; what the store threw if that cannot be told
 */
export async function putVerified(objects: ObjectStore, name: string, bytes: Uint8Array): Promise<void> {
  try {
    await objects.put(name, bytes);
  } catch (error) {
    // An unknown result is settled by reading; if nothing is there yet, the next try puts it again.
    if (!hasCode(error, "OBJECT_EXISTS", "LOG_RESULT_UNKNOWN")) throw error;
  }
  for (let offset = 0; offset < bytes.length; offset += COMPARE_BYTES) {
    const expected = bytes.subarray(offset, offset + COMPARE_BYTES);
    const stored = await objects.get(name, { offset, length: COMPARE_BYTES });
    if (Buffer.compare(stored.subarray(0, expected.length), expected) !== 0) {
      throw new TributaryError("STORE_CORRUPT", `object ${name} holds other bytes than were put`, { object: name });
    }
  }
  const info = await objects.head(name);
  if (info?.bytes !== bytes.length) {
    throw new TributaryError("STORE_CORRUPT", `object ${name} has another length than what was put`, { object: name });
  }
}
