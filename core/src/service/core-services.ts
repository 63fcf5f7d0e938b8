import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { Bus } from "@tributary/common/ports/bus";
import type { ClusterView } from "../cluster/cluster-view.ts";
import { LocalContainers, type LocalHost } from "../routing/local-containers.ts";
import { NodeEndpoint } from "../routing/node-endpoint.ts";
import { RemoteContainers } from "../routing/remote-containers.ts";
import { RemoteWaits } from "../routing/remote-waits.ts";
import { RoutedContainers } from "../routing/routed-containers.ts";
import { Routes } from "../routing/routes.ts";
import { BlockIntake } from "./block-intake.ts";
import { CoreStreamService } from "./core-stream-service.ts";
import { DirectoryRestorer } from "./directory-restorer.ts";
import type { MetaAccess } from "./meta-change.ts";
import { StreamDirectory } from "./stream-directory.ts";
import { StreamRegistrar } from "./stream-registrar.ts";
import { UplinkEndpoint } from "./uplink-endpoint.ts";
import { WriterRegistry } from "./writer-registry.ts";

/** A start waits at most so long for the directory to be compared with containers; it is done in the background then. */
const RESTORE_MS_MAX = 10_000;

export interface CoreServicesParts {
  readonly access: MetaAccess;
  readonly bus: Bus;
  /** Stands in the subjects. */
  readonly cluster: string;
  readonly clusterId: Id;
  readonly host: LocalHost;
  readonly view: ClusterView;
  readonly logger: Logger;
}

/** What a core node offers: streams for its HTTP face, subjects for gateways and for other nodes. Containers are hosted elsewhere. */
export interface CoreServices {
  readonly streams: CoreStreamService;
  readonly directory: StreamDirectory;
  readonly writers: WriterRegistry;
  /** Deletions that were begun go on; other nodes are answered. Before the host opens its first container. */
  start(): Promise<void>;
  /** Gateways are answered. After the host has opened its containers. */
  startUplink(): Promise<void>;
  /** Answers what was begun. Before the host closes, since answers need its containers. */
  stop(): Promise<void>;
  /** After the host has closed. */
  close(): Promise<void>;
}

export function createCoreServices(parts: CoreServicesParts): CoreServices {
  const { access, bus, cluster, clusterId, host, view, logger } = parts;
  const { clock, random } = access;
  const directory = new StreamDirectory(access, logger);
  const local: LocalContainers = new LocalContainers(host, (container, block) => intake.take(container, block));
  const routes = new Routes(view, host, local, clock);
  const waits = new RemoteWaits(bus, cluster, random);
  const containers = new RoutedContainers({ routes, local, remote: new RemoteContainers(bus, cluster, random), waits, clock });
  const registrar = new StreamRegistrar(access, directory, containers, logger);
  const intake = new BlockIntake(host, local, directory, registrar);
  const streams = new CoreStreamService({
    directory,
    registrar,
    access: containers,
    containers: () => routes.containers,
    urlOf: (container) => routes.urlOf(container),
    clock,
    random,
  });
  const writers = new WriterRegistry(access, logger);
  const nodes = new NodeEndpoint({ bus, cluster, view, local, clock, log: logger });
  const uplink = new UplinkEndpoint({
    bus,
    cluster,
    clusterId,
    host,
    local,
    access: containers,
    routes,
    directory,
    service: streams,
    writers,
    clock,
    log: logger,
  });
  const restorer = new DirectoryRestorer({ access, directory, registrar, host, log: logger });
  host.onOpened((opened) => {
    directory.forgetAll();
    restorer.opened(opened);
  });
  return {
    streams,
    directory,
    writers,
    async start() {
      const interrupted = await directory.start();
      await nodes.start();
      for (const deleting of interrupted) registrar.resume(deleting);
    },
    async startUplink() {
      // Whoever creates streams now must find those that there were.
      await restorer.settled(RESTORE_MS_MAX);
      await uplink.start();
    },
    async stop() {
      containers.close();
      await uplink.close();
      await nodes.close();
      await restorer.close();
      await registrar.close();
    },
    async close() {
      routes.close();
      await directory.close();
    },
  };
}
