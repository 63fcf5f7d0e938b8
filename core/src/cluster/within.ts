import type { Clock } from "@tributary/common/clock";
import { TributaryError } from "@tributary/common/errors";

/** What the promise gives. @throws LOG_RESULT_UNKNOWN when it takes longer; what comes of it then is not looked at */
export function within<T>(clock: Clock, timeoutMs: number, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const late = () => reject(new TributaryError("LOG_RESULT_UNKNOWN", `the metadata store gave no answer within ${timeoutMs} ms`));
    const cancel = clock.setTimer(timeoutMs, late);
    promise.then(resolve, reject).finally(cancel);
  });
}
