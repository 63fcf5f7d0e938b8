import { createHash } from "node:crypto";
import { hostname } from "node:os";
import { join, resolve } from "node:path";
import type { Config } from "@tributary/common/config";
import { connectConfiguredNats } from "@tributary/common/engines/configured-nats";
import { lockDataDir } from "@tributary/common/engines/data-dir-lock";
import { openFsObjectStore } from "@tributary/common/engines/fs-object-store";
import { JetStreamLog } from "@tributary/common/engines/jetstream-log";
import { JetStreamMetaStore } from "@tributary/common/engines/jetstream-meta-store";
import { NatsBus } from "@tributary/common/engines/nats-bus";
import { assertSafeServer, watchServers } from "@tributary/common/engines/nats-safety";
import { openSqliteMetaStore } from "@tributary/common/engines/sqlite-meta-store";
import { openWorkerLog } from "@tributary/common/engines/worker-log";
import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import type { Bus } from "@tributary/common/ports/bus";
import type { Log } from "@tributary/common/ports/log";
import type { MetaStore } from "@tributary/common/ports/meta-store";
import type { ObjectStore } from "@tributary/common/ports/object-store";

/** Header and operations of a frame around its block. */
const FRAME_OVERHEAD_BYTES = 65_536;
/** A frame must hold the largest block. */
export const RECORD_BYTES_MIN: number = LIMITS.blockBytesMax + FRAME_OVERHEAD_BYTES;

/** The lake's folder. */
export function lakeFolder(config: Config): string {
  return config["core.lake"] || join(config.data, "core", "lake");
}

/** The key-value bucket of a cluster's metadata. */
export function metaBucket(config: Config): string {
  return `tributary-${config.cluster}`;
}

/** What the names of a cluster's logs in JetStream begin with. */
export function walPrefix(config: Config): string {
  return `tributary-${config.cluster}-wal-`;
}

/** The engines of one core node. */
export interface CorePorts {
  readonly bus: Bus;
  readonly meta: MetaStore;
  readonly objects: ObjectStore;
  /** Other nodes may use the same MetaStore and logs. */
  readonly shared: boolean;
  /** Each generation of a container has a log of its own; those of earlier ones are left as they are. */
  openLog(container: number, generation: number): Promise<Log>;
  close(): Promise<void>;
}

/**
 * SQLite and the file system without `nats.url`; JetStream and the file system with it. `bus` is given where gateway and core share a process.
 * @throws DATA_DIR_LOCKED, CONFIG_INVALID, BUS_UNREACHABLE, NATS_UNSAFE
 */
export async function openCorePorts(config: Config, bus: Bus | undefined, logger: Logger): Promise<CorePorts> {
  const folder = join(config.data, "core");
  const lock = await lockDataDir(folder);
  try {
    const shared = config["core.lake"] !== "";
    const objects = await openFsObjectStore(lakeFolder(config), shared ? { user: userOf(folder) } : {});
    const engines = config["nats.url"] === "" ? await sqliteEngines(folder, logger) : await natsEngines(config, logger);
    const ownBus = bus ?? engines.bus;
    if (!ownBus) throw new Error("an embedded core is given its bus");
    return {
      ...engines,
      bus: ownBus,
      objects,
      async close() {
        await engines.close();
        await objects.close();
        lock.release();
      },
    };
  } catch (error) {
    lock.release();
    throw error;
  }
}

/** Tells the nodes apart that share a lake; the same at each start in the same folder. */
function userOf(folder: string): string {
  return createHash("sha256")
    .update(`${hostname()}\0${resolve(folder)}`)
    .digest("hex")
    .slice(0, 16);
}

type Engines = Omit<CorePorts, "bus" | "objects"> & { readonly bus: Bus | undefined };

async function sqliteEngines(folder: string, logger: Logger): Promise<Engines> {
  const meta = await openSqliteMetaStore(join(folder, "meta.db"));
  return {
    bus: undefined,
    shared: false,
    meta,
    async openLog(container, generation) {
      const file = join(folder, `wal-${logSuffix(container, generation)}.db`);
      const { log, report } = await openWorkerLog(file, { quarantineDir: join(folder, "quarantine") });
      if (report.quarantinePath !== "") {
        logger.error("a write-ahead log was damaged; what could not be read was put aside", {
          container,
          recordsLost: report.recordsQuarantined,
          path: report.quarantinePath,
        });
      }
      return log;
    },
    close: () => meta.close(),
  };
}

function logSuffix(container: number, generation: number): string {
  return generation === 0 ? `${container}` : `${container}-g${generation}`;
}

async function natsEngines(config: Config, logger: Logger): Promise<Engines> {
  const link = await connectConfiguredNats(config, { name: "tributary-core", logger });
  try {
    const monitoringUrls = config["nats.monitorUrl"] === "" ? [] : config["nats.monitorUrl"].split(",");
    const allowUnsafe = config["nats.allowUnsafe"];
    const safety = { monitoringUrls, allowUnsafe, warn: (message: string) => logger.warn(message) };
    if (!allowUnsafe) link.guard(() => assertSafeServer(link, { ...safety, mustSee: "connected" }));
    await assertSafeServer(link, { ...safety, mustSee: "majority" });
    const replicas = config["nats.replicas"];
    const bus = new NatsBus(link);
    const meta = await JetStreamMetaStore.open(link, { bucket: metaBucket(config), replicas });
    // Servers that are away are not told of each time that they are looked for.
    const endWatch = allowUnsafe ? () => {} : watchServers(link, { ...safety, warn: (message) => logger.debug(message) });
    return {
      bus,
      shared: true,
      meta,
      openLog: (container, generation) =>
        JetStreamLog.open(link, {
          name: `${walPrefix(config)}${logSuffix(container, generation)}`,
          replicas,
          recordBytesMin: RECORD_BYTES_MIN,
        }),
      async close() {
        endWatch();
        await meta.close();
        await bus.close();
        await link.close();
      },
    };
  } catch (error) {
    await link.close();
    throw error;
  }
}
