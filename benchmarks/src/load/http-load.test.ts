import { createServer, type Server } from "node:http";
import { afterEach, expect, it } from "vitest";
import { runHttpLoad } from "./http-load.ts";

let server: Server | undefined;
afterEach(() => new Promise((resolve) => server?.close(resolve)));

it("appends every event once in order per device, through refusals and broken connections", async () => {
  const created = new Set<string>();
  const taken = new Map<string, number[]>();
  let requests = 0;
  server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      if (request.method === "PUT") {
        created.add(request.url ?? "");
        response.writeHead(201).end();
        return;
      }
      requests++;
      // Before anything is taken: sent again, it is no repetition.
      if (requests % 10 === 3) return void request.socket.destroy();
      if (requests % 10 === 7) return void response.writeHead(503, { "Content-Type": "application/problem+json" }).end("{}");
      const key = String(request.headers["routing-key"]);
      const events = taken.get(key) ?? [];
      taken.set(key, events);
      for (const line of Buffer.concat(chunks).toString().trimEnd().split("\n")) events.push(JSON.parse(line).seq - 100_000_000);
      response.writeHead(204).end();
    });
  });
  await new Promise<void>((resolve) => server?.listen(0, "127.0.0.1", resolve));
  const acked = new Map<string, number[]>();
  const result = await runHttpLoad({
    host: "127.0.0.1",
    port: (server.address() as { port: number }).port,
    connections: 3,
    batch: 4,
    rate: 0,
    warmupSeconds: 0,
    seconds: 0.3,
    stream: "bench/s{n}",
    key: "device-{n}",
    onAcked: (device, seq, count) => {
      const events = acked.get(device) ?? [];
      acked.set(device, events);
      for (let i = 0; i < count; i++) events.push(seq + i);
    },
  });
  expect([...created]).toEqual(["/v1/stream/bench/s0", "/v1/stream/bench/s1", "/v1/stream/bench/s2"]);
  expect(acked).toEqual(taken);
  for (const events of acked.values()) expect(events).toEqual(events.map((_, i) => i));
  expect(result.eventsAcked).toBeGreaterThan(0);
  expect(result.refusals["503"]).toBeGreaterThan(0);
  expect(result.reconnects).toBeGreaterThan(0);
});
