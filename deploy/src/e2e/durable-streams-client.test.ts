import { DurableStream, IdempotentProducer, stream as readStream, StaleEpochError } from "@durable-streams/client";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { append, http, readAll, readPayloads } from "./testing/http.ts";
import { type GatewayFacts, newFolder, type Server, startServer, statusOf, until } from "./testing/tributary.ts";

let server: Server;
let remove: () => Promise<void>;
beforeAll(async () => {
  const created = await newFolder();
  remove = created.remove;
  server = await startServer("up", ["--data", created.folder, "--set", "edge.vitalsIntervalMs=0", "--set", "core.flushIntervalMs=100"]);
});
afterAll(async () => {
  await server.kill();
  await remove();
});

/** The client warns of plain HTTP, which browsers limit; this is none. */
const quiet = { warnOnHttp: false };

describe.each(["gateway", "core"] as const)("the official client on the %s", (side) => {
  const url = (name: string) => `${side === "gateway" ? server.gatewayHttp : server.coreHttp}/v1/stream/${side}/${name}`;

  test("creates, appends, reads, closes and deletes", async () => {
    const handle = await DurableStream.create({ url: url("text"), contentType: "text/plain", ...quiet });
    for (const word of ["one ", "two ", "three"]) await handle.append(word);
    const response = await readStream({ url: url("text"), offset: "-1", live: false, ...quiet });
    expect(await response.text()).toBe("one two three");
    const later = await DurableStream.head({ url: url("text"), ...quiet });
    expect(later).toMatchObject({ exists: true, contentType: "text/plain", offset: response.offset });
    await handle.append(" four");
    expect(await (await readStream({ url: url("text"), offset: response.offset, live: false, ...quiet })).text()).toBe(" four");
    await handle.close();
    await expect(handle.append("five")).rejects.toThrow();
    await handle.delete();
    await expect(DurableStream.head({ url: url("text"), ...quiet })).resolves.toMatchObject({ exists: false });
  });

  test.each(["long-poll", "sse"] as const)("follows with %s", async (live) => {
    const handle = await DurableStream.create({ url: url(live), contentType: "application/json", ...quiet });
    await handle.append(JSON.stringify({ n: 0 }));
    const seen: number[] = [];
    const stop = new AbortController();
    const response = await readStream<{ n: number }>({ url: url(live), offset: "-1", live, signal: stop.signal, ...quiet });
    response.subscribeJson(async (batch) => {
      seen.push(...batch.items.map((item) => item.n));
    });
    for (let n = 1; n <= 5; n++) {
      await until(`event ${n - 1} to be followed`, () => seen.length === n);
      await handle.append(JSON.stringify({ n }));
    }
    await until("the last event to be followed", () => seen.length === 6);
    stop.abort();
    expect(seen).toEqual([0, 1, 2, 3, 4, 5]);
  });

  test("JSON mode: an array is one event for each element, a read is an array", async () => {
    const handle = await DurableStream.create({ url: url("array"), contentType: "application/json", ...quiet });
    await http("POST", url("array"), { headers: { "Content-Type": "application/json" }, body: '[{"a":1},[2],"three"]' });
    await handle.append("null");
    const response = await readStream({ url: url("array"), offset: "-1", live: false, ...quiet });
    expect(await response.json()).toEqual([{ a: 1 }, [2], "three", null]);
  });

  test("an idempotent producer: many in flight, a restart fences the one before", async () => {
    const handle = await DurableStream.create({ url: url("produced"), contentType: "application/json", ...quiet });
    const failures: Error[] = [];
    const options = { lingerMs: 0, maxInFlight: 5, maxBatchBytes: 256, onError: (error: Error) => void failures.push(error) };
    const first = new IdempotentProducer(handle, "device", { ...options, epoch: 0 });
    for (let n = 0; n < 100; n++) first.append(JSON.stringify(n));
    await first.flush();
    const second = new IdempotentProducer(handle, "device", { ...options, epoch: 1 });
    // The protocol refuses a new epoch that does not begin with sequence 0, and what is in flight together may overtake.
    second.append(JSON.stringify(100));
    await second.flush();
    for (let n = 101; n < 200; n++) second.append(JSON.stringify(n));
    await second.flush();
    expect(failures).toEqual([]);
    first.append(JSON.stringify("from the one that was fenced"));
    await first.flush().catch(() => undefined);
    await until("the fenced producer to hear of it", () => failures.length > 0);
    expect(failures[0]).toBeInstanceOf(StaleEpochError);
    const response = await readStream({ url: url("produced"), offset: "-1", live: false, ...quiet });
    expect(await response.json()).toEqual(Array.from({ length: 200 }, (_, n) => n));
  });

  test("errors reach it with their status", async () => {
    await expect(readStream({ url: url("none"), offset: "-1", live: false, ...quiet })).rejects.toMatchObject({ status: 404 });
  });
});

describe("gateway and core of one stream", () => {
  test("the core refuses an offset of the gateway, and the other way round", async () => {
    await http("PUT", `${server.gatewayHttp}/v1/stream/both/events`);
    await append(server.gatewayHttp, "both/events", "x");
    await until("the event at the core", async () => (await readPayloads(server.coreHttp, "both/events").catch(() => [])).length === 1);
    const offsetOf = async (url: string) =>
      (await http("HEAD", `${url}/v1/stream/both/events`)).headers.get("Stream-Next-Offset") as string;
    const [local, central] = [await offsetOf(server.gatewayHttp), await offsetOf(server.coreHttp)];
    const read = (url: string, offset: string) => http("GET", `${url}/v1/stream/both/events?offset=${offset}`);
    expect(await read(server.coreHttp, local)).toMatchObject({ status: 400, code: "OFFSET_FOREIGN" });
    expect(await read(server.gatewayHttp, central)).toMatchObject({ status: 400, code: "OFFSET_FOREIGN" });
    expect(await read(server.gatewayHttp, local)).toMatchObject({ status: 200 });
  });

  test("an event is at the gateway's tail at once, and what the gateway has freed comes back from the core", async () => {
    const name = "both/history";
    await http("PUT", `${server.gatewayHttp}/v1/stream/${name}`);
    const sent: string[] = [];
    for (let n = 0; n < 20; n++) {
      const answer = await append(server.gatewayHttp, name, `event ${n}`, { "Routing-Key": `key ${n % 3}` });
      expect(answer.status).toBe(204);
      sent.push(`event ${n}`);
      expect((await readPayloads(server.gatewayHttp, name)).at(-1)).toBe(`event ${n}`);
    }
    const before = await readAll(server.gatewayHttp, name);
    await until("the gateway to have freed all", async () => (await statusOf<GatewayFacts>(server.gatewayHttp)).usage.eventsHeld === 0);
    expect(await readAll(server.gatewayHttp, name)).toEqual(before);
    expect(before.map((record) => Buffer.from(record.data).toString())).toEqual(sent);
    await append(server.gatewayHttp, name, "later");
    expect(await readPayloads(server.gatewayHttp, name)).toEqual([...sent, "later"]);
  });
});
