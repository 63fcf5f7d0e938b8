import { chaos } from "./chaos.ts";
import { clockJump } from "./clock-jump.ts";
import { coreAway } from "./core-away.ts";
import { fsyncTrace } from "./fsync-trace.ts";
import { kill } from "./kill.ts";
import { powerCut } from "./power-cut.ts";
import { recordings } from "./recordings.ts";
import { replace } from "./replace.ts";
import type { Scenario } from "./scenario.ts";
import { storeLoss } from "./store-loss.ts";
import { takeOver } from "./take-over.ts";

export const SCENARIOS: Readonly<Record<string, Scenario>> = {
  kill,
  "core-away": coreAway,
  "power-cut": powerCut,
  "fsync-trace": fsyncTrace,
  recordings,
  chaos,
  "take-over": takeOver,
  replace,
  "store-loss": storeLoss,
  "clock-jump": clockJump,
};
