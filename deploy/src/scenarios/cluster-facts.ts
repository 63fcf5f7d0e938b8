import { TributaryClient } from "@tributary/common/sdk/client";
import { CORE_TOKEN } from "./servers.ts";

/** What a scenario looks at in a core node's answer to GET /v1/cluster. */
export interface ClusterFacts {
  readonly node: string;
  readonly members: readonly { readonly node: string; readonly name: string }[];
  readonly containers: readonly {
    readonly container: number;
    readonly owner: string;
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
  const nodes = await Promise.all(urls.map((url) => clusterFacts(url).catch(() => undefined)));
  const count = Math.max(0, ...nodes.map((facts) => facts?.containers.length ?? 0));
  const served = nodes.flatMap((facts) => facts?.containers.filter(({ state }) => state === "serving") ?? []);
  const all = Array.from({ length: count }, (_, id) => served.filter(({ container }) => container === id));
  if (count === 0 || all.some((owners) => owners.length !== 1)) return undefined;
  return all.flatMap(([owner]) => owner?.status ?? []);
}
