/**
 * The phases of the way of an event that a crash can interrupt. Whoever runs the process may have their begin and end reported,
 * to see where it stands, or to kill it there.
 */
export const PHASES = ["commit", "uplink", "flush", "checkpoint", "truncate"] as const;
export type Phase = (typeof PHASES)[number];

export interface PhaseListener {
  begin(phase: Phase): void;
  end(phase: Phase): void;
}

/** Runs the work as one instance of the phase. Instances of one phase may overlap. */
export async function inPhase<T>(listener: PhaseListener, phase: Phase, work: () => Promise<T>): Promise<T> {
  listener.begin(phase);
  try {
    return await work();
  } finally {
    listener.end(phase);
  }
}
