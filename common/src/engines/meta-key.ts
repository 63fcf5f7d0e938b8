import { TributaryError } from "../errors.ts";

const KEY_PATTERN = /^[A-Za-z0-9._-]{1,128}(\/[A-Za-z0-9._-]{1,128}){0,7}$/;

/** @throws INVALID_REQUEST */
export function checkMetaKey(key: string): void {
  if (!KEY_PATTERN.test(key)) throw new TributaryError("INVALID_REQUEST", `'${key.slice(0, 140)}' is not a key of the meta store`);
}

/** "" is the prefix of every key. @throws INVALID_REQUEST */
export function checkMetaPrefix(prefix: string): void {
  if (prefix !== "") checkMetaKey(prefix);
}

/** By whole parts: "a/b" covers itself and "a/b/c", not "a/bc". */
export function isUnderPrefix(key: string, prefix: string): boolean {
  return prefix === "" || key === prefix || key.startsWith(`${prefix}/`);
}
