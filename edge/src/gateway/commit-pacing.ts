/** How long a lone event waits for company. */
const LINGER_MS_MIN = 2;
/** Size of the last batch from which on the longest wait pays. */
const PAYLOAD_BYTES_FULL_LINGER = 131_072;

/**
 * How long the open batch waits for company before it is committed. The more the last batch carried, the longer: larger commits
 * compress better and wear the disk less, and at that rate the commits themselves are what takes the time.
 */
export function lingerMs(lastBatchPayloadBytes: number, lingerMsMax: number): number {
  const least = Math.min(LINGER_MS_MIN, lingerMsMax);
  return least + (lingerMsMax - least) * Math.min(1, lastBatchPayloadBytes / PAYLOAD_BYTES_FULL_LINGER);
}

/** Waits before the n-th attempt in a row to open the log again (from 0). A disk that is full stays full for a while. */
export function reopenDelayMs(failuresInRow: number): number {
  return failuresInRow === 0 ? 0 : Math.min(5_000, 50 * 2 ** Math.min(failuresInRow - 1, 10));
}
