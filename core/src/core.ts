import type { Clock } from "@tributary/common/clock";
import { TributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import type { Id, StreamName } from "@tributary/common/names";
import type { Bus } from "@tributary/common/ports/bus";
import type { MetaStore } from "@tributary/common/ports/meta-store";
import type { ObjectStore } from "@tributary/common/ports/object-store";
import type { Random } from "@tributary/common/random";
import type { StreamService } from "@tributary/common/stream-service";
import type { Cluster } from "./cluster/cluster.ts";
import { ClusterNode } from "./cluster/cluster-node.ts";
import type { ClusterView, Member } from "./cluster/cluster-view.ts";
import { agreeOnClusterId } from "./cluster/lake-identity.ts";
import { SoleNode } from "./cluster/sole-node.ts";
import { type ContainerFactory, ContainerHost, type HostedStatus } from "./service/container-host.ts";
import { createCoreServices } from "./service/core-services.ts";
import { noteContainers, notedContainers } from "./service/lake-map.ts";

export interface CoreParts {
  readonly meta: MetaStore;
  readonly bus: Bus;
  /** The lake. */
  readonly objects: ObjectStore;
  readonly containerFactory: ContainerFactory;
  readonly clock: Clock;
  readonly random: Random;
  readonly options: CoreOptions;
  readonly logger: Logger;
}

export interface CoreOptions {
  /** Stands in the subjects of the uplink: A-Z a-z 0-9 _ - */
  readonly cluster: string;
  /** What operators call this node. */
  readonly name: string;
  /** Containers at least; more if the cluster has more already. */
  readonly containers: number;
  /** undefined where nobody else can use the MetaStore: then every container is this node's, without leases. */
  readonly shared: SharedOptions | undefined;
}

/** How a node shares the containers of its cluster with others. */
export interface SharedOptions {
  /** Of the program; told to the other nodes. */
  readonly version: string;
  /** A node that has not been heard of for so long serves nothing, and soon after is taken for dead. */
  readonly leaseMs: number;
  /** A container that its owner does not release is taken after so long; at least three leases. */
  readonly handoverMs: number;
  /** A stop waits at most so long for others to take this node's containers. */
  readonly drainMs: number;
}

export interface CoreStatus {
  readonly clusterId: Id;
  /** This node's id; it changes when the node was declared dead and has joined anew. */
  readonly node: Id;
  /** This node holds its lease. While it does not, it serves nothing. */
  readonly member: boolean;
  /** Times that this node was declared dead since its start. */
  readonly leasesLost: number;
  readonly draining: boolean;
  readonly members: readonly Member[];
  readonly streams: number;
  /** Writers that said hello since the start. */
  readonly writers: number;
  /** Sums over the containers that are being served here. */
  readonly eventsDurable: number;
  readonly eventsTiered: number;
  /** All of the cluster. */
  readonly containers: readonly HostedStatus[];
}

export interface Core {
  readonly streams: StreamService;
  /** Where clients reach the node that has the stream, unless it is this one or not known. */
  ownerUrl(name: StreamName): Promise<string | undefined>;
  readonly cluster: ClusterView;
  status(): CoreStatus;
  /** Tells the other nodes where this one's HTTP face is reached. */
  announce(url: string): void;
  /** Raises the number of containers while the cluster runs; it never shrinks. Resolves with how many there are. @throws INVALID_REQUEST */
  raiseContainers(count: number): Promise<number>;
  /** This node gives its containers away and takes none, where there are others; or takes some again. */
  setDraining(draining: boolean): void;
  /**
   * Gives its containers away where others are there to take them, answers what was begun, flushes, and stops. MetaStore and Bus
   * stay open: they belong to the caller.
   */
  close(): Promise<void>;
}

/**
 * Starts a core node that hosts the containers of its cluster, or its share of them.
 * @throws FORMAT_UNSUPPORTED and other errors that only a person can mend; whatever the MetaStore throws
 */
export async function openCore(parts: CoreParts): Promise<Core> {
  const { bus, clock, random, options, logger } = parts;
  const access = { meta: parts.meta, clock, random };
  const clusterId = await agreeOnClusterId(access, parts.objects, options.cluster);
  const containersMin = Math.max(options.containers, await notedContainers(parts.objects));
  const cluster: Cluster = options.shared
    ? new ClusterNode(access, { ...options.shared, name: options.name, containers: containersMin }, logger)
    : new SoleNode(access, { ...options, containers: containersMin });
  const host = new ContainerHost(access, cluster, parts.containerFactory, logger);
  const services = createCoreServices({ access, bus, cluster: options.cluster, clusterId, host, view: cluster, logger });
  const { streams, directory, writers } = services;

  // Gateways are answered until the last moment and before anything that their answers need stops.
  const stop = async () => {
    await services.stop();
    await host.close();
    await services.close();
    await cluster.leave();
  };
  let leasesLost = 0;
  cluster.onLost(() => {
    leasesLost++;
    // Its record may be gone because the MetaStore went back: what is cached may be of a past that no watch undoes.
    directory.beginAnew();
  });
  try {
    await cluster.start();
    await noteContainers(parts.objects, cluster.containers);
    await services.start();
    await host.start();
    await services.startUplink();
  } catch (error) {
    await stop();
    throw error;
  }

  let closing: Promise<void> | undefined;
  return {
    streams,
    ownerUrl: (name) => streams.ownerUrl(name),
    cluster,
    announce: (url) => cluster.announce(url),
    async raiseContainers(count) {
      if (!Number.isSafeInteger(count) || count < 1 || count > LIMITS.containersMax) {
        throw new TributaryError("INVALID_REQUEST", `a cluster has 1 to ${LIMITS.containersMax} containers`);
      }
      await noteContainers(parts.objects, count);
      return cluster.raise(count);
    },
    setDraining: (draining) => cluster.setDraining(draining),
    status() {
      const containers = host.status();
      const sum = (count: (hosted: HostedStatus) => number | undefined) =>
        containers.reduce((total, hosted) => total + (count(hosted) ?? 0), 0);
      return {
        clusterId,
        node: cluster.node,
        member: cluster.holds(),
        leasesLost,
        draining: cluster.draining,
        members: cluster.members(),
        streams: directory.count,
        writers: writers.count,
        eventsDurable: sum((hosted) => hosted.status?.eventsDurable),
        eventsTiered: sum((hosted) => hosted.status?.eventsTiered),
        containers,
      };
    },
    close() {
      closing ??= cluster.drain(() => host.isEmpty, options.shared?.drainMs ?? 0).then(stop);
      return closing;
    },
  };
}
