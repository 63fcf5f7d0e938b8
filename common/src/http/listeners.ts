import type { AddressInfo } from "node:net";

/** The only place that knows how each runtime listens for HTTP. Each is used natively: @hono/node-server costs Bun and Deno half their rate. */
export interface Listener {
  readonly port: number;
  /** Stops accepting; resolves when the last request in flight is answered. */
  drain(): Promise<void>;
  /** Cuts what is still connected. */
  cut(): Promise<void>;
}

type Fetch = (request: Request) => Response | Promise<Response>;

interface BunServer {
  readonly port: number;
  stop(closeActiveConnections?: boolean): Promise<void>;
}
interface BunRuntime {
  serve(options: { hostname: string; port: number; idleTimeout: number; fetch: Fetch }): BunServer;
}
interface DenoServer {
  readonly addr: { readonly port: number };
  readonly finished: Promise<void>;
  shutdown(): Promise<void>;
}
interface DenoRuntime {
  serve(options: { hostname: string; port: number; signal: AbortSignal; onListen(): void }, handler: Fetch): DenoServer;
}

/** Rejects with what the runtime throws. */
export function listenHere(fetch: Fetch, host: string, port: number): Promise<Listener> {
  const { Bun, Deno } = globalThis as { Bun?: BunRuntime; Deno?: DenoRuntime };
  if (Bun) return listenBun(Bun, fetch, host, port);
  if (Deno) return listenDeno(Deno, fetch, host, port);
  return listenNode(fetch, host, port);
}

/** Longer than clients pause between writes: a new connection costs far more than a kept one. */
const KEEP_ALIVE_SECONDS = 75;
/** Reconnect storms wait here instead of being refused. */
const BACKLOG = 4096;

async function listenNode(fetch: Fetch, host: string, port: number): Promise<Listener> {
  const { createAdaptorServer } = await import("@hono/node-server");
  const { Server } = await import("node:http");
  const server = createAdaptorServer({ fetch, serverOptions: { keepAliveTimeout: KEEP_ALIVE_SECONDS * 1000 } });
  if (!(server instanceof Server)) throw new TypeError("an HTTP/1.1 server was asked for");
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host, port, backlog: BACKLOG }, () => {
      server.off("error", reject);
      resolve();
    });
  });
  // Counted here because Node takes a connection that has not sent a request yet for a busy one.
  let inFlight = 0;
  let onIdle: (() => void) | undefined;
  server.on("request", (_request, response) => {
    inFlight++;
    response.once("close", () => {
      inFlight--;
      if (inFlight === 0) onIdle?.();
    });
  });
  return {
    port: (server.address() as AddressInfo).port,
    async drain() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      if (inFlight > 0) await new Promise<void>((resolve) => (onIdle = resolve));
      server.closeAllConnections();
      await closed;
    },
    async cut() {
      server.closeAllConnections();
    },
  };
}

async function listenBun(bun: BunRuntime, fetch: Fetch, host: string, port: number): Promise<Listener> {
  const server = bun.serve({ hostname: host, port, idleTimeout: KEEP_ALIVE_SECONDS, fetch });
  return { port: server.port, drain: () => server.stop(false), cut: () => server.stop(true) };
}

async function listenDeno(deno: DenoRuntime, fetch: Fetch, host: string, port: number): Promise<Listener> {
  const cut = new AbortController();
  const server = deno.serve({ hostname: host, port, signal: cut.signal, onListen: () => undefined }, fetch);
  return {
    port: server.addr.port,
    drain: () => server.shutdown(),
    async cut() {
      cut.abort();
      await server.finished;
    },
  };
}
