import { connect, credsAuthenticator, errors, type NatsConnection, type NodeConnectionOptions } from "@nats-io/transport-node";
import { type Clock, sleep, systemClock } from "../clock.ts";
import { hasCode, TributaryError } from "../errors.ts";
import { type Random, systemRandom } from "../random.ts";
import { INBOX_PREFIX_DEFAULT, NatsInbox, type NatsTransport } from "./nats-inbox.ts";
import { redialOptions } from "./nats-redial.ts";
import { certificateProblem, type NatsTlsFiles } from "./nats-tls.ts";

export interface NatsCredentials {
  readonly user?: string;
  readonly pass?: string;
  readonly token?: string;
  /** Text of a .creds file (JWT and seed). */
  readonly creds?: string;
  /** Given also with an empty object: TLS is demanded. */
  readonly tls?: NatsTlsFiles;
}

export interface NatsConnectOptions extends NatsCredentials {
  /** Subjects on which answers arrive begin with it. Default _INBOX. */
  readonly inboxPrefix?: string;
  /** "nats://host:4222"; several servers of a cluster joined by commas; "tls://…" demands TLS. */
  readonly url: string;
  /** What the server's monitoring calls this client. */
  readonly name?: string;
  readonly clock?: Clock;
  readonly random?: Random;
  /** How long to try before BUS_UNREACHABLE; Infinity to wait for a server that may come. Default 10 s. */
  readonly startTimeoutMs?: number;
  /** Ends the waiting for the first connection. */
  readonly signal?: AbortSignal;
  /** Told when the first attempt has failed and it goes on trying, and later of what the server complains about: missing permissions. */
  readonly warn?: (message: string) => void;
}

/**
 * One connection to NATS, shared by bus, logs and metadata store of a process. Once made it reconnects for ever.
 * `connected` and the listeners lag behind the socket by moments: what is sent in between is lost or sent later, and every
 * request in flight has then failed as uncertain, so that nobody takes it for done or for not done.
 */
export interface NatsLink extends NatsTransport {
  readonly inbox: NatsInbox;
  /** The server's limit for one message, headers included. */
  maxPayloadBytes(): number;
  /**
   * From now on each reconnect must pass the check: until then the link counts as not connected, and nothing is sent. Behind an
   * address may be another server than before, or the same one with other settings. Failures are told to `warn`, and tried again.
   */
  guard(check: () => Promise<void>): void;
  /** There is a reason to make that check now, and to send nothing before it has passed. */
  recheck(): void;
  close(): Promise<void>;
}

const START_MS_DEFAULT = 10_000;
const ATTEMPT_MS_MAX = 5_000;
const RETRY_MS = { min: 100, max: 1_000 } as const;
/** Between two checks of a server that did not pass. */
const GUARD_RETRY_MS = 1_000;
/**
 * A peer that fell silent is given up after this many unanswered pings. Not sooner: a ping waits behind the blocks that a slow
 * uplink is still sending. Requests have their own timeouts.
 */
const PINGS_UNANSWERED_MAX = 4;
const PING_INTERVAL_MS = 15_000;
/** Less cannot carry the parts of a message with their headers. */
const MAX_PAYLOAD_BYTES_MIN = 4_096;
/** The server's default; counts only until the first INFO has arrived. */
const MAX_PAYLOAD_DEFAULT = 1_048_576;

/** @throws BUS_UNREACHABLE after `startTimeoutMs`, CONFIG_INVALID for a broken URL or refused credentials */
export async function connectNats(options: NatsConnectOptions): Promise<NatsLink> {
  const {
    clock = systemClock,
    random = systemRandom,
    startTimeoutMs = START_MS_DEFAULT,
    signal,
    warn,
    inboxPrefix = INBOX_PREFIX_DEFAULT,
  } = options;
  const target = parseUrl(options);
  const deadline = clock.monotonicMs() + startTimeoutMs;
  // Told before the servers refuse it, which takes seconds and gives no reason. This machine's clock may be wrong: so it is tried all the same.
  const problem = certificateProblem(options.tls, clock.nowMs());
  if (problem !== undefined) warn?.(`NATS at ${target.shown} will refuse this process: ${problem}`);
  for (let attempt = 1; ; attempt++) {
    let failure: Error;
    try {
      const timeout = Math.max(1, Math.min(ATTEMPT_MS_MAX, deadline - clock.monotonicMs()));
      const nc = await connect({ ...target.options, timeout, ...redialOptions(clock, () => jitter(random, RETRY_MS.max)) });
      return await checked(new Link(nc, { clock, random, url: target.shown, inboxPrefix, warn, tls: options.tls }), inboxPrefix);
    } catch (error) {
      if (hasCode(error, "CONFIG_INVALID")) throw error;
      failure = error instanceof Error ? error : new Error(String(error));
    }
    if (failure instanceof errors.AuthorizationError || failure.cause instanceof errors.AuthorizationError) {
      throw new TributaryError(
        "CONFIG_INVALID",
        `NATS at ${target.shown} refused the credentials`,
        { url: target.shown },
        { cause: failure },
      );
    }
    const reason = certificateProblem(options.tls, clock.nowMs()) ?? failure.message;
    const message = `NATS cannot be reached at ${target.shown}: ${reason}`;
    if (attempt === 1) warn?.(`${message}; trying on`);
    const delayMs = jitter(random, Math.min(RETRY_MS.max, RETRY_MS.min * 2 ** Math.min(attempt, 10)));
    if (signal?.aborted || clock.monotonicMs() + delayMs >= deadline) {
      throw new TributaryError("BUS_UNREACHABLE", message, { url: target.shown }, { cause: failure });
    }
    await sleep(clock, delayMs, signal);
  }
}

