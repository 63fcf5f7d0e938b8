import { TributaryClient } from "@tributary/common/sdk/client";
import { CORE_TOKEN } from "./servers.ts";

/** What a scenario looks at in a core node's answer to GET /v1/cluster. */
export interface ClusterFacts {
  readonly node: string;
  readonly members: readonly { readonly node: string; readonly name: string }[];
  readonly containers: readonly {
    readonly container: number;
    readonly owner: string;
    readonly epoch: number;
    readonly state: string;
    /** Only its owner has it. */
    readonly status?: ContainerFacts;
  }[];
}

interface ContainerFacts {
  readonly lastReplayMs: number;
  readonly generation: number;
  readonly wentBack?: { readonly reason: string; readonly streams: number; readonly streamsWithKnownLoss: number };
}

export async function clusterFacts(server: string): Promise<ClusterFacts> {
  return (await new TributaryClient({ server, token: CORE_TOKEN }).cluster()) as unknown as ClusterFacts;
}

/** Of each container what its owner says; undefined as long as not every container is served by exactly one node. */
export async function servedContainers(urls: readonly string[]): Promise<readonly ContainerFacts[] | undefined> {
  return (await served(urls))?.flatMap(({ status }) => status ?? []);
}

/** Of each container the epoch of its owner; undefined as long as not every container is served by exactly one node. */
export async function servedEpochs(urls: readonly string[]): Promise<readonly number[] | undefined> {
  return (await served(urls))?.map(({ epoch }) => epoch);
}

async function served(urls: readonly string[]): Promise<ClusterFacts["containers"] | undefined> {
  const nodes = await Promise.all(urls.map((url) => clusterFacts(url).catch(() => undefined)));
  const count = Math.max(0, ...nodes.map((facts) => facts?.containers.length ?? 0));
  const serving = nodes.flatMap((facts) => facts?.containers.filter(({ state }) => state === "serving") ?? []);
  const all = Array.from({ length: count }, (_, id) => serving.filter(({ container }) => container === id));
  return count === 0 || all.some((owners) => owners.length !== 1) ? undefined : all.flat();
}
