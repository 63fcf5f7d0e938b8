import { createServer } from "node:net";
import { afterEach, describe, expect, onTestFinished, test } from "vitest";
import { systemClock } from "../clock.ts";
import { TributaryError } from "../errors.ts";
import { createDataPlane } from "../http/data-plane.ts";
import { type HttpServer, serveHttp } from "../http/serve.ts";
import { systemRandom } from "../random.ts";
import { MemoryStreamService } from "../testing/memory-stream-service.ts";
import { TributaryClient } from "./client.ts";
import { Owners } from "./owners.ts";

const NAME = { scope: "plant", stream: "press" };
const EVENTS = [{ data: Buffer.from("e") }];
const PRODUCER = { id: "p", epoch: 0, seq: 0 };

/** Two core nodes over the same streams, one of which has them. */
class Nodes {
  readonly streams = new MemoryStreamService(systemClock, systemRandom);
  readonly servers: HttpServer[] = [];
  /** Requests that each node got. */
  readonly asked: number[] = [];
  owner = 1;
  /** What a node answers instead. */
  readonly failures = new Map<number, TributaryError>();

  async start(): Promise<void> {
    for (let node = 0; node < 2; node++) {
      this.asked.push(0);
      const streams = new Proxy(this.streams, {
        get: (target, name) => {
          const member: unknown = Reflect.get(target, name);
          if (typeof member !== "function") return member;
          return (...args: unknown[]) => {
            this.asked[node] = (this.asked[node] ?? 0) + 1;
            const failure = this.failures.get(node);
            return failure ? Promise.reject(failure) : member.apply(target, args);
          };
        },
      });
      const ownerUrl = async () => (this.owner === node ? undefined : this.urlOf(this.owner));
      const app = createDataPlane({ streams, clock: systemClock, random: systemRandom, serverName: "t", side: "core", ownerUrl });
      this.servers.push(await serveHttp(app, { host: "127.0.0.1", port: 0 }));
    }
  }

  urlOf(node: number): string {
    return `http://127.0.0.1:${this.servers[node]?.port ?? 0}`;
  }

  /** Since the last look. */
  counts(): number[] {
    const counts = [...this.asked];
    this.asked.fill(0);
    return counts.map((count) => Math.sign(count));
  }
}

let nodes: Nodes;
afterEach(() => Promise.all(nodes.servers.map((server) => server.close())));

async function started(followOwners = true): Promise<{ client: TributaryClient }> {
  nodes = new Nodes();
  await nodes.start();
  const client = new TributaryClient({ server: nodes.urlOf(0), followOwners });
  await client.createStream(NAME);
  nodes.counts();
  return { client };
}

