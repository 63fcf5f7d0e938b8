import { findUnsafe, type ServerReport } from "@tributary/common/engines/nats-safety";

/** What was seen of a cluster's NATS servers, streams and lake. */
export interface ClusterFacts {
  readonly connectedId: string;
  readonly connectedVersion: string;
  readonly servers: readonly ServerReport[];
  readonly streams: readonly StreamFacts[];
  /** Copies that the settings ask for. */
  readonly replicasWanted: number;
  readonly frameBytesMin: number;
  readonly lake: LakeFacts;
}

export interface StreamFacts {
  readonly name: string;
  readonly replicas: number;
  /** "" while it has none. */
  readonly leader: string;
  readonly peers: readonly { readonly name: string; readonly current: boolean; readonly offline: boolean; readonly lag: number }[];
  /** Settings that are not as they must be, in words. */
  readonly differences: readonly string[];
}

export interface LakeFacts {
  readonly path: string;
  /** False where the folder is not there. */
  readonly exists: boolean;
  readonly writable: boolean;
  readonly bytesFree: number;
  readonly bytes: number;
  /** Why it cannot be this cluster's; "" if it can. */
  readonly foreign: string;
}

export interface Finding {
  /** "bad": data is not safe, or it does not work. "warning": it works, and less would go wrong with a change. */
  readonly level: "ok" | "warning" | "bad";
  readonly what: string;
  /** What to change; "" where nothing is to be. */
  readonly advice: string;
}

/** Leases and time stamps of events live with more; operators who read logs of several machines do not. */
const CLOCK_MS_MAX = 1_000;
const FULL_WARNING = 0.8;
const FULL_BAD = 0.95;
const REPLICAS_SAFE = 3;
const LAG_WARNING = 1_000;

const ok = (what: string): Finding => ({ level: "ok", what, advice: "" });
const bad = (what: string, advice: string): Finding => ({ level: "bad", what, advice });
const warning = (what: string, advice: string): Finding => ({ level: "warning", what, advice });

/** What is right and wrong with a cluster, the most general first. */
export function findingsOf(facts: ClusterFacts): Finding[] {
  return [
    sync(facts),
    ...facts.servers.flatMap((server) => serverFindings(server, facts)),
    ...streamFindings(facts),
    ...lakeFindings(facts.lake),
  ];
}

function sync({ connectedId, connectedVersion, servers }: ClusterFacts): Finding {
  const problem = findUnsafe(connectedId, connectedVersion, servers);
  if (problem !== undefined) {
    const seeAll = "name every server's monitoring address in nats.monitorUrl, separated by commas";
    return bad(problem, `run nats-server 2.15 or newer with 'jetstream { sync_interval: always }' on every server, and ${seeAll}`);
  }
  return ok(`${servers.length} NATS ${servers.length === 1 ? "server syncs" : "servers sync"} before they acknowledge`);
}

function serverFindings(server: ServerReport, { frameBytesMin }: ClusterFacts): Finding[] {
  const found: Finding[] = [];
  const { name } = server;
  if (server.maxPayloadBytes < frameBytesMin) {
    found.push(bad(`${name}: max_payload is ${server.maxPayloadBytes}`, `set 'max_payload: 8MB'; a frame needs ${frameBytesMin} bytes`));
  }
  if (server.nowMs > 0) {
    const offMs = Math.round(server.nowMs - server.askedAtMs);
    if (Math.abs(offMs) > CLOCK_MS_MAX)
      found.push(warning(`${name}: its clock differs by ${(offMs / 1000).toFixed(1)} s from this machine's`, "run NTP on both"));
  }
  if (server.storeBytesMax > 0) {
    const share = server.storeBytes / server.storeBytesMax;
    const percent = `${name}: JetStream's storage is ${Math.round(share * 100)} % full`;
    if (share >= FULL_BAD) found.push(bad(percent, "give it more room (max_file_store, disk): logs that are full refuse appends"));
    else if (share >= FULL_WARNING) found.push(warning(percent, "give it more room (max_file_store, disk) before it is full"));
  }
  return found.length > 0 ? found : [ok(`${name}: version ${server.version}, clock, storage and max_payload are right`)];
}

function streamFindings({ streams, servers, replicasWanted }: ClusterFacts): Finding[] {
  const found: Finding[] = [];
  if (streams.length === 0) return [warning("no streams of this cluster are there yet", "start a core node")];
  if (servers.length >= REPLICAS_SAFE && replicasWanted < REPLICAS_SAFE) {
    found.push(
      warning(
        `nats.replicas is ${replicasWanted} and there are ${servers.length} servers`,
        "set nats.replicas=3: one server's disk is not enough",
      ),
    );
  }
  const others = streams.filter(({ replicas }) => replicas !== replicasWanted);
  const [other] = others;
  if (other) {
    found.push(
      bad(
        `nats.replicas is ${replicasWanted}, and ${other.name} has ${other.replicas}${others.length > 1 ? `, ${others.length - 1} more are not right either` : ""}: a core node does not start so`,
        `set nats.replicas=${other.replicas}, or change each stream with 'nats stream edit NAME --replicas ${replicasWanted}'`,
      ),
    );
  }
  for (const stream of streams) {
    const { name, peers } = stream;
    for (const difference of stream.differences) found.push(bad(`${name}: ${difference}`, "correct it with 'nats stream edit'"));
    if (stream.leader === "" && stream.replicas > 1)
      found.push(bad(`${name} has no leader`, "a majority of its servers must run and reach each other"));
    if (stream.replicas < Math.min(REPLICAS_SAFE, servers.length)) {
      found.push(
        warning(
          `${name} has ${stream.replicas} of ${Math.min(REPLICAS_SAFE, servers.length)} copies`,
          `'nats stream edit ${name} --replicas 3'`,
        ),
      );
    }
    if (stream.leader !== "" && peers.length + 1 < stream.replicas) {
      found.push(
        warning(
          `${name} has ${peers.length + 1} of its ${stream.replicas} copies`,
          "wait until its last copy is made on another server; if it stays so, add a server in place of the one that was removed",
        ),
      );
    }
    for (const peer of peers) {
      if (peer.offline) {
        found.push(
          warning(
            `${name}: its copy on ${peer.name} is offline`,
            "start that server, or remove it with 'nats server cluster peer-remove' if it is gone for ever",
          ),
        );
      } else if (!peer.current || peer.lag > LAG_WARNING) {
        found.push(
          warning(
            `${name}: its copy on ${peer.name} is ${peer.lag} operations behind`,
            "wait; if it stays so, look at that server's disk and network",
          ),
        );
      }
    }
  }
  return found.length > 0 ? found : [ok(`${streams.length} streams have all their copies, in step`)];
}

function lakeFindings({ path, exists, writable, bytesFree, bytes, foreign }: LakeFacts): Finding[] {
  if (!exists) {
    return [
      warning(
        `the lake ${path} is not there`,
        "mount it, if it is to be a mounted folder; if it is new, a core node makes it at its start",
      ),
    ];
  }
  if (foreign !== "") return [bad(foreign, "set core.lake to this cluster's lake, or give this cluster an empty one")];
  if (!writable) return [bad(`the lake ${path} cannot be written`, "give the user of the core nodes the right to write there")];
  const share = bytes === 0 ? 0 : 1 - bytesFree / bytes;
  const what = `the lake ${path} is ${Math.round(share * 100)} % full`;
  if (share >= FULL_BAD) return [bad(what, "make room: while nothing can be tiered, logs and gateways fill up")];
  if (share >= FULL_WARNING) return [warning(what, "make room before it is full")];
  return [ok(what)];
}
