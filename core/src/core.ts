import type { Clock } from "@tributary/common/clock";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { Bus } from "@tributary/common/ports/bus";
import type { MetaStore } from "@tributary/common/ports/meta-store";
import type { Random } from "@tributary/common/random";
import type { StreamService } from "@tributary/common/stream-service";
import { ensureClusterId, ensureContainerCount } from "./service/cluster-record.ts";
import { type ContainerFactory, ContainerHost, type HostedStatus } from "./service/container-host.ts";
import { CoreStreamService } from "./service/core-stream-service.ts";
import { StreamDirectory } from "./service/stream-directory.ts";
import { StreamRegistrar } from "./service/stream-registrar.ts";
import { UplinkEndpoint } from "./service/uplink-endpoint.ts";
import { WriterRegistry } from "./service/writer-registry.ts";

export interface CoreParts {
  readonly meta: MetaStore;
  readonly bus: Bus;
  readonly containerFactory: ContainerFactory;
  readonly clock: Clock;
  readonly random: Random;
  readonly options: CoreOptions;
  readonly logger: Logger;
}

export interface CoreOptions {
  /** Stands in the subjects of the uplink: A-Z a-z 0-9 _ - */
  readonly cluster: string;
  /** Names this node in the owner records. */
  readonly node: Id;
  /** Containers at least; more if the cluster has more already. */
  readonly containers: number;
}

export interface CoreStatus {
  readonly clusterId: Id;
  readonly streams: number;
  /** Writers that said hello since the start. */
  readonly writers: number;
  /** Sums over the containers that are being served. */
  readonly eventsDurable: number;
  readonly eventsTiered: number;
  readonly containers: readonly HostedStatus[];
}

export interface Core {
  readonly streams: StreamService;
  status(): CoreStatus;
  /** Answers what was begun, flushes, and stops. MetaStore and Bus stay open: they belong to the caller. */
  close(): Promise<void>;
}

/**
 * Starts a core node that hosts all containers of its cluster.
 * @throws FORMAT_UNSUPPORTED and other errors that only a person can mend; whatever the MetaStore throws
 */
export async function openCore(parts: CoreParts): Promise<Core> {
  const { bus, clock, random, options, logger } = parts;
  const access = { meta: parts.meta, clock, random };
  const clusterId = await ensureClusterId(access);
  const containerCount = await ensureContainerCount(access, options.containers);
  const directory = new StreamDirectory(access, logger);
  const host = new ContainerHost(access, options.node, parts.containerFactory, logger);
  const registrar = new StreamRegistrar(access, directory, host, logger);
  const service = new CoreStreamService(directory, registrar, host, clock, random);
  const writers = new WriterRegistry(access, logger);
  const endpoint = new UplinkEndpoint({ bus, cluster: options.cluster, clusterId, host, directory, registrar, service, writers });

  // Gateways are answered until the last moment and before anything that their answers need stops.
  const stop = async () => {
    await endpoint.close();
    await registrar.close();
    await host.close();
    await directory.close();
  };
  host.onOpened(() => directory.forgetAll());
  try {
    const interrupted = await directory.start();
    await host.start(containerCount);
    for (const deleting of interrupted) registrar.resume(deleting);
    await endpoint.start();
  } catch (error) {
    await stop();
    throw error;
  }

  let closing: Promise<void> | undefined;
  return {
    streams: service,
    status() {
      const containers = host.status();
      const sum = (count: (hosted: HostedStatus) => number | undefined) =>
        containers.reduce((total, hosted) => total + (count(hosted) ?? 0), 0);
      return {
        clusterId,
        streams: directory.count,
        writers: writers.count,
        eventsDurable: sum((hosted) => hosted.status?.eventsDurable),
        eventsTiered: sum((hosted) => hosted.status?.eventsTiered),
        containers,
      };
    },
    close() {
      closing ??= stop();
      return closing;
    },
  };
}
