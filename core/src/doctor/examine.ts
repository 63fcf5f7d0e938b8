import { existsSync } from "node:fs";
import { access, constants, readFile, statfs } from "node:fs/promises";
import { join } from "node:path";
import type { Config } from "@tributary/common/config";
import { connectConfiguredNats } from "@tributary/common/engines/configured-nats";
import { askJetStream, findDifferences } from "@tributary/common/engines/jetstream-api";
import { logStreamConfig } from "@tributary/common/engines/jetstream-log";
import { bucketConfig } from "@tributary/common/engines/jetstream-meta-store";
import type { NatsLink } from "@tributary/common/engines/nats-connection";
import { collectReports } from "@tributary/common/engines/nats-safety";
import { toTributaryError } from "@tributary/common/errors";
import type { Logger } from "@tributary/common/logger";
import { decodeIdentity, IDENTITY_NAME } from "../cluster/lake-identity.ts";
import { lakeFolder, metaBucket, RECORD_BYTES_MIN, walPrefix } from "../ports.ts";
import { type Finding, findingsOf, type LakeFacts, type StreamFacts } from "./findings.ts";

const TIMEOUT_MS = 10_000;

/** Looks at the servers, streams and lake that a core node with these settings would use. @throws as connectNats */
export async function examineCluster(config: Config, logger: Logger): Promise<Finding[]> {
  const link = await connectConfiguredNats(config, { name: "tributary-doctor", logger });
  try {
    const monitoringUrls = config["nats.monitorUrl"] === "" ? [] : config["nats.monitorUrl"].split(",");
    return findingsOf({
      connectedId: link.nc.info?.server_id ?? "",
      connectedVersion: link.nc.info?.version ?? "0",
      servers: await collectReports(link, { monitoringUrls, warn: (message) => logger.warn(message) }),
      streams: await readStreams(link, config),
      replicasWanted: config["nats.replicas"],
      frameBytesMin: RECORD_BYTES_MIN,
      lake: await lookAtLake(config),
    });
  } finally {
    await link.close();
  }
}

interface ListedStream {
  readonly config: Readonly<Record<string, unknown>> & { readonly name: string; readonly num_replicas: number };
  readonly cluster?: {
    readonly leader?: string;
    readonly replicas?: readonly { readonly name: string; readonly current?: boolean; readonly offline?: boolean; readonly lag?: number }[];
  };
}

async function readStreams(link: NatsLink, config: Config): Promise<StreamFacts[]> {
  const facts: StreamFacts[] = [];
  for (let offset = 0; ; ) {
    const page = await askJetStream<{ streams?: ListedStream[] | null; total: number }>(link, "STREAM.LIST", { offset }, TIMEOUT_MS);
    const streams = page.streams ?? [];
    for (const { config: actual, cluster } of streams) {
      const isLog = actual.name.startsWith(walPrefix(config));
      const replicas = actual.num_replicas;
      const bucket = bucketConfig({ bucket: metaBucket(config), replicas });
      if (!isLog && actual.name !== bucket.name) continue;
      const wanted = isLog ? logStreamConfig({ name: actual.name, replicas }) : bucket;
      facts.push({
        name: actual.name,
        replicas,
        leader: cluster?.leader ?? "",
        peers: (cluster?.replicas ?? []).map(({ name, current = false, offline = false, lag = 0 }) => ({ name, current, offline, lag })),
        differences: findDifferences(wanted, actual),
      });
    }
    offset += streams.length;
    if (streams.length === 0 || offset >= page.total) return facts;
  }
}

async function lookAtLake(config: Config): Promise<LakeFacts> {
  const path = lakeFolder(config);
  // Nothing is made here: an empty folder in place of one that is not mounted would be taken for the lake.
  const exists = existsSync(path);
  try {
    await access(path, constants.W_OK);
    const { bavail, blocks, bsize } = await statfs(path);
    return { path, exists, writable: true, bytesFree: bavail * bsize, bytes: blocks * bsize, foreign: await foreignLake(path, config) };
  } catch {
    return { path, exists, writable: false, bytesFree: 0, bytes: 0, foreign: "" };
  }
}

/** Whose lake it is stands in it; that of another cluster must not be written. */
async function foreignLake(path: string, config: Config): Promise<string> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(join(path, IDENTITY_NAME));
  } catch {
    return "";
  }
  try {
    const { name } = decodeIdentity(bytes);
    return name === config.cluster ? "" : `the lake ${path} belongs to the cluster '${name}'`;
  } catch (error) {
    return `the identity of the lake ${path} cannot be read: ${toTributaryError(error).message}`;
  }
}
