import type { Clock } from "../clock.ts";
import type { Random } from "../random.ts";
import type { StreamService } from "../stream-service.ts";
import type { BodyBudget } from "./body.ts";

/** What the handlers of the data plane share. */
export interface Plane {
  readonly streams: StreamService;
  readonly clock: Clock;
  readonly random: Random;
  readonly bodies: BodyBudget;
  readonly longPollMsMax: number;
  /** Whether shared caches may keep what is read: not where a token guards it. */
  readonly cacheScope: "public" | "private";
  /** Defects are reported here; whoever sent the request learns only that there was one. */
  readonly reportError: (error: unknown) => void;
}
