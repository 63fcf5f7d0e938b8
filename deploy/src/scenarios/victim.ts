import type { Phase } from "@tributary/common/phases";

/** What a scenario may kill and start again. */
export interface Victim {
  readonly name: string;
  /** Milliseconds that its last start took. */
  readonly readyMs: number;
  /** Calls back at each begin of a phase, until it is called with undefined. */
  onBegin(listener: ((phase: Phase) => void) | undefined): void;
  /** Resolves with the phases that the kill interrupted. */
  kill(): Promise<Phase[]>;
  start(): Promise<void>;
}
