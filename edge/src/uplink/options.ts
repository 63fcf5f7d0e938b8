export interface UplinkOptions {
  /** Stands in the subjects. */
  readonly cluster: string;
  /** What its operator calls the gateway. */
  readonly name: string;
  readonly version: string;
  /** When the gateway may forget an event. */
  readonly freeAt: "committed" | "tiered";
  readonly requestTimeoutMs: number;
  /** Waits after failures double from the first to the longest. */
  readonly backoffFirstMs: number;
  readonly backoffMaxMs: number;
  readonly levelsIntervalMs: number;
  /** Bounds of what is handed out and not freed: when the core is slow, sending stops there (rule C7). */
  readonly unitsMax: number;
  readonly bytesMax: number;
  readonly needsMax: number;
}

export const UPLINK_DEFAULTS: Omit<UplinkOptions, "cluster" | "name" | "version"> = {
  freeAt: "tiered",
  requestTimeoutMs: 5_000,
  backoffFirstMs: 100,
  backoffMaxMs: 5_000,
  levelsIntervalMs: 1_000,
  unitsMax: 512,
  bytesMax: 67_108_864,
  needsMax: 262_144,
};
