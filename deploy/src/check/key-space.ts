import type { Violate } from "./plain.ts";

/** Invariant 4: the open segments cover the key space exactly once. */
export function checkKeySpace(
  stream: string,
  segments: readonly { readonly range: { readonly from: number; readonly to: number } }[],
  violate: Violate,
): void {
  let next = 0;
  for (const { range } of segments.toSorted((a, b) => a.range.from - b.range.from)) {
    if (range.from !== next) violate(4, "key space", `${stream}: ${range.from} follows ${next}`);
    next = range.to;
  }
  if (next !== 2 ** 32) violate(4, "key space", `${stream} ends at ${next}`);
}
