import { createServer, type Server, type Socket } from "node:net";
import { TributaryError } from "@tributary/common/errors";

/**
 * Node (libuv) accepts one connection for each listening socket and turn of its loop, and a turn of a gateway with a thousand busy
 * connections takes 10 ms and more: one socket would take about 100 connections a second, and after a power cut every device comes
 * back at once. So several sockets share the port (SO_REUSEPORT), which the kernel spreads new connections over.
 */
const ACCEPTORS = 16;
/** Connections that the kernel holds for each of them until they are accepted; it may lower this (net.core.somaxconn). */
const BACKLOG = 4096;

export interface Acceptors {
  readonly port: number;
  /** Takes no more connections at once; resolves when those that are open have been closed. */
  close(): Promise<void>;
}

/** @throws PORT_IN_USE, CONFIG_INVALID */
export async function openAcceptors(options: { host: string; port: number; onSocket: (socket: Socket) => void }): Promise<Acceptors> {
  if (!canSharePorts()) {
    const server = await listen({ ...options, reusePort: false });
    return { port: portOf(server), close: () => closeAll([server]) };
  }
  // Sockets that share their port would also share it with another gateway: one that shares nothing finds that out first.
  const probe = await listen({ ...options, reusePort: false, onSocket: (socket) => socket.destroy() });
  const port = portOf(probe);
  await closeAll([probe]);
  const servers: Server[] = [];
  try {
    for (let i = 0; i < ACCEPTORS; i++) servers.push(await listen({ ...options, port, reusePort: true }));
  } catch (error) {
    await closeAll(servers);
    throw error;
  }
  return { port, close: () => closeAll(servers) };
}

/** Bun and Deno accept until the queue is empty, and other systems do not spread connections over sockets. */
function canSharePorts(): boolean {
  return process.platform === "linux" && process.versions["bun"] === undefined && process.versions["deno"] === undefined;
}

function listen(options: { host: string; port: number; reusePort: boolean; onSocket: (socket: Socket) => void }): Promise<Server> {
  return new Promise((resolve, reject) => {
    // Acknowledgements are small and must not wait for more; the kernel's probes find peers that vanished without a keep-alive.
    const server = createServer({ noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000 }, options.onSocket);
    server.once("error", (error: NodeJS.ErrnoException) => reject(listenError(error, options)));
    server.listen({ host: options.host, port: options.port, reusePort: options.reusePort, backlog: BACKLOG }, () => {
      // A failed accept (no more file descriptors) leaves the listener as it is: the connection is tried again by its client.
      server.removeAllListeners("error").on("error", () => {});
      resolve(server);
    });
  });
}

function listenError(error: NodeJS.ErrnoException, options: { host: string; port: number }): TributaryError {
  const where = `${options.host}:${options.port}`;
  return error.code === "EADDRINUSE"
    ? new TributaryError("PORT_IN_USE", `MQTT cannot listen on ${where}: another process does`, { port: options.port }, { cause: error })
    : new TributaryError("CONFIG_INVALID", `MQTT cannot listen on ${where}: ${error.message}`, {}, { cause: error });
}

function portOf(server: Server): number {
  const address = server.address();
  return typeof address === "object" && address !== null ? address.port : 0;
}

async function closeAll(servers: readonly Server[]): Promise<void> {
  await Promise.all(servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve()))));
}
