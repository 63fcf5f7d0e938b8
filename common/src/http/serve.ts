import type { Hono } from "hono";
import { type Clock, sleep, systemClock } from "../clock.ts";
import { TributaryError } from "../errors.ts";
import type { DataPlaneEnv } from "./data-plane.ts";
import { type Listener, listenHere } from "./listeners.ts";

export interface ServeOptions {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  readonly clock?: Clock;
  /** How long `close` lets requests in flight go on. */
  readonly closeGraceMs?: number;
}

export interface HttpServer {
  readonly host: string;
  readonly port: number;
  /** Ends live reads, lets requests in flight finish for a while, then cuts what is left. */
  close(): Promise<void>;
}

const CLOSE_GRACE_MS = 5_000;

/** Serves the application on this runtime (Node, Bun or Deno). @throws PORT_IN_USE, CONFIG_INVALID */
export async function serveHttp(app: Hono<DataPlaneEnv>, options: ServeOptions): Promise<HttpServer> {
  const closing = new AbortController();
  const env: DataPlaneEnv["Bindings"] = { closing: closing.signal };
  const clock = options.clock ?? systemClock;
  let listener: Listener;
  try {
    listener = await listenHere((request) => app.fetch(request, env), options.host, options.port);
  } catch (error) {
    throw listenError(error, options);
  }
  let closed: Promise<void> | undefined;
  return {
    host: options.host,
    port: listener.port,
    close() {
      closed ??= shut(listener, closing, clock, options.closeGraceMs ?? CLOSE_GRACE_MS);
      return closed;
    },
  };
}

/** For a server that is to change things elsewhere before it can serve: it must not, where it cannot serve. @throws as serveHttp */
export async function assertPortFree(options: Pick<ServeOptions, "host" | "port">): Promise<void> {
  let listener: Listener;
  try {
    listener = await listenHere(async () => new Response(null, { status: 503 }), options.host, options.port);
  } catch (error) {
    throw listenError(error, options);
  }
  const drained = listener.drain();
  await listener.cut();
  await drained;
}

async function shut(listener: Listener, closing: AbortController, clock: Clock, graceMs: number): Promise<void> {
  closing.abort();
  const drained = listener.drain();
  const timer = new AbortController();
  const inTime = await Promise.race([drained.then(() => true), sleep(clock, graceMs, timer.signal).then(() => false)]);
  timer.abort();
  if (!inTime) await listener.cut();
  await drained;
}

function listenError(error: unknown, { host, port }: Pick<ServeOptions, "host" | "port">): TributaryError {
  const { code, name, message } = error as { code?: string; name?: string; message?: string };
  const details = { host, port };
  if (code === "EADDRINUSE" || name === "AddrInUse") {
    return new TributaryError("PORT_IN_USE", `${host}:${port} is in use`, details, { cause: error });
  }
  return new TributaryError("CONFIG_INVALID", `cannot listen on ${host}:${port}: ${message ?? String(error)}`, details, { cause: error });
}
