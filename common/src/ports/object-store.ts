import type { ObjectData } from "../object-data.ts";

export interface ObjectInfo {
  readonly name: string;
  readonly bytes: number;
}

/**
 * Immutable objects. A name is parts joined by "/", each of A-Z a-z 0-9 . _ - (at most 1,024 characters in all). A store that is away holds
 * its objects all the same: each call throws STORE_UNREACHABLE or another retryable error then, and none says that there is no object.
 */
export interface ObjectStore {
  /** Stores the object if the name is free; its bytes must not change meanwhile. Resolves only when its bytes and its name are durable. @throws OBJECT_EXISTS; STORAGE_FULL; LOG_RESULT_UNKNOWN when it may be stored */
  put(name: string, data: ObjectData): Promise<void>;
  /**
   * The object, or `length` bytes from `offset` (fewer at its end). They may be put into `into`, where that is given and they fit: the
   * answer is a view of it then. @throws OBJECT_NOT_FOUND
   */
  get(name: string, range?: { offset: number; length: number }, into?: Uint8Array): Promise<Uint8Array>;
  /** undefined if there is none. */
  head(name: string): Promise<ObjectInfo | undefined>;
  /** Objects whose name begins with the prefix, in order of name, after `after` if given; at most `limit`. */
  list(prefix: string, options: { after?: string; limit: number }): Promise<ObjectInfo[]>;
  /** A missing object is fine. */
  delete(name: string): Promise<void>;
  close(): Promise<void>;
}
