import { LIMITS } from "@tributary/common/limits";
import type { Packet } from "mqtt-packet";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { append, http, readPayloads } from "./testing/http.ts";
import { CONNECT, mqttPeer, publish } from "./testing/mqtt.ts";
import { newFolder, type Server, startServer, statusOf, tributary, until } from "./testing/tributary.ts";

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

const BATCH = { "Content-Type": "application/vnd.tributary.batch+ndjson" };
const JSON_TYPE = { "Content-Type": "application/json" };
const producer = (epoch: number, seq: number) => ({
  "Producer-Id": "sensor",
  "Producer-Epoch": String(epoch),
  "Producer-Seq": String(seq),
});

describe.each(["gateway", "core"] as const)("%s", (side) => {
  const url = () => (side === "gateway" ? server.gatewayHttp : server.coreHttp);
  const path = (stream: string) => `${url()}/v1/stream/${stream}`;
  const stream = `${side}/bytes`;
  const json = `${side}/json`;

  beforeAll(async () => {
    expect((await http("PUT", path(stream))).status).toBe(201);
    expect((await http("PUT", path(json), { headers: JSON_TYPE })).status).toBe(201);
  });

  test("bad input is refused with a code of the table, and loses nothing", async () => {
    expect((await append(url(), stream, "before", producer(3, 0))).status).toBe(200);
    const big = new Uint8Array(LIMITS.eventBytesMax + 1);
    const manyLines = "\n".repeat(LIMITS.requestEventsMax + 1);
    const cases: [what: string, answer: Promise<{ status: number; code: string }>, status: number, code: string][] = [
      ["unknown stream", append(url(), `${side}/none`, "x"), 404, "STREAM_UNKNOWN"],
      ["read of an unknown stream", http("GET", `${path(`${side}/none`)}?offset=-1`), 404, "STREAM_UNKNOWN"],
      ["an unknown level", http("GET", `${path(stream)}?level=fsynced`), 400, "INVALID_REQUEST"],
      ["unknown scope", http("GET", `${path("nobody/none")}?offset=-1`), 404, "STREAM_UNKNOWN"],
      ["deletion of an unknown stream", http("DELETE", path(`${side}/none`)), 404, "STREAM_UNKNOWN"],
      ["bad scope", http("PUT", path("-bad/x")), 400, "INVALID_NAME"],
      ["bad stream name", http("PUT", path(`${side}/${encodeURIComponent("a b")}`)), 400, "INVALID_NAME"],
      ["a name that is too long", http("PUT", path("n".repeat(LIMITS.nameCharsMax + 1))), 400, "INVALID_NAME"],
      ["a name that climbs", http("PUT", path(`${side}/%2e%2e%2fescape`)), 400, "INVALID_NAME"],
      ["bad percent-encoding", http("PUT", path(`${side}/%zz`)), 404, "NOT_FOUND"],
      ["three components", http("PUT", path("a/b/c")), 404, "NOT_FOUND"],
      ["another path", http("GET", `${url()}/v2/nothing`), 404, "NOT_FOUND"],
      ["another method", http("PATCH", path(stream)), 405, "METHOD_NOT_ALLOWED"],
      ["oversized event", append(url(), stream, big), 413, "EVENT_TOO_LARGE"],
      ["oversized batch", append(url(), stream, new Uint8Array(LIMITS.requestBytesMax + 1), BATCH), 413, "BATCH_TOO_LARGE"],
      ["too many events", append(url(), stream, manyLines, { "Event-Split": "lines" }), 413, "BATCH_TOO_LARGE"],
      ["an oversized line", append(url(), stream, big, { "Event-Split": "lines" }), 413, "EVENT_TOO_LARGE"],
      ["broken JSON", append(url(), json, '{"a":', JSON_TYPE), 400, "INVALID_JSON"],
      ["broken JSON in a batch", append(url(), json, '{"data":"{"}\n', BATCH), 400, "INVALID_JSON"],
      ["a broken batch", append(url(), stream, "{nonsense\n", BATCH), 400, "INVALID_JSON"],
      ["no body", append(url(), stream, ""), 400, "PAYLOAD_EMPTY"],
      ["wrong content type", append(url(), stream, "<x/>", { "Content-Type": "text/xml" }), 409, "CONTENT_TYPE_MISMATCH"],
      ["no content type", append(url(), stream, big.slice(0, 3), { "Content-Type": "" }), 400, "INVALID_REQUEST"],
      ["a key that is too long", append(url(), stream, "x", { "Routing-Key": "k".repeat(257) }), 400, "INVALID_REQUEST"],
      ["a time that is none", append(url(), stream, "x", { "Event-Time": "soon" }), 400, "INVALID_REQUEST"],
      ["stale producer epoch", append(url(), stream, "x", producer(2, 0)), 403, "PRODUCER_EPOCH_STALE"],
      ["producer sequence gap", append(url(), stream, "x", producer(3, 5)), 409, "PRODUCER_SEQUENCE_GAP"],
      ["a new epoch not from 0", append(url(), stream, "x", producer(4, 1)), 400, "PRODUCER_HEADERS_INVALID"],
      ["half a producer", append(url(), stream, "x", { "Producer-Id": "sensor" }), 400, "PRODUCER_HEADERS_INVALID"],
      ["another configuration", http("PUT", path(stream), { headers: JSON_TYPE }), 409, "STREAM_EXISTS"],
      ["no segments", http("PUT", path(`${side}/s`), { headers: { "Tributary-Segments": "0" } }), 400, "INVALID_REQUEST"],
      ["segments that are no number", http("PUT", path(`${side}/s`), { headers: { "Tributary-Segments": "x" } }), 400, "INVALID_REQUEST"],
      ["an offset that is none", http("GET", `${path(stream)}?offset=nonsense`), 400, "OFFSET_INVALID"],
      ["an unknown kind of live read", http("GET", `${path(stream)}?offset=-1&live=magic`), 400, "INVALID_REQUEST"],
    ];
    for (const [what, pending, status, code] of cases) {
      const { status: got, code: gotCode } = await pending;
      expect.soft({ what, status: got, code: gotCode }).toEqual({ what, status, code });
    }
    const stale = await append(url(), stream, "x", producer(0, 0));
    expect(stale.headers.get("Producer-Epoch")).toBe("3");
    const gap = await append(url(), stream, "x", producer(3, 9));
    expect([gap.headers.get("Producer-Expected-Seq"), gap.headers.get("Producer-Received-Seq")]).toEqual(["1", "9"]);

    expect((await append(url(), stream, "before", producer(3, 0))).status).toBe(204);
    expect((await append(url(), stream, "after", producer(3, 1))).status).toBe(200);
    expect((await append(url(), stream, new Uint8Array(LIMITS.eventBytesMax))).status).toBe(204);
    const payloads = await readPayloads(url(), stream);
    expect(payloads.map((payload) => payload.slice(0, 6).replaceAll("\0", "0"))).toEqual(["before", "after", "000000"]);
    expect(payloads[2]).toHaveLength(LIMITS.eventBytesMax);
    expect(await readPayloads(url(), json)).toEqual([]);
  });

  test("a request that breaks off half-way leaves nothing behind", async () => {
    const socketBody = new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode("half of it"));
      },
    });
    const abort = new AbortController();
    const sent = fetch(path(stream), {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: socketBody,
      signal: abort.signal,
      duplex: "half",
    } as RequestInit);
    await append(url(), stream, "whole");
    abort.abort();
    await expect(sent).rejects.toThrow();
    expect((await readPayloads(url(), stream)).filter((payload) => payload.startsWith("half"))).toEqual([]);
  });
});

