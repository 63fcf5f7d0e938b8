import type { Clock } from "../clock.ts";
import { TributaryError } from "../errors.ts";
import { connectNats, type NatsCredentials, type NatsLink } from "./nats-connection.ts";

/**
 * JetStream acknowledges before fsync unless every server runs with `jetstream { sync_interval: always }` (version 2.15 or
 * newer). A client cannot see that setting through JetStream's own API. nats-server 2.15 shows it (`sync_always`) in three
 * places, tried in this order; the first that answers decides:
 *
 * 1. `$SYS.REQ.SERVER.PING.VARZ` on the connection itself, if its account imports that service from the system account;
 * 2. the same with a user of the system account (`system`);
 * 3. `/varz` of the monitoring port of every server (`monitoringUrls`, for `http: 127.0.0.1:8222` in the server's configuration).
 */
export interface SafetyOptions {
  /** A user of the system account. */
  readonly system?: NatsCredentials;
  /** Base URLs such as "http://127.0.0.1:8222", one for each server of the cluster. */
  readonly monitoringUrls?: readonly string[];
  /** Development: warn instead of refusing. */
  readonly allowUnsafe?: boolean;
  /**
   * How many servers of the cluster must have been seen. `all`: a doctor's question. `majority`: one that is away acknowledges nothing,
   * and is asked once it is back. `connected` (after a reconnect): the one that is connected to.
   */
  readonly mustSee?: "all" | "majority" | "connected";
  readonly warn: (message: string) => void;
  readonly fetch?: typeof globalThis.fetch;
}

/** What one server says of itself. */
export interface ServerReport {
  readonly id: string;
  readonly name: string;
  readonly version: string;
  readonly jetstream: boolean;
  readonly syncAlways: boolean;
  /** JetStream servers in its cluster; 1 without a cluster. */
  readonly clusterSize: number;
  readonly maxPayloadBytes: number;
  /** Its clock as it answered, ms since 1970, and ours in the middle between question and answer; 0 where it did not say. */
  readonly nowMs: number;
  readonly askedAtMs: number;
  /** Of JetStream's files: what is taken, and what it may take; 0 without JetStream. */
  readonly storeBytes: number;
  readonly storeBytesMax: number;
}

const VERSION_MIN = [2, 15] as const;
const ANSWER_MS = 3_000;
/** Servers answer a ping each for itself: silence for this long means that all have. */
const SILENCE_MS = 300;
const VARZ_SUBJECT = "$SYS.REQ.SERVER.PING.VARZ";
const HOW_TO_SHOW =
  "it could not be seen whether it syncs always: give the server 'http: 127.0.0.1:8222' and set nats.monitorUrl to http://127.0.0.1:8222, or configure a user of its system account";

/** Asserts that no server behind the link acknowledges before fsync. @throws NATS_UNSAFE */
export async function assertSafeServer(link: NatsLink, options: SafetyOptions): Promise<void> {
  const problem = findUnsafe(link.nc.info?.server_id ?? "", link.nc.info?.version ?? "0", await collectReports(link, options), options);
  if (problem === undefined) return;
  const message = `The NATS server at ${link.url} is not safe: ${problem}`;
  if (!options.allowUnsafe) throw new TributaryError("NATS_UNSAFE", message, { url: link.url });
  options.warn(`UNSAFE: ${message}. Acknowledged writes can be lost in a crash (nats.allowUnsafe is set).`);
}

/** Between two looks at servers that may have come back, or have been started anew, since the last one. */
const WATCH_MS = 60_000;

/**
 * Asks again and again, since a server that was away may come back with other settings than its cluster has: then the link counts as
 * not connected until that is mended. Servers that do not answer prove nothing. Returns a function that ends it.
 */
export function watchServers(link: NatsLink, options: SafetyOptions, everyMs: number = WATCH_MS): () => void {
  let ended = false;
  let cancel = () => {};
  const look = async () => {
    if (link.connected()) {
      const reports = await collectReports(link, options).catch(() => []);
      if (!ended && findCareless(reports) !== undefined) link.recheck();
    }
    if (!ended) cancel = link.clock.setTimer(everyMs, () => void look());
  };
  cancel = link.clock.setTimer(everyMs, () => void look());
  return () => {
    ended = true;
    cancel();
  };
}

/** What is wrong with these servers; undefined if nothing is. */
export function findUnsafe(
  connectedId: string,
  connectedVersion: string,
  reports: readonly ServerReport[],
  { mustSee = "all" }: Pick<SafetyOptions, "mustSee"> = {},
): string | undefined {
  if (!isNewEnough(connectedVersion)) return `it is version ${connectedVersion}, and ${VERSION_MIN.join(".")} is needed`;
  if (reports.length === 0) return HOW_TO_SHOW;
  const careless = findCareless(reports);
  if (careless !== undefined) return careless;
  const storing = reports.filter((report) => report.jetstream);
  if (!reports.some((report) => report.id === connectedId)) return "the servers that were asked are not the one that is connected to";
  if (storing.length === 0) return "JetStream is not enabled; start it with 'jetstream { sync_interval: always }'";
  const seen = new Set(storing.map((report) => report.id)).size;
  const size = Math.max(...storing.map((report) => report.clusterSize));
  const enough = { all: size, majority: Math.floor(size / 2) + 1, connected: 1 }[mustSee];
  if (seen < enough) return `only ${seen} of the ${size} servers of its cluster could be asked whether they sync always`;
  return undefined;
}

