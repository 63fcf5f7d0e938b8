import { type ErrorCode, hasCode } from "@tributary/common/errors";

/** Nothing was carried out: whoever was asked is not, or no longer, the one to ask. */
const REFUSED: readonly ErrorCode[] = ["CONTAINER_NOT_OWNED", "BUS_NO_RESPONDER", "BUS_UNREACHABLE", "SHUTTING_DOWN"];
/** It may have been carried out, or may still be. */
const UNKNOWN: readonly ErrorCode[] = ["BUS_TIMEOUT", "LOG_RESULT_UNKNOWN"];

/** Whether the same operation may be tried at whoever owns the container now. `untilKnown`: also one whose result is unknown. */
export function mayRepeat(error: unknown, untilKnown: boolean): boolean {
  return hasCode(error, ...REFUSED) || (untilKnown && hasCode(error, ...UNKNOWN));
}
