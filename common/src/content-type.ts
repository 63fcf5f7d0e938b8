import { TributaryError } from "./errors.ts";
import { LIMITS } from "./limits.ts";

const CONTENT_TYPE_PATTERN = /^[A-Za-z0-9!#$&^_.+-]+\/[A-Za-z0-9!#$&^_.+-]+\s*(;[\x20-\x7e]*)?$/;

/** The form that is stored: type and subtype in lower case, parameters as they were given. @throws INVALID_REQUEST */
export function canonicalContentType(text: string): string {
  const trimmed = text.trim();
  const semicolon = trimmed.indexOf(";");
  const canonical = semicolon < 0 ? trimmed.toLowerCase() : `${contentTypeEssence(trimmed)}; ${trimmed.slice(semicolon + 1).trim()}`;
  // The form that is stored may be the longer one, and it is what others have to take.
  const isLong = Math.max(trimmed.length, canonical.length) > LIMITS.contentTypeCharsMax;
  if (isLong || !CONTENT_TYPE_PATTERN.test(trimmed)) {
    throw new TributaryError("INVALID_REQUEST", `'${trimmed.slice(0, 80)}' is not a content type`);
  }
  return canonical;
}

/** Type and subtype in lower case, without parameters. */
export function contentTypeEssence(contentType: string): string {
  const semicolon = contentType.indexOf(";");
  return (semicolon < 0 ? contentType : contentType.slice(0, semicolon)).trim().toLowerCase();
}

/** How streams compare content types: parameters (charset) and case do not count. */
export function sameContentType(a: string, b: string): boolean {
  return a === b || contentTypeEssence(a) === contentTypeEssence(b);
}

/** Streams in JSON mode: each event is one JSON text. */
export function isJsonContentType(contentType: string): boolean {
  return contentTypeEssence(contentType) === "application/json";
}
