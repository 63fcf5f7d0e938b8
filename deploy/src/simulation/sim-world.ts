import type { Logger } from "@tributary/common/logger";
import type { StreamName } from "@tributary/common/names";
import type { PhaseListener } from "@tributary/common/phases";
import type { EdgeLogs } from "../check/edge-logs.ts";
import type { SimEnvironment } from "./environment.ts";
import type { LakeWatch } from "./lake-watch.ts";
import type { Ledger, Seen, Submission } from "./ledger.ts";
import type { BusNetwork } from "./ports/sim-bus.ts";
import type { MetaState } from "./ports/sim-meta-store.ts";
import type { ObjectShelf } from "./ports/sim-object-store.ts";
import type { SimProcess } from "./process.ts";
import type { Shape } from "./shape.ts";
import type { StreamFates } from "./stream-fates.ts";
import type { WalShelf } from "./wal-shelf.ts";

/** Something that can be called over the network. */
export interface Target<S> {
  readonly process: SimProcess | undefined;
  readonly service: S | undefined;
}

/** What somebody who follows a stream has read of it, from its first record on. */
export interface Tail {
  readonly name: string;
  streamId: string;
  records: Seen[];
}

/** What nodes and clients see of the world that they are in. */
export interface SimWorld extends SimEnvironment {
  readonly nowMs: number;
  readonly shape: Shape;
  readonly ledger: Ledger;
  readonly lake: LakeWatch;
  readonly fates: StreamFates;
  /** What the gateways' logs were given. */
  readonly logs: EdgeLogs;
  readonly network: BusNetwork;
  readonly meta: MetaState;
  readonly shelf: ObjectShelf;
  readonly wals: WalShelf;
  /** Containers of which something stored is damaged for good. */
  readonly damaged: ReadonlySet<number>;
  /** Those of them that nobody serves now. */
  readonly outOfService: readonly number[];
  /** Clients go on beginning new things. */
  readonly working: boolean;
  /** Clients that have not done yet what they promised themselves. */
  readonly clientsBusy: Set<string>;
  /** Something is damaged for good, and time enough was given to what is not: who still waits may give up. */
  readonly hopeless: boolean;
  readonly tails: Map<string, Tail>;
  /** Logs or MetaStore of the core were set back. */
  readonly wentBack: boolean;
  /** Whether the stream is served by this process itself: then it need not rely on the network. */
  isOwner(process: SimProcess | undefined, stream: StreamName): boolean;
  /** `rate`: how fast its monotonic clock runs. */
  spawn(name: string, rate?: number): SimProcess;
  /** False for a client that a shortened story leaves out. */
  allows(client: string): boolean;
  trace(who: string, what: string): void;
  /** The program itself says that it is wrong. */
  defect(who: string, error: unknown): void;
  loggerOf(process: SimProcess): Logger;
  /** Crashes the process now and then in the middle of a phase. */
  phasesOf(process: SimProcess, crash: () => void): PhaseListener;
  hadLoss(writer: string): boolean;
  /** Whether a gateway's log may give its copy of the event up though it is safe nowhere. `heldBy`: the logs that hold this copy. */
  isExcused(submission: Submission, heldBy: ReadonlySet<string>): boolean;
  /**
   * One request of a client to a node, as over TCP: it arrives or not, and so does its answer.
   * @throws SERVER_UNREACHABLE nobody was there; BUS_TIMEOUT no answer came; what the work throws
   */
  request<S, T>(client: SimProcess, target: () => Target<S>, timeoutMs: number, work: (service: S) => Promise<T>): Promise<T>;
}
