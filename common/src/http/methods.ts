import { TributaryError } from "../errors.ts";

/** The detail `allow` becomes the Allow header. */
export function methodNotAllowed(method: string, allow: string): TributaryError {
  return new TributaryError("METHOD_NOT_ALLOWED", `${method.slice(0, 20)} is not a method of this path`, { allow });
}
