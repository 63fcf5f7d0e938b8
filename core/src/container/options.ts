import { LIMITS } from "@tributary/common/limits";

/** What may be set for each container. Defaults are those of a server. */
export interface ContainerOptions {
  /** Frames sent and not yet durable. */
  readonly windowFrames: number;
  /** Bytes at which a frame is full; and the most that it may have, at most the log's own limit of a record. */
  readonly frameBytesTarget: number;
  readonly frameBytesMax: number;
  /** An append of the log without a result for so long is taken as of unknown result. */
  readonly appendTimeoutMs: number;
  /** A try to begin an attempt is given up after so long; whoever waits is told then, and the next try begins. */
  readonly fenceTimeoutMs: number;
  /** A clean stop waits at most so long for log and tier. What is not flushed by then is replayed at the next start. */
  readonly closeTimeoutMs: number;
  /** Frames of one attempt; then another begins, because the number in a frame has 32 bits. */
  readonly attemptFramesMax: number;
  /** Appends that wait for a place in a frame. Above it: OVERLOADED. */
  readonly queueBytesMax: number;
  /**
   * Appends on their way, or durable and not in the tier yet. Above it others wait in the queue, so that writers slow down: in all a container
   * has this and `queueBytesMax`, and one frame more.
   */
  readonly unflushedBytesMax: number;
  /** They wait at most so long; then OVERLOADED, at once, until the tier has taken some. */
  readonly holdMsMax: number;
  readonly flushBytes: number;
  readonly flushIntervalMs: number;
  /** The log is truncated once so many of its bytes are in the tier, or so long after the last time. */
  readonly truncateBytes: number;
  readonly truncateIntervalMs: number;
  readonly checkpointObjectsMax: number;
  /** A step of a flush that has given no answer for so long shows as a problem. */
  readonly flushStepMsMax: number;
  /** Blocks of the tier kept in memory as they are, and chunks kept unpacked. */
  readonly blockCacheBytesMax: number;
  readonly chunkCacheBytesMax: number;
}

export const CONTAINER_DEFAULTS: ContainerOptions = {
  windowFrames: 4,
  frameBytesTarget: 1_048_576,
  frameBytesMax: LIMITS.frameBytesMax,
  appendTimeoutMs: 20_000,
  fenceTimeoutMs: 5_000,
  closeTimeoutMs: 5_000,
  attemptFramesMax: 2 ** 31,
  queueBytesMax: 16_777_216,
  unflushedBytesMax: 67_108_864,
  holdMsMax: LIMITS.appendHoldMsMax,
  flushBytes: 8_388_608,
  flushIntervalMs: 2_000,
  truncateBytes: 33_554_432,
  truncateIntervalMs: 10_000,
  checkpointObjectsMax: 64,
  flushStepMsMax: 30_000,
  blockCacheBytesMax: 67_108_864,
  chunkCacheBytesMax: 33_554_432,
};
