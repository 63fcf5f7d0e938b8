import { TributaryError } from "@tributary/common/errors";
import type { Command } from "commander";
import { CORE_URL, clientFor, print, type ServerFlags } from "./io.ts";

interface ClusterFacts {
  readonly clusterId: string;
  readonly node: string;
  readonly members: readonly { readonly node: string; readonly name: string; readonly url: string; readonly draining: boolean }[];
  readonly containers: readonly ContainerFacts[];
}

interface ContainerFacts {
  readonly container: number;
  readonly state: string;
  readonly epoch: number;
  readonly owner: string;
  readonly lastError: string;
  readonly status?: { readonly eventsDurable: number; readonly eventsTiered: number; readonly walFirst: number; readonly walLast: number };
}

export function addClusterCommand(program: Command): void {
  const cluster = program.command("cluster").description("look at a cluster of core nodes, and change it");
  cluster
    .command("status")
    .description("show members and containers; --server names any core node")
    .addHelpText("after", "\nExample:\n  tributary cluster status --server http://127.0.0.1:8081")
    .action(async (_: unknown, command: Command) => {
      const flags = command.optsWithGlobals<ServerFlags>();
      const facts = await collect(flags);
      print(flags, facts, () => describe(facts));
    });
  cluster
    .command("containers <count>")
    .description("raise the number of containers; streams that exist stay where they are, new ones use all")
    .addHelpText("after", "\nExample:\n  tributary cluster containers 16")
    .action(async (text: string, _: unknown, command: Command) => {
      const flags = command.optsWithGlobals<ServerFlags>();
      if (!/^\d{1,6}$/.test(text)) throw new TributaryError("USAGE", `'${text}' is not a number of containers`);
      const count = await clientFor(flags, CORE_URL).raiseContainers(Number(text));
      print(flags, { count }, () => (count > Number(text) ? `there are ${count} containers already` : `there are ${count} containers`));
    });
  for (const [name, draining, description] of [
    ["drain", true, "let the core node at --server give its containers to the others, before it is stopped"],
    ["undrain", false, "let the core node at --server take containers again"],
  ] as const) {
    cluster
      .command(name)
      .description(description)
      .addHelpText("after", `\nExample:\n  tributary cluster ${name} --server http://127.0.0.1:8081`)
      .action(async (_: unknown, command: Command) => {
        const flags = command.optsWithGlobals<ServerFlags>();
        await clientFor(flags, CORE_URL).setDraining(draining);
        print(flags, { draining }, () => (draining ? "draining; `tributary cluster status` shows when it owns nothing" : "not draining"));
      });
  }
}

type Unreachable = { readonly node: string; readonly error: string };
type Collected = ClusterFacts & { readonly unreachable: readonly Unreachable[] };

/** What one node knows of the cluster, with what each owner says of its containers. */
async function collect(flags: ServerFlags): Promise<Collected> {
  const facts = (await clientFor(flags, CORE_URL).cluster()) as unknown as ClusterFacts;
  const unreachable: Unreachable[] = [];
  const owned = new Map<number, ContainerFacts>();
  const ask = async ({ node, url }: ClusterFacts["members"][number]) => {
    if (node === facts.node || url === "") return;
    try {
      const told = (await clientFor({ ...flags, server: url }, url).cluster()) as unknown as ClusterFacts;
      for (const container of told.containers) if (container.owner === node) owned.set(container.container, container);
    } catch (error) {
      unreachable.push({ node, error: error instanceof Error ? error.message : String(error) });
    }
  };
  await Promise.all(facts.members.map(ask));
  return { ...facts, containers: facts.containers.map((container) => owned.get(container.container) ?? container), unreachable };
}

function describe({ clusterId, members, containers, unreachable }: Collected): string {
  const lines = [`cluster ${clusterId}`, ""];
  const names = new Map(members.map(({ node, name }) => [node, name]));
  const nodeRows = members.map(({ node, name, url, draining }) => {
    const mine = containers.filter(({ owner }) => owner === node).length;
    const trouble = unreachable.find((each) => each.node === node);
    return [name, node, url, `${mine}`, trouble ? trouble.error : draining ? "draining" : "up"];
  });
  lines.push(...table([["node", "id", "address", "containers", "state"], ...nodeRows]), "");
  const rows = containers.map(({ container, owner, epoch, state, lastError, status }) => [
    `${container}`,
    names.get(owner) ?? (owner || "nobody"),
    `${epoch}`,
    state === "elsewhere" ? "" : state,
    status ? `${status.eventsDurable}` : "",
    status ? `${status.eventsDurable - status.eventsTiered}` : "",
    status ? `${status.walLast - status.walFirst + 1}` : "",
    lastError,
  ]);
  lines.push(...table([["container", "owner", "epoch", "state", "events", "not in the lake", "log records", "last error"], ...rows]));
  return lines.join("\n");
}

function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}
