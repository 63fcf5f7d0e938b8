const PAGE_RECORDS = 4_096;

/**
 * Invariant 3: at one (segment, nonce, ordinal) every read, ever, returns the same bytes, and the same nonce. Four bytes a record are
 * kept, in pages: many millions of places fit.
 */
export class Places {
  readonly #segments = new Map<string, Map<number, Uint32Array>>();
  /** Places that hold something. */
  count = 0;

  /** `segment` names stream and segment. False if something else was read there before. */
  isSame(segment: string, ordinal: number, digest: number): boolean {
    const before = this.at(segment, ordinal);
    if (before === undefined) this.put(segment, ordinal, digest);
    return before === undefined || before === storedAs(digest);
  }

  /** What stands there, undefined if nothing is known. Compare it with `isSame`. */
  at(segment: string, ordinal: number): number | undefined {
    return this.#segments.get(segment)?.get(Math.floor(ordinal / PAGE_RECORDS))?.[ordinal % PAGE_RECORDS] || undefined;
  }

  put(segment: string, ordinal: number, digest: number): void {
    let pages = this.#segments.get(segment);
    if (!pages) {
      pages = new Map();
      this.#segments.set(segment, pages);
    }
    const at = Math.floor(ordinal / PAGE_RECORDS);
    let page = pages.get(at);
    if (!page) {
      page = new Uint32Array(PAGE_RECORDS);
      pages.set(at, page);
    }
    if (page[ordinal % PAGE_RECORDS] === 0) this.count++;
    page[ordinal % PAGE_RECORDS] = storedAs(digest);
  }
}

/** 0 stands for a place of which nothing is known. */
function storedAs(digest: number): number {
  return digest >>> 0 || 1;
}
