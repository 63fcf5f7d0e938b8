import type { Random } from "@tributary/common/random";

export interface BackoffBounds {
  readonly firstMs: number;
  readonly maxMs: number;
}

/** Doubles from wait to wait, each spread over its upper half, so that gateways that failed together do not come back together. */
export function backoffMs(failuresInRow: number, bounds: BackoffBounds, random: Random): number {
  const full = Math.min(bounds.maxMs, bounds.firstMs * 2 ** Math.min(failuresInRow, 30));
  return full * (0.5 + random.float() / 2);
}
