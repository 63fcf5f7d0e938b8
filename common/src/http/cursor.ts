import type { Clock } from "../clock.ts";
import type { Random } from "../random.ts";

/**
 * Cursors of live reads (Durable Streams, section 10.1): the number of the 20-second interval since 2024-10-09, and always beyond the
 * cursor that the client echoes, so that a cache never answers a client with its own last answer for ever.
 */
const EPOCH_MS = Date.UTC(2024, 9, 9);
const INTERVAL_MS = 20_000;
const JITTER_SECONDS_MAX = 3600;

export function nextCursor(clock: Clock, random: Random, echoed: string | undefined): string {
  const current = Math.max(0, Math.floor((clock.nowMs() - EPOCH_MS) / INTERVAL_MS));
  if (echoed === undefined || !/^\d{1,15}$/.test(echoed) || Number(echoed) < current) return String(current);
  const jitterSeconds = 1 + Math.floor(random.float() * JITTER_SECONDS_MAX);
  return String(Number(echoed) + Math.max(1, Math.ceil((jitterSeconds * 1000) / INTERVAL_MS)));
}
