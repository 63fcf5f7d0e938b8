import type { Phase } from "@tributary/common/phases";

/** What a scenario may kill and start again. */
export interface Victim {
  readonly name: string;
  /** Phases that happen inside it. */
  readonly phases: readonly Phase[];
  /** Milliseconds that its last start took. */
  readonly readyMs: number;
  /** Kills it right at the next begin of the phase; resolves then, or without a kill when the time is over. `kill` follows. */
  killAtBegin(phase: Phase, timeoutMs: number): Promise<void>;
  /** Resolves with the phases that the kill interrupted. */
  kill(): Promise<Phase[]>;
  start(): Promise<void>;
}
