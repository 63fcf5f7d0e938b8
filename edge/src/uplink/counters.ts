export interface UplinkCounters {
  blocksSent: number;
  blocksAccepted: number;
  blocksRefused: number;
  bytesSent: number;
  eventsFreed: number;
  rewinds: number;
  hellos: number;
  failures: number;
  /** Answers of the core that could not be understood. */
  answersInvalid: number;
  /** Times that a container's owner was not found where it was asked directly. */
  detours: number;
  streamsQuarantined: number;
  siblings: number;
}

export function newCounters(): UplinkCounters {
  return {
    blocksSent: 0,
    blocksAccepted: 0,
    blocksRefused: 0,
    bytesSent: 0,
    eventsFreed: 0,
    rewinds: 0,
    hellos: 0,
    failures: 0,
    answersInvalid: 0,
    detours: 0,
    streamsQuarantined: 0,
    siblings: 0,
  };
}
