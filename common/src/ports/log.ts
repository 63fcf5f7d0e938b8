/** One record of a log. Sequences are contiguous within what a log holds; a hole is damage, never normal. */
export interface LogRecord {
  readonly seq: number;
  readonly data: Uint8Array;
}

export interface LogState {
  /** Sequence of the oldest record kept; `last + 1` when the log is empty. The first record ever has sequence 1. */
  readonly first: number;
  /** Sequence of the newest durable record; 0 when nothing was ever appended. Survives truncation of everything. */
  readonly last: number;
  /** Bytes that the log takes on its disk, all files counted; payload bytes where the engine cannot know. */
  readonly bytes: number;
  /** Part of `bytes` that lies free inside the files, which the next appends fill first; absent where there is no such thing. */
  readonly bytesReusable?: number;
}

/**
 * An append-only sequence of opaque records with one durable end.
 *
 * Appends may be pipelined: call `append` with the predicted sequence before the earlier call has resolved. The engine
 * carries them out in the order of the calls; when one fails, those behind it fail with LOG_SEQUENCE_MISMATCH.
 */
export interface Log {
  /** Bytes of the largest record that the engine takes now; absent: LIMITS.frameBytesMax. A NATS server sets it by its max_payload. */
  readonly recordBytesMax?: number;
  state(): Promise<LogState>;
  /**
   * Appends one record as sequence `expectedLast + 1`. Resolves with that sequence only once the record is durable; then, and only then,
   * the caller may write into `data` again.
   * @throws LOG_SEQUENCE_MISMATCH nothing was appended: the log's end is not `expectedLast`
   * @throws LOG_RESULT_UNKNOWN it may have landed, or may land later
   * @throws STORAGE_FULL nothing was appended
   */
  append(data: Uint8Array, expectedLast: number): Promise<number>;
  /** Records from `fromSeq` (or the first kept, if later) on, in order; at least one if there is any, else at most the given bounds. */
  read(fromSeq: number, bounds: { recordsMax: number; bytesMax: number }): Promise<LogRecord[]>;
  /** Removes every record up to and including `throughSeq`. Idempotent; never lowers `last`. */
  truncate(throughSeq: number): Promise<void>;
  close(): Promise<void>;
}
