import type { Id } from "@tributary/common/names";

/** A core node as the others see it. */
export interface Member {
  /** Drawn at each start of the node's process, and again when its lease was lost: never used twice. */
  readonly node: Id;
  /** What its operator calls it. */
  readonly name: string;
  /** Where its HTTP face is reached by clients and other nodes; "" if it has none. */
  readonly url: string;
  /** It gives its containers away and takes no new ones. */
  readonly draining: boolean;
}

/** Who owns a container, as far as this node knows; it may have changed since. */
export interface Owner {
  readonly container: number;
  readonly epoch: number;
  readonly node: Id;
  /** As Member.url; "" while the node's record is not known here. */
  readonly url: string;
}

/** What a node knows of its cluster. A view may be old: it routes and never decides. */
export interface ClusterView {
  /** This node. It changes when a lease was lost. */
  readonly node: Id;
  members(): readonly Member[];
  ownerOf(container: number): Owner | undefined;
  /** Containers that the cluster has now. */
  readonly containers: number;
  /** Called after each change of members, owners or the number of containers. */
  onChange(listener: () => void): () => void;
}
