import type { Dice } from "./dice.ts";
import type { Faults } from "./faults.ts";
import type { Scheduler } from "./scheduler.ts";

/** What every simulated part is made with. */
export interface SimEnvironment {
  readonly scheduler: Scheduler;
  readonly dice: Dice;
  readonly faults: Faults;
}
