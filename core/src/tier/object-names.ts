import { EPOCHS_PER_GENERATION, epochBefore, generationOf } from "../container/generation.ts";
import type { ObjectRef } from "../container/operations.ts";

export type ObjectKind = "blocks" | "snapshot";

/**
 * "g{generation}/c{container}/{kind}/{epoch}-{attempt}-{through}.trib", the numbers padded so that names sort as they were written;
 * epochs are counted from the beginning of their generation. A deposed owner's objects carry another epoch or attempt, so they never collide (rule L2).
 */
export function objectName(container: number, kind: ObjectKind, ref: Pick<ObjectRef, "epoch" | "attempt" | "through">): string {
  const numbers = [pad(ref.epoch % EPOCHS_PER_GENERATION, 10), pad(ref.attempt, 10), pad(ref.through, 16)].join("-");
  return `${folderOf(generationOf(ref.epoch), container)}/${kind}/${numbers}.trib`;
}

const NAME_PATTERN = /\/(\d{10})-(\d{10})-(\d{16})\.trib$/;

/** What the name of an object of a generation says; undefined if it is none. */
export function parseObjectName(generation: number, name: string): Pick<ObjectRef, "epoch" | "attempt" | "through"> | undefined {
  const match = NAME_PATTERN.exec(name);
  if (!match) return undefined;
  return { epoch: epochBefore(generation) + Number(match[1]), attempt: Number(match[2]), through: Number(match[3]) };
}

/**
 * From what a generation of a container began. Where a store kept other bytes than it was given, the next name is taken: the first one
 * that is whole counts.
 */
export function rootNames(container: number, generation: number): readonly string[] {
  const name = `${folderOf(generation, container)}/root`;
  return [name, `${name}-2`, `${name}-3`];
}

/** What the names of everything begin with that a container has of a generation. */
export function generationPrefix(container: number, generation: number): string {
  return `${folderOf(generation, container)}/`;
}

/** Says that an epoch was won: put by its owner before it writes anything. */
export function claimName(container: number, epoch: number): string {
  return `${claimPrefix(container, generationOf(epoch))}${pad(epoch % EPOCHS_PER_GENERATION, 10)}`;
}

export function claimPrefix(container: number, generation: number): string {
  return `${folderOf(generation, container)}/epochs/`;
}

/** What the names of all objects of one kind begin with. */
export function objectPrefix(container: number, kind: ObjectKind, generation: number): string {
  return `${folderOf(generation, container)}/${kind}/`;
}

/** Where a record that fails its checks is copied to. */
export function quarantineName(generation: number, container: number, seq: number, hash: string): string {
  return `${folderOf(generation, container)}/quarantine/${pad(seq, 16)}-${hash}.frame`;
}

function folderOf(generation: number, container: number): string {
  return `g${generation}/c${pad(container, 5)}`;
}

function pad(value: number, digits: number): string {
  return String(value).padStart(digits, "0");
}
