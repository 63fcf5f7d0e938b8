import { connect, createServer, type Server, type Socket } from "node:net";

/** One process's way to the nats-servers: a listener for each. While it is cut, everything on it stands still, as in a network that is gone. */
export class Cable {
  readonly url: string;
  readonly #servers: readonly Server[];
  readonly #sockets: Set<Socket>;
  #cut = false;

  private constructor(servers: readonly Server[], ports: readonly number[], sockets: Set<Socket>) {
    this.#servers = servers;
    this.#sockets = sockets;
    this.url = ports.map((port) => `nats://127.0.0.1:${port}`).join(",");
  }

  static async to(urls: string): Promise<Cable> {
    const sockets = new Set<Socket>();
    const ports: number[] = [];
    const servers: Server[] = [];
    let cable: Cable | undefined;
    for (const url of urls.split(",")) {
      const { hostname: host, port } = new URL(url);
      const server = createServer((near) => {
        const far = connect({ host, port: Number(port), noDelay: true });
        near.setNoDelay(true);
        for (const [socket, other] of [
          [near, far],
          [far, near],
        ] as const) {
          sockets.add(socket);
          socket.on("error", () => {});
          socket.on("close", () => {
            sockets.delete(socket);
            other.destroy();
          });
          socket.pipe(other);
          if (cable?.isCut) socket.pause();
        }
      });
      servers.push(server);
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      const address = server.address();
      if (typeof address !== "object" || address === null) throw new Error("a listening server has an address");
      ports.push(address.port);
    }
    cable = new Cable(servers, ports, sockets);
    return cable;
  }

  get isCut(): boolean {
    return this.#cut;
  }

  cut(): void {
    this.#cut = true;
    for (const socket of this.#sockets) socket.pause();
  }

  mend(): void {
    this.#cut = false;
    for (const socket of this.#sockets) socket.resume();
  }

  close(): void {
    for (const server of this.#servers) server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}
