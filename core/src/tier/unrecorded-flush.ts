import type { ObjectStore } from "@tributary/common/ports/object-store";
import type { Durable } from "../container/durable.ts";
import type { Checkpoint } from "../container/operations.ts";
import { buildFlushObject } from "./flush-object.ts";
import { objectName } from "./object-names.ts";
import { putVerified } from "./verified-put.ts";

/**
 * Brings everything durable into the lake where the log cannot be told of it any more: the object explains itself. Returns the
 * checkpoint that the log would hold. @throws STORE_CORRUPT, what the store throws
 */
export async function flushUnrecorded(
  objects: ObjectStore,
  owner: { readonly container: number; readonly epoch: number; readonly attempt: number },
  durable: Durable,
): Promise<Checkpoint> {
  const { state, historyEnd: position, unflushed, checkpoint } = durable;
  if (!unflushed.worthFlushing) return checkpoint;
  const steps = buildFlushObject(owner, state, position, unflushed, durable.lastObject);
  let step = steps.next();
  while (!step.done) step = steps.next();
  const { ref, parts } = step.value;
  await putVerified(objects, objectName(owner.container, "blocks", ref), parts);
  return { position, snapshot: checkpoint.snapshot, objects: [...checkpoint.objects, ref] };
}