/** A server that says of itself that it acknowledges before it syncs, or is too old to; undefined if none does. */
export function findCareless(reports: readonly ServerReport[]): string | undefined {
  for (const { jetstream, name, version, syncAlways } of reports) {
    if (!jetstream) continue;
    if (!isNewEnough(version)) return `${name} is version ${version}, and ${VERSION_MIN.join(".")} is needed`;
    if (!syncAlways) return `${name} runs without 'jetstream { sync_interval: always }'`;
  }
  return undefined;
}

function isNewEnough(version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map((part) => Number.parseInt(part, 10));
  return major > VERSION_MIN[0] || (major === VERSION_MIN[0] && minor >= VERSION_MIN[1]);
}

/** What every server behind the link says of itself; empty if none can be seen. */
export async function collectReports(link: NatsLink, options: SafetyOptions): Promise<ServerReport[]> {
  const own = await ping(link);
  if (own.length > 0) return own;
  if (options.system) {
    const system = await connectNats({
      ...options.system,
      url: link.url,
      name: "tributary-safety",
      clock: link.clock,
      random: link.random,
    });
    try {
      const reports = await ping(system);
      if (reports.length > 0) return reports;
      options.warn(`The system user given for ${link.url} gets no answer from ${VARZ_SUBJECT}; is it in the server's system account?`);
    } finally {
      await system.close();
    }
  }
  return (await Promise.all((options.monitoringUrls ?? []).map((url) => fetchReport(url, link.clock, options)))).filter(
    (report) => report !== undefined,
  );
}

/** Asks all servers at once. Empty where the account may not. */
async function ping(link: NatsLink): Promise<ServerReport[]> {
  const reports: ServerReport[] = [];
  const askedMs = link.clock.nowMs();
  await new Promise<void>((resolve) => {
    let cancelSilence = () => {};
    const finish = () => {
      cancelSilence();
      slot.close();
      resolve();
    };
    const slot = link.inbox.open(ANSWER_MS, {
      failed: finish,
      message: (msg) => {
        const report = reportOf(msg.json<{ data?: Varz }>().data, (askedMs + link.clock.nowMs()) / 2);
        if (report) reports.push(report);
        cancelSilence();
        cancelSilence = link.clock.setTimer(SILENCE_MS, finish);
      },
    });
    try {
      // Not through the inbox: the link may count as not connected until this is answered.
      link.nc.publish(VARZ_SUBJECT, "", { reply: slot.subject });
    } catch {
      // Not connected any more: nothing was learned.
      finish();
    }
  });
  return reports;
}

async function fetchReport(
  baseUrl: string,
  clock: Clock,
  { fetch = globalThis.fetch, warn }: SafetyOptions,
): Promise<ServerReport | undefined> {
  const url = `${baseUrl.replace(/\/+$/, "")}/varz`;
  try {
    const askedMs = clock.nowMs();
    const answer = await fetch(url, { signal: AbortSignal.timeout(ANSWER_MS) });
    if (answer.ok) return reportOf((await answer.json()) as Varz, (askedMs + clock.nowMs()) / 2);
    warn(`${url} answers ${answer.status}`);
  } catch (error) {
    warn(`${url} cannot be fetched: ${error instanceof Error ? error.message : String(error)}`);
  }
  return undefined;
}

interface Varz {
  readonly server_id?: string;
  readonly server_name?: string;
  readonly version?: string;
  readonly now?: string;
  readonly max_payload?: number;
  readonly jetstream?: {
    readonly config?: { readonly sync_always?: boolean; readonly max_storage?: number };
    readonly stats?: { readonly storage?: number };
    readonly meta?: { readonly cluster_size?: number };
  };
}

function reportOf(varz: Varz | undefined, askedAtMs: number): ServerReport | undefined {
  if (!varz?.server_id) return undefined;
  return {
    id: varz.server_id,
    name: varz.server_name ?? varz.server_id,
    version: varz.version ?? "0",
    jetstream: varz.jetstream?.config !== undefined,
    syncAlways: varz.jetstream?.config?.sync_always === true,
    clusterSize: varz.jetstream?.meta?.cluster_size ?? 1,
    maxPayloadBytes: varz.max_payload ?? 0,
    nowMs: Date.parse(varz.now ?? "") || 0,
    askedAtMs,
    storeBytes: varz.jetstream?.stats?.storage ?? 0,
    storeBytesMax: varz.jetstream?.config?.max_storage ?? 0,
  };
}
