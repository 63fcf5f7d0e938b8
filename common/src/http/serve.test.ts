import { connect } from "node:net";
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client";
import { afterEach, expect, test } from "vitest";
import { hasCode } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { AppendResult } from "../stream-service.ts";
import { BodyBudget, takeBody } from "./body.ts";
import { assertPortFree, type HttpServer, serveHttp } from "./serve.ts";
import { envelopeLines, type MemoryPlane, memoryPlane } from "./testing/plane.ts";

const TEXT = { "content-type": "text/plain" };
const NAME = { scope: "plant", stream: "press" };
const servers: HttpServer[] = [];

async function serve(plane: MemoryPlane, options: { closeGraceMs?: number } = {}) {
  const server = await serveHttp(plane.app, { host: "127.0.0.1", port: 0, ...options });
  servers.push(server);
  return { server, url: `http://127.0.0.1:${server.port}/v1/stream/plant/press` };
}

afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

test("the official client creates, writes, reads and follows a text stream", async () => {
  const { url } = await serve(memoryPlane());
  const handle = await DurableStream.create({ url, contentType: "text/plain" });
  await handle.append("one ");
  await handle.append("two ");
  expect(await handle.head()).toMatchObject({ exists: true, contentType: "text/plain" });
  expect(await (await stream({ url, offset: "-1", live: false })).text()).toBe("one two ");

  for (const live of ["long-poll", "sse"] as const) {
    const follower = await stream({ url, offset: "now", live });
    const got = new Promise<string>((resolve) => {
      follower.subscribeText(async ({ text }) => {
        if (text !== "") resolve(text);
      });
    });
    let stop = false;
    // The follower may still be on its way: write until it has something.
    const writer = (async () => {
      while (!stop) await handle.append(live);
    })();
    expect(await got).toMatch(new RegExp(`^(${live})+$`));
    stop = true;
    await writer;
    follower.cancel();
  }
  await handle.close();
  expect(await handle.head()).toMatchObject({ streamClosed: true });
  await handle.delete();
  expect(await handle.head()).toEqual({ exists: false });
});

test("the official client's idempotent producer and JSON mode", async () => {
  const { url } = await serve(memoryPlane());
  const handle = await DurableStream.create({ url, contentType: "application/json" });
  const producer = new IdempotentProducer(handle, "device-1", { autoClaim: true });
  const events = Array.from({ length: 200 }, (_, i) => ({ i, text: '\u2028\r\n"' }));
  for (const event of events) producer.append(JSON.stringify(event));
  await producer.flush();
  expect(await (await stream<{ i: number }>({ url, offset: "-1", live: false })).json()).toEqual(events);
  await producer.close();
});

test("a key that is not ASCII travels as UTF-8 in the header", async () => {
  const { url } = await serve(memoryPlane());
  await fetch(url, { method: "PUT", headers: TEXT });
  const key = "pressé-7 €";
  const written = await fetch(url, {
    method: "POST",
    headers: { ...TEXT, "routing-key": Buffer.from(key).toString("latin1") },
    body: "x",
  });
  expect(written.status).toBe(204);
  expect(envelopeLines(await (await fetch(`${url}?view=envelope`)).text()).map((line) => line.key)).toEqual([key]);
});

test("a body that is too large is refused while it comes, chunked or declared, and the server goes on", async () => {
  const plane = memoryPlane();
  const { url } = await serve(plane);
  await fetch(url, { method: "PUT", headers: TEXT });
  let pulled = 0;
  const endless = new ReadableStream<Uint8Array>({
    pull(controller) {
      pulled += 65_536;
      controller.enqueue(new Uint8Array(65_536));
    },
  });
  const chunked = await fetch(url, { method: "POST", headers: TEXT, body: endless, duplex: "half" } as RequestInit);
  expect([chunked.status, ((await chunked.json()) as { code: string }).code]).toEqual([413, "EVENT_TOO_LARGE"]);
  expect(pulled).toBeLessThan(64 * 1_048_576);
  const declared = await fetch(url, {
    method: "POST",
    headers: { ...TEXT, "event-split": "lines" },
    body: new Uint8Array(LIMITS.requestBytesMax + 1),
  });
  expect([declared.status, ((await declared.json()) as { code: string }).code]).toEqual([413, "BATCH_TOO_LARGE"]);
  const parts = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const part of ["in ", "three ", "parts"]) controller.enqueue(new TextEncoder().encode(part));
      controller.close();
    },
  });
  expect((await fetch(url, { method: "POST", headers: TEXT, body: parts, duplex: "half" } as RequestInit)).status).toBe(204);
  expect(await (await fetch(url)).text()).toBe("in three parts");
  expect((await plane.streams.describe(NAME)).events).toBe(1);
});

