import type { Clock } from "../clock.ts";
import type { Random } from "../random.ts";
import type { StreamService } from "../stream-service.ts";
import type { BodyBudget } from "./body.ts";
import type { WorkTime } from "./work-time.ts";

/** What the handlers of the data plane have at hand for one request. */
export interface Plane {
  /** Within the time of the request. */
  readonly streams: StreamService;
  readonly time: WorkTime;
  readonly clock: Clock;
  readonly random: Random;
  readonly bodies: BodyBudget;
  readonly longPollMsMax: number;
  /** Whether shared caches may keep what is read: not where a token guards it. */
  readonly cacheScope: "public" | "private";
  /** Defects are reported here; whoever sent the request learns only that there was one. */
  readonly reportError: (error: unknown) => void;
}
