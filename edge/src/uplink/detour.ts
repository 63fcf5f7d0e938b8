import { hasCode, type TributaryError } from "@tributary/common/errors";

/** The owner is not, or no longer, where it was asked directly: through any other node it may be found. */
export function isDetour(error: TributaryError): boolean {
  return hasCode(error, "BUS_NO_RESPONDER", "BUS_TIMEOUT", "CONTAINER_NOT_OWNED", "SHUTTING_DOWN");
}
