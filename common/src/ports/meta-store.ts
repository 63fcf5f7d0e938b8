export interface MetaEntry {
  readonly key: string;
  readonly value: Uint8Array;
  /** Grows with every change of the key; never reused. */
  readonly revision: number;
}

/**
 * Versioned keys. A key is 1 to 8 parts joined by "/", each of A-Z a-z 0-9 . _ - (at most 128 characters).
 * Reads may be stale: decide by winning a create or an update, never by a read.
 */
export interface MetaStore {
  get(key: string): Promise<MetaEntry | undefined>;
  /** Resolves with the revision. @throws META_EXISTS; LOG_RESULT_UNKNOWN when it may have been stored */
  create(key: string, value: Uint8Array): Promise<number>;
  /** Compare and set. Resolves with the new revision. @throws META_CONFLICT; LOG_RESULT_UNKNOWN when it may have been stored */
  update(key: string, value: Uint8Array, revision: number): Promise<number>;
  /** Deletes the key if it is still at `revision`; a missing key is fine. A later create gives a higher revision. @throws META_CONFLICT */
  delete(key: string, revision: number): Promise<void>;
  /** Entries whose key begins with the given parts ("a/b" finds "a/b/c", not "a/bc"), in order of key; "" for all. */
  list(prefix: string): Promise<MetaEntry[]>;
  /**
   * Reports the present entries below the prefix, then every change (a deleted key with `value` undefined) in order, until
   * the signal aborts. Changes that follow each other quickly may be reported as one.
   */
  watch(prefix: string, signal: AbortSignal, onChange: (change: MetaChange) => void): Promise<void>;
  close(): Promise<void>;
}

export interface MetaChange {
  readonly key: string;
  readonly value: Uint8Array | undefined;
  readonly revision: number;
}