/** Finds out at once what would only show as requests without answers. */
async function checked(link: Link, inboxPrefix: string): Promise<NatsLink> {
  await link.nc.flush();
  const problem =
    link.maxPayloadBytes() < MAX_PAYLOAD_BYTES_MIN
      ? `has a max_payload of ${link.maxPayloadBytes()}; at least ${MAX_PAYLOAD_BYTES_MIN} is needed`
      : link.inbox.refused()
        ? `does not let this user subscribe to ${inboxPrefix}.>, where answers arrive (nats.inboxPrefix)`
        : undefined;
  if (problem === undefined) return link;
  await link.close();
  throw new TributaryError("CONFIG_INVALID", `NATS at ${link.url} ${problem}`, { url: link.url });
}

/** Between half and all of `ms`, so that clients which lost one server do not come back in step. */
function jitter(random: Random, ms: number): number {
  return ms * (0.5 + random.float() / 2);
}

function parseUrl(options: NatsConnectOptions): { options: NodeConnectionOptions; shown: string } {
  const servers: string[] = [];
  let { user, pass } = options;
  let tls = options.tls !== undefined;
  for (const text of options.url.split(",").map((part) => part.trim())) {
    const url = URL.parse(text.includes("://") ? text : `nats://${text}`);
    if (!url?.hostname || !["nats:", "tls:"].includes(url.protocol)) {
      throw new TributaryError("CONFIG_INVALID", `'${text}' is not a NATS URL such as nats://127.0.0.1:4222`, { setting: "nats.url" });
    }
    if (url.username) {
      user ??= decodeURIComponent(url.username);
      pass ??= decodeURIComponent(url.password);
    }
    tls ||= url.protocol === "tls:";
    servers.push(`${url.hostname}:${url.port || 4222}`);
  }
  return {
    shown: servers.map((server) => `${tls ? "tls" : "nats"}://${server}`).join(","),
    options: {
      servers,
      ...(user === undefined ? {} : { user, pass: pass ?? "" }),
      ...(options.token === undefined ? {} : { token: options.token }),
      ...(options.creds === undefined ? {} : { authenticator: credsAuthenticator(new TextEncoder().encode(options.creds)) }),
      ...(options.name === undefined ? {} : { name: options.name }),
      ...(tls ? { tls: { ...options.tls } } : {}),
      maxReconnectAttempts: -1,
      // Only the servers that were named: others that servers tell of may not be reached from here, and with them the first connection
      // is tried for ever without a word where all of them refuse us.
      ignoreClusterUpdates: true,
      // Credentials may be refused while a server is being reconfigured: that is no reason to give up a running gateway.
      ignoreAuthErrorAbort: true,
      pingInterval: PING_INTERVAL_MS,
      maxPingOut: PINGS_UNANSWERED_MAX,
    },
  };
}

interface LinkContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly url: string;
  readonly inboxPrefix: string;
  readonly warn: ((message: string) => void) | undefined;
  readonly tls: NatsTlsFiles | undefined;
}

class Link implements NatsLink {
  readonly nc: NatsConnection;
  readonly inbox: NatsInbox;
  readonly clock: Clock;
  readonly random: Random;
  readonly url: string;
  readonly #listeners = new Set<(connected: boolean) => void>();
  #connected = true;
  #check: (() => Promise<void>) | undefined;
  /** Counts connections: a check that was begun on an earlier one says nothing. */
  #round = 0;

  readonly #warn: ((message: string) => void) | undefined;

  readonly #tls: NatsTlsFiles | undefined;

  constructor(nc: NatsConnection, context: LinkContext) {
    const { clock, random, url, inboxPrefix, warn, tls } = context;
    this.#tls = tls;
    this.nc = nc;
    this.#warn = warn;
    this.clock = clock;
    this.random = random;
    this.url = url;
    this.inbox = new NatsInbox(this, inboxPrefix);
    void this.#follow();
  }

  async #follow(): Promise<void> {
    for await (const status of this.nc.status()) {
      if (status.type === "disconnect" || status.type === "close") {
        this.#lost();
        // What it will be refused for, told once: the client library tries on without a word.
        const problem = certificateProblem(this.#tls, this.clock.nowMs());
        if (problem !== undefined) this.#warn?.(`NATS at ${this.url} was lost: ${problem}`);
      } else if (status.type === "reconnect") void this.#found();
      else if (status.type === "error") this.#warn?.(`NATS at ${this.url}: ${status.error.message}`);
    }
    this.#lost();
  }

  #lost(): void {
    this.#round++;
    this.#report(false);
  }

  async #found(): Promise<void> {
    const round = ++this.#round;
    while (round === this.#round) {
      try {
        await this.#check?.();
        if (round === this.#round) this.#report(true);
        return;
      } catch (error) {
        this.#warn?.(`${error instanceof Error ? error.message : String(error)}; nothing is sent to it`);
      }
      await sleep(this.clock, GUARD_RETRY_MS);
    }
  }

  guard(check: () => Promise<void>): void {
    this.#check = check;
  }

  recheck(): void {
    // Not while it is away: then it is checked as it comes back.
    if (!this.#connected) return;
    this.#lost();
    void this.#found();
  }

  #report(connected: boolean): void {
    if (this.#connected === connected) return;
    this.#connected = connected;
    for (const listener of [...this.#listeners]) listener(connected);
  }

  connected(): boolean {
    return this.#connected;
  }

  onStatus(listener: (connected: boolean) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  maxPayloadBytes(): number {
    return this.nc.info?.max_payload ?? MAX_PAYLOAD_DEFAULT;
  }

  async close(): Promise<void> {
    this.#lost();
    await this.nc.close();
  }
}