describe("a client that follows owners", () => {
  test("asks the given node first and the owner from then on", async () => {
    const { client } = await started();
    await client.append(NAME, EVENTS);
    await client.readPage(NAME, { offset: "-1" });
    expect(nodes.counts()).toEqual([0, 1]);
  });

  test("is told in a header that web pages may read", async () => {
    await started();
    const response = await fetch(`${nodes.urlOf(0)}/v1/stream/plant/press`, { headers: { origin: "http://localhost" } });
    expect(response.headers.get("tributary-owner")).toBe(nodes.urlOf(1));
    expect(response.headers.get("access-control-expose-headers")).toContain("Tributary-Owner");
    expect((await fetch(`${nodes.urlOf(1)}/v1/stream/plant/press`)).headers.get("tributary-owner")).toBeNull();
  });

  test("follows a move, back to the given node as well", async () => {
    const { client } = await started();
    await client.append(NAME, EVENTS);
    nodes.owner = 0;
    await client.append(NAME, EVENTS);
    nodes.counts();
    await client.append(NAME, EVENTS);
    expect(nodes.counts()).toEqual([1, 0]);
  });

  test("goes back to the given node where the owner has given the stream away, and says other errors as they are", async () => {
    const { client } = await started();
    nodes.failures.set(1, new TributaryError("CONTAINER_NOT_OWNED", "by the test"));
    await client.append(NAME, EVENTS);
    expect(nodes.counts()).toEqual([1, 1]);
    nodes.failures.set(1, new TributaryError("OVERLOADED", "by the test"));
    await expect(client.append(NAME, EVENTS)).rejects.toMatchObject({ code: "OVERLOADED" });
    expect(nodes.counts()).toEqual([0, 1]);
    nodes.failures.set(1, new TributaryError("LOG_RESULT_UNKNOWN", "by the test"));
    await expect(client.append(NAME, EVENTS)).rejects.toMatchObject({ code: "LOG_RESULT_UNKNOWN" });
    expect(nodes.counts()).toEqual([0, 1]);
  });

  test("goes back to the given node where nobody listens any more", async () => {
    const { client } = await started();
    await client.append(NAME, EVENTS);
    await nodes.servers[1]?.close();
    nodes.counts();
    await client.append(NAME, EVENTS);
    expect((await client.readPage(NAME, { offset: "-1" })).records).toHaveLength(2);
    expect(nodes.counts()).toEqual([1, 0]);
  });

  test("does not repeat an append that an owner may have taken before it broke off, unless a producer's number tells", async () => {
    const { client } = await started();
    const { createServer } = await import("node:net");
    const broken = createServer((socket) => void socket.once("data", () => socket.destroy()));
    await new Promise<void>((resolve) => void broken.listen(0, "127.0.0.1", resolve));
    const { port } = broken.address() as { port: number };
    const real = nodes.urlOf.bind(nodes);
    nodes.urlOf = (node) => (node === 1 ? `http://127.0.0.1:${port}` : real(node));
    try {
      const learn = () => new TributaryClient({ server: real(0), followOwners: true });
      const plain = learn();
      await plain.readPage(NAME, { offset: "-1" });
      await expect(plain.append(NAME, EVENTS)).rejects.toMatchObject({ code: "SERVER_UNREACHABLE" });
      await plain.append(NAME, EVENTS);
      const producing = learn();
      await producing.readPage(NAME, { offset: "-1" });
      await producing.append(NAME, EVENTS, PRODUCER);
      expect((await client.readPage(NAME, { offset: "-1" })).records).toHaveLength(2);
    } finally {
      broken.close();
    }
  });

  test("is an option: without it every request goes to the given node", async () => {
    const { client } = await started(false);
    await client.append(NAME, EVENTS);
    await client.append(NAME, EVENTS);
    expect(nodes.counts()).toEqual([1, 0]);
  });
});

test("owners are taken only where the token may go, and only so many are remembered", () => {
  const safe = new Owners("https://core.example");
  safe.learn("s", false, "http://other.example");
  expect(safe.of("s")).toBeUndefined();
  safe.learn("s", false, "https://other.example:8443");
  expect(safe.of("s")).toBe("https://other.example:8443");
  for (const nonsense of ["", "nowhere", "file:///etc/passwd", "javascript:0", "https://core.example"]) {
    safe.learn("s", false, nonsense);
    expect(safe.of("s")).toBeUndefined();
  }
  const plain = new Owners("http://core.example");
  for (let i = 0; i < 5_000; i++) plain.learn(`s${i}`, false, "http://other.example");
  expect([plain.of("s0"), plain.of("s4999")]).toEqual([undefined, "http://other.example"]);
});

test("an answer that breaks off, or is none of ours, is a server that does not answer", async () => {
  let answer = "";
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => socket.end(answer));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  const { port } = server.address() as { port: number };
  const client = new TributaryClient({ server: `http://127.0.0.1:${port}` });
  answer = 'HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n{"key"';
  await expect(client.readPage(NAME, { offset: "-1" })).rejects.toMatchObject({ code: "SERVER_UNREACHABLE" });
  await expect(client.describeStream(NAME)).rejects.toMatchObject({ code: "SERVER_UNREACHABLE" });
  answer = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 7\r\nConnection: close\r\n\r\n<login>";
  await expect(client.status()).rejects.toMatchObject({ code: "SERVER_UNREACHABLE" });
  // One of an earlier version passes the level over.
  answer = "HTTP/1.1 200 OK\r\nStream-Next-Offset: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
  await expect(client.readPage(NAME, { offset: "-1", level: "committed" })).resolves.toMatchObject({ nextOffset: "x" });
  await expect(client.readPage(NAME, { offset: "-1", level: "tiered" })).rejects.toMatchObject({ code: "CORE_ANSWER_INVALID" });
  answer = answer.replace("Content-Length", "Tributary-Level: tiered\r\nContent-Length");
  await expect(client.readPage(NAME, { offset: "-1", level: "tiered" })).resolves.toMatchObject({ nextOffset: "x" });
});
