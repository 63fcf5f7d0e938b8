import type { ObjectRef } from "../container/operations.ts";

/** Raised when state was found to have gone back (rule L5). */
export const GENERATION = 0;

export type ObjectKind = "blocks" | "snapshot";

/**
 * "g{generation}/c{container}/{kind}/{epoch}-{attempt}-{through}.trib", the numbers padded so that names sort as they were written.
 * A deposed owner's objects carry another epoch or attempt, so they never collide (rule L2).
 */
export function objectName(container: number, kind: ObjectKind, ref: Pick<ObjectRef, "epoch" | "attempt" | "through">): string {
  const numbers = [pad(ref.epoch, 10), pad(ref.attempt, 10), pad(ref.through, 16)].join("-");
  return `g${GENERATION}/c${pad(container, 5)}/${kind}/${numbers}.trib`;
}

/** Where a record that fails its checks is copied to. */
export function quarantineName(container: number, seq: number, hash: string): string {
  return `g${GENERATION}/c${pad(container, 5)}/quarantine/${pad(seq, 16)}-${hash}.frame`;
}

function pad(value: number, digits: number): string {
  return String(value).padStart(digits, "0");
}
