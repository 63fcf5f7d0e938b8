import { cpSync, existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { NatsCluster } from "@tributary/common/testing/nats-server";

/** An earlier copy of the store directories of all nats-servers of a cluster. */
export interface StoreCopy {
  readonly folder: string;
  /** Raft group of each stream that was there. */
  readonly streams: ReadonlyMap<string, string>;
}

interface JetStreamFacts {
  readonly account_details?: readonly {
    readonly name: string;
    readonly stream_detail?: readonly { readonly name: string; readonly cluster?: { readonly raft_group?: string } }[];
  }[];
}

/** All at once. */
export async function killAll({ servers }: NatsCluster): Promise<void> {
  await Promise.all(servers.map((server) => server.kill()));
}

export async function startAll({ servers }: NatsCluster): Promise<void> {
  await Promise.all(servers.map((server) => server.restart()));
}

/** Streams of the servers, which run, and the raft group of each. */
export async function raftGroups({ servers }: NatsCluster): Promise<Map<string, string>> {
  const answer = await fetch(`${servers[0]?.monitoringUrl}/jsz?accounts=true&streams=true`);
  const { account_details = [] } = (await answer.json()) as JetStreamFacts;
  return new Map(
    account_details.flatMap(({ stream_detail = [] }) => stream_detail.map(({ name, cluster }) => [name, cluster?.raft_group ?? ""])),
  );
}

/** The servers do not run. */
export function copyStores(storeDirs: readonly string[], folder: string, streams: ReadonlyMap<string, string>): StoreCopy {
  for (const [i, storeDir] of storeDirs.entries()) cpSync(storeDir, join(folder, `${i}`), { recursive: true });
  return { folder, streams };
}

/** Everything is as it was. The servers do not run. */
export function putBack(storeDirs: readonly string[], { folder }: StoreCopy): void {
  for (const [i, storeDir] of storeDirs.entries()) replaceFolder(join(folder, `${i}`), storeDir);
}

/** One stream is as it was on every server, its raft state included, and everything else as it is. The servers do not run. */
export function putStreamBack(storeDirs: readonly string[], { folder, streams }: StoreCopy, name: string): void {
  const parts = [join("jetstream", "$G", "streams", name), join("jetstream", "$SYS", "_js_", streams.get(name) ?? "")];
  for (const [i, storeDir] of storeDirs.entries()) {
    for (const part of parts) {
      // A server that was slow may not have had it yet.
      if (existsSync(join(folder, `${i}`, part))) replaceFolder(join(folder, `${i}`, part), join(storeDir, part));
      else rmSync(join(storeDir, part), { recursive: true, force: true });
    }
  }
}

function replaceFolder(from: string, to: string): void {
  rmSync(to, { recursive: true, force: true });
  cpSync(from, to, { recursive: true });
}
