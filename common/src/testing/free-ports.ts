import { randomInt } from "node:crypto";
import { createServer, type Server } from "node:net";

/**
 * Below the ports that the system gives to outgoing connections: one of those could take a port between this call and the start, or
 * the restart, of whoever is to listen there.
 */
const FIRST = 10_000;
const END = 32_000;
const TRIES_MAX = 1_000;

/** Ports of the loopback interface that were free a moment ago; all different. */
export async function freePorts(count: number): Promise<number[]> {
  const servers: Server[] = [];
  const ports: number[] = [];
  try {
    for (let tries = 0; ports.length < count; tries++) {
      if (tries > TRIES_MAX) throw new Error(`no ${count} ports between ${FIRST} and ${END} are free`);
      const port = randomInt(FIRST, END);
      const server = createServer();
      if (!(await listens(server, port))) continue;
      servers.push(server);
      ports.push(port);
    }
    return ports;
  } finally {
    await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  }
}

function listens(server: Server, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => resolve(true));
  });
}
