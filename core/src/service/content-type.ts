import { TributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";

export const DEFAULT_CONTENT_TYPE = "application/octet-stream";

// RFC 9110, section 8.3.1, with anything printable in the parameters.
const CONTENT_TYPE_PATTERN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+\/[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*(;[\x20-\x7e\t]*)?$/;

/** @throws INVALID_REQUEST */
export function checkContentType(text: string): string {
  if (text.length > LIMITS.contentTypeCharsMax || !CONTENT_TYPE_PATTERN.test(text)) {
    throw new TributaryError("INVALID_REQUEST", `'${text.slice(0, 64)}' is not a content type`);
  }
  return text;
}

/** Compares type and subtype without regard to case; parameters do not count, as in the Durable Streams reference server. */
export function sameMediaType(a: string, b: string): boolean {
  return mediaType(a) === mediaType(b);
}

function mediaType(text: string): string {
  const semicolon = text.indexOf(";");
  return (semicolon < 0 ? text : text.slice(0, semicolon)).trim().toLowerCase();
}
