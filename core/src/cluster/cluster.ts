import type { OwnerRecord } from "./cluster-codec.ts";
import type { ClusterView } from "./cluster-view.ts";

/** This node's part in its cluster. What hosts containers goes by it: which are this node's, and whether it may serve them now. */
export interface Cluster extends ClusterView {
  /** This node is in the cluster, and nobody can have declared it dead. While it is not, it serves nothing. */
  holds(): boolean;
  isAssigned(container: number): boolean;
  /** Whether a container assigned here may be opened: the owner before has let go of it, or is no member any more. */
  mayTake(before: OwnerRecord): boolean;
  /** The highest epoch of the container that anybody is known to have won; 0 if none is. */
  epochWon(container: number): number;
  /** A container that its owner before does not release is taken after so long all the same. */
  readonly handoverMs: number;
  /** Other nodes may be there: what is given away is marked as released. */
  readonly shared: boolean;
  readonly draining: boolean;
  /** What this node has just done itself. */
  tookOwner(container: number, owner: Pick<OwnerRecord, "epoch" | "released">): void;
  /** Called when this node was declared dead: others may own its containers already. It joins again by itself. */
  onLost(listener: () => void): void;
  /** Resolves once this node is a member and containers are assigned. */
  start(): Promise<void>;
  /** Where this node's HTTP face is reached. */
  announce(url: string): void;
  /** Sees to it that the cluster has at least so many containers; resolves with how many it has. */
  raise(containers: number): Promise<number>;
  /** Told to the others: whether this node gives its containers away and takes none. */
  setDraining(draining: boolean): void;
  /** Gives all containers away, if others are there to take them. Resolves when `isEmpty`, or the time is up. */
  drain(isEmpty: () => boolean, timeoutMs: number): Promise<void>;
  /** Ends the membership. */
  leave(): Promise<void>;
}