test("a body that ends early appends nothing", async () => {
  const plane = memoryPlane();
  const { server, url } = await serve(plane);
  await fetch(url, { method: "PUT", headers: TEXT });
  for (const head of ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]) {
    const socket = connect(server.port, "127.0.0.1");
    await new Promise<void>((resolve) => {
      socket.on("close", () => resolve());
      socket.on("connect", () => {
        socket.write(`POST /v1/stream/plant/press HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n${head}`, () => socket.destroy());
      });
    });
  }
  expect((await fetch(url, { method: "POST", headers: TEXT, body: "whole" })).status).toBe(204);
  expect(await (await fetch(url)).text()).toBe("whole");
});

test("bodies share one budget, and give it back whatever happens", async () => {
  const budget = new BodyBudget(10);
  const limit = { bytesMax: 8, code: "EVENT_TOO_LARGE" } as const;
  const request = (body: string, length?: number) =>
    new Request("http://test", { method: "POST", body, ...(length !== undefined && { headers: { "content-length": String(length) } }) });
  const first = await takeBody(request("12345678"), limit, budget);
  expect(budget.bytes).toBe(8);
  const refusals = [request("123"), request("123", 3), request("123456789"), request("", 9)].map((each) =>
    takeBody(each, limit, budget).then(
      () => "taken",
      (error: unknown) => (hasCode(error, "OVERLOADED", "EVENT_TOO_LARGE") ? error.code : String(error)),
    ),
  );
  expect(await Promise.all(refusals)).toEqual(["OVERLOADED", "OVERLOADED", "EVENT_TOO_LARGE", "EVENT_TOO_LARGE"]);
  expect(budget.bytes).toBe(8);
  first.release();
  expect(budget.bytes).toBe(0);
  (await takeBody(request("123", 3), limit, budget)).release();
  expect(budget.bytes).toBe(0);
});

test("a port in use and an address that is not ours are typed errors", async () => {
  const plane = memoryPlane();
  const { server } = await serve(plane);
  const errors = await Promise.allSettled([
    serveHttp(plane.app, { host: "127.0.0.1", port: server.port }),
    serveHttp(plane.app, { host: "192.0.2.1", port: 0 }),
  ]);
  expect(errors.map((result) => result.status === "rejected" && (result.reason as { code: string }).code)).toEqual([
    "PORT_IN_USE",
    "CONFIG_INVALID",
  ]);
});

test("whether a port is free is seen without keeping it", async () => {
  const plane = memoryPlane();
  const { server } = await serve(plane);
  const taken = { host: "127.0.0.1", port: server.port };
  await expect(assertPortFree(taken)).rejects.toMatchObject({ code: "PORT_IN_USE" });
  await server.close();
  await assertPortFree(taken);
  servers.push(await serveHttp(plane.app, taken));
});

test("close ends live reads, lets an append in flight finish, and frees the port", async () => {
  const plane = memoryPlane();
  const { server, url } = await serve(plane);
  await fetch(url, { method: "PUT", headers: TEXT });
  const poll = fetch(`${url}?offset=now&live=long-poll`);
  const sse = await fetch(`${url}?offset=now&live=sse`);
  await expect.poll(() => plane.streams.waiting(NAME)).toBe(2);

  const append = plane.streams.append.bind(plane.streams);
  const arrived = Promise.withResolvers<void>();
  const mayFinish = Promise.withResolvers<void>();
  plane.streams.append = async (...args): Promise<AppendResult> => {
    arrived.resolve();
    await mayFinish.promise;
    return append(...args);
  };
  const inFlight = fetch(url, { method: "POST", headers: TEXT, body: "acked" });
  await arrived.promise;
  const closed = server.close();
  expect((await poll).status).toBe(204);
  expect(await sse.text()).toContain("event: control");
  mayFinish.resolve();
  expect((await inFlight).status).toBe(204);
  await closed;
  await expect(fetch(url)).rejects.toThrow();
  const again = await serveHttp(plane.app, { host: "127.0.0.1", port: server.port });
  await again.close();
});

test("live readers that leave are let go", async () => {
  const plane = memoryPlane();
  const { url } = await serve(plane);
  await fetch(url, { method: "PUT", headers: TEXT });
  const leave = new AbortController();
  const poll = fetch(`${url}?offset=now&live=long-poll`, { signal: leave.signal }).catch(() => "left");
  const sse = await fetch(`${url}?offset=now&live=sse`, { signal: leave.signal });
  await expect.poll(() => plane.streams.waiting(NAME)).toBe(2);
  leave.abort();
  await expect.poll(() => plane.streams.waiting(NAME)).toBe(0);
  expect(await poll).toBe("left");
  await expect(sse.text()).rejects.toThrow();
});

test("close does not wait for ever for an append that hangs", async () => {
  const plane = memoryPlane();
  const { server, url } = await serve(plane, { closeGraceMs: 50 });
  await fetch(url, { method: "PUT", headers: TEXT });
  const arrived = Promise.withResolvers<void>();
  const never = Promise.withResolvers<AppendResult>();
  plane.streams.append = () => {
    arrived.resolve();
    return never.promise;
  };
  const hanging = fetch(url, { method: "POST", headers: TEXT, body: "x" }).then(
    () => "answered",
    () => "cut",
  );
  await arrived.promise;
  await server.close();
  expect(await hanging).toBe("cut");
});