describe("MQTT", () => {
  const acknowledgedThenClosed: [what: string, send: (peer: Awaited<ReturnType<typeof mqttPeer>>) => void][] = [
    ["garbage", (peer) => peer.sendRaw(Buffer.from("GET / HTTP/1.1\r\n\r\n"))],
    ["a publish with a broken topic length", (peer) => peer.sendRaw(Buffer.from([0x32, 3, 0xff, 0xff, 0x61]))],
    ["a length of five bytes", (peer) => peer.sendRaw(Buffer.from([0x30, 0xff, 0xff, 0xff, 0xff, 0x01]))],
    ["a packet beyond the limit", (peer) => peer.sendRaw(Buffer.from([0x30, 0xff, 0xff, 0xff, 0x7f]))],
    ["QoS 3", (peer) => peer.sendRaw(Buffer.from([0x36, 6, 0, 1, 0x61, 0, 1, 0x78]))],
    ["packet id 0", (peer) => peer.sendRaw(Buffer.from([0x32, 6, 0, 1, 0x61, 0, 0, 0x78]))],
    ["a second CONNECT", (peer) => peer.send(CONNECT)],
    ["a topic of a bad name", (peer) => peer.send(publish("mqtt/-bad/key", "x", 2))],
    ["a topic with an empty level", (peer) => peer.send(publish("mqtt//key", "x", 2))],
    ["a topic of the broker's own", (peer) => peer.send(publish("$SYS/x", "x", 2))],
    ["a topic with a key that is too long", (peer) => peer.send(publish(`mqtt/events/${"k".repeat(257)}`, "x", 2))],
    ["an oversized event", (peer) => peer.send(publish("mqtt/events", Buffer.alloc(LIMITS.eventBytesMax + 1), 2))],
    ["broken JSON for a stream of JSON", (peer) => peer.send(publish("gateway/json", "{", 2))],
  ];

  test.for(acknowledgedThenClosed)("%s ends the connection, not what came before it", async ([what, send]) => {
    const peer = await mqttPeer(server.mqttPort);
    peer.send(CONNECT);
    peer.send(publish("mqtt/events/key", what, 1));
    await until("the PUBACK", () => peer.received.some((packet: Packet) => packet.cmd === "puback" && packet.messageId === 1));
    send(peer);
    await peer.closed;
    expect(peer.received.filter((packet) => packet.cmd === "puback")).toHaveLength(1);
    expect(await readPayloads(server.gatewayHttp, "mqtt/events")).toContain(what);
  });

  test.each<[string, number[], number]>([
    ["MQTT 6", [...Buffer.from("\x10\x0d\0\x04MQTT"), 6, 2, 0, 0, 0, 1, 0x61], 1],
    ["an empty client id with a session to keep", [...Buffer.from("\x10\x0c\0\x04MQTT"), 4, 0, 0, 0, 0, 0], 2],
  ])("%s is refused with a return code", async (_, connect, returnCode) => {
    const peer = await mqttPeer(server.mqttPort);
    peer.sendRaw(Buffer.from(connect));
    await peer.closed;
    expect(peer.received).toMatchObject([{ cmd: "connack", returnCode }]);
  });

  test("why connections were closed is counted and logged", async () => {
    const { mqtt } = await statusOf<{ mqtt: { closed: Record<string, number> } }>(server.gatewayHttp);
    expect(Object.keys(mqtt.closed)).toEqual(expect.arrayContaining(["topic-name-invalid", "topic-level-empty", "topic-key-too-long"]));
    expect(server.log()).toContain("topic-name-invalid");
  });
});

test("the whole of it verifies, and nothing was a defect", async () => {
  const url = server.coreHttp;
  await until("everything to arrive at the core", async () => (await readPayloads(url, "mqtt/events").catch(() => [])).length === 13);
  expect(await tributary(["verify", "--server", url])).toMatchObject({ code: 0 });
  expect(server.log()).not.toMatch(/defect|INTERNAL/);
});
