import { TributaryError } from "./errors.ts";

/** Keys of a MetaStore: 1 to 8 parts joined by "/", each of 1 to 128 of A-Z a-z 0-9 . _ - */
const PARTS_MAX = 8;
const PART_PATTERN = /^[A-Za-z0-9._-]{1,128}$/;

/** The parts of a key. Engines call it first in every operation. @throws INVALID_REQUEST */
export function parseMetaKey(key: string): string[] {
  const parts = key.split("/");
  if (parts.length > PARTS_MAX || !parts.every((part) => PART_PATTERN.test(part))) {
    throw new TributaryError("INVALID_REQUEST", `'${key.slice(0, 160)}' is not a metadata key`);
  }
  return parts;
}

/** The parts of a prefix; none for "". @throws INVALID_REQUEST */
export function parseMetaPrefix(prefix: string): string[] {
  return prefix === "" ? [] : parseMetaKey(prefix);
}
