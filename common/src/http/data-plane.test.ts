import { expect, test } from "vitest";
import { ERROR_TABLE, type ErrorCode, TributaryError } from "../errors.ts";
import { encodeCbor } from "../format/cbor.ts";
import { LIMITS } from "../limits.ts";
import { BATCH_CBOR, BATCH_NDJSON } from "./batch.ts";
import { bytesOf, envelopeLines, type MemoryPlane, memoryPlane } from "./testing/plane.ts";

const TEXT = { "content-type": "text/plain" };
const JSON_TYPE = { "content-type": "application/json" };
const BYTES = { "content-type": "application/octet-stream" };
const PATH = "/v1/stream/plant/press";
const NAME = { scope: "plant", stream: "press" };

async function planeWith(headers: Record<string, string>): Promise<MemoryPlane> {
  const plane = memoryPlane();
  expect((await plane.ask("PUT", PATH, headers)).status).toBe(201);
  return plane;
}

async function envelope(plane: MemoryPlane) {
  return envelopeLines(await (await plane.ask("GET", `${PATH}?view=envelope`)).text());
}

async function expectProblem(response: Response, code: ErrorCode): Promise<Record<string, unknown>> {
  const problem = (await response.json()) as Record<string, unknown>;
  expect(problem["code"]).toBe(code);
  expect(response.status).toBe(ERROR_TABLE[code].status);
  expect(response.headers.get("content-type")).toBe("application/problem+json");
  expect(response.headers.get("x-content-type-options")).toBe("nosniff");
  expect(problem).toMatchObject({ type: `urn:tributary:error:${code}`, status: response.status, hint: ERROR_TABLE[code].hint });
  return problem;
}

test("create, write, read, close, delete", async () => {
  const plane = await planeWith({ ...TEXT, "tributary-segments": "4" });
  expect((await plane.streams.describe(NAME)).segments.length).toBe(4);
  expect((await plane.ask("PUT", PATH, { "content-type": "TEXT/plain; charset=utf-8", "tributary-segments": "4" })).status).toBe(200);
  expect((await plane.ask("PUT", PATH, TEXT)).status).toBe(200);
  await expectProblem(await plane.ask("PUT", PATH, { ...TEXT, "tributary-segments": "1" }), "STREAM_EXISTS");
  await expectProblem(await plane.ask("PUT", PATH, BYTES), "STREAM_EXISTS");

  const written = await plane.ask("POST", PATH, { ...TEXT, "routing-key": "press-7", "event-time": "1000" }, "hello");
  expect([written.status, written.headers.get("stream-next-offset")]).toEqual([204, (await plane.streams.describe(NAME)).nextOffset]);
  const [event] = await envelope(plane);
  expect(event).toMatchObject({ kind: "event", key: "press-7", time: 1000, ordinal: 0, data: "hello" });

  const read = await plane.ask("GET", PATH);
  expect(await read.text()).toBe("hello");
  expect(read.headers.get("content-type")).toBe("text/plain");
  expect(read.headers.get("stream-up-to-date")).toBe("true");
  expect(read.headers.get("stream-closed")).toBeNull();

  expect((await plane.ask("POST", PATH, { "stream-closed": "true" })).headers.get("stream-closed")).toBe("true");
  const refused = await plane.ask("POST", PATH, TEXT, "more");
  await expectProblem(refused, "STREAM_CLOSED");
  expect(refused.headers.get("stream-closed")).toBe("true");
  expect(refused.headers.get("stream-next-offset")).toBe(written.headers.get("stream-next-offset"));
  expect((await plane.ask("HEAD", PATH)).headers.get("stream-closed")).toBe("true");

  expect((await plane.ask("DELETE", PATH)).status).toBe(204);
  await expectProblem(await plane.ask("GET", PATH), "STREAM_UNKNOWN");
});

test("a path of one component means the scope default", async () => {
  const plane = memoryPlane();
  await plane.ask("PUT", "/v1/stream/log", TEXT);
  expect((await plane.streams.list({ limit: 9 })).map(({ name }) => name)).toEqual([{ scope: "default", stream: "log" }]);
});

test("Event-Split makes an event of each line, terminators included", async () => {
  const plane = await planeWith(TEXT);
  const body = "a\nb\r\n\n\r\nlast";
  await plane.ask("POST", PATH, { ...TEXT, "event-split": "lines", "routing-key": "k" }, body);
  expect((await envelope(plane)).map(({ data, key }) => [key, data])).toEqual(
    ["a\n", "b\r\n", "\n", "\r\n", "last"].map((line) => ["k", line]),
  );
  expect(await (await plane.ask("GET", PATH)).text()).toBe(body);
});

test("JSON mode flattens one level and reads arrays", async () => {
  const plane = await planeWith(JSON_TYPE);
  expect(await (await plane.ask("GET", PATH)).text()).toBe("[]");
  for (const body of ['{"a":1}', "[1e400, [2, 3]]", "[[[4]]]", ' "text" ']) {
    expect((await plane.ask("POST", PATH, JSON_TYPE, body)).status).toBe(204);
  }
  expect(await (await plane.ask("GET", PATH)).text()).toBe('[{"a":1},1e400,[2, 3],[[4]],"text"]');
  await expectProblem(await plane.ask("POST", PATH, JSON_TYPE, "[]"), "PAYLOAD_EMPTY");
});

test("batches carry a key and a time for each event, whatever the stream's type", async () => {
  const plane = await planeWith(BYTES);
  await plane.ask("POST", PATH, { "content-type": BATCH_NDJSON }, '{"key":"a","time":1,"data":"x"}\n{"key":"b","time":2,"data":{"y": 1}}');
  await plane.ask("POST", PATH, { "content-type": BATCH_CBOR }, encodeCbor([{ key: "é", time: 3, data: Uint8Array.of(0xff) }]));
  const events = await envelope(plane);
  expect(events.map(({ key, time }) => [key, time])).toEqual([
    ["a", 1],
    ["b", 2],
    ["é", 3],
  ]);
  expect(events.map((line) => bytesOf(line).toString("latin1"))).toEqual(["x", '{"y": 1}', "\xff"]);
});

test("a batch for a stream of JSON holds JSON only", async () => {
  const plane = await planeWith(JSON_TYPE);
  const ndjson = { "content-type": BATCH_NDJSON };
  expect((await plane.ask("POST", PATH, ndjson, '{"data":{"a":1}}\n{"data":"\\"text\\""}')).status).toBe(204);
  const problem = await expectProblem(await plane.ask("POST", PATH, ndjson, '{"data":1}\n{"data":"text"}'), "INVALID_JSON");
  expect(problem["index"]).toBe(1);
  expect(await (await plane.ask("GET", PATH)).json()).toEqual([{ a: 1 }, "text"]);
});

test("the body of a PUT is there once, however often it is sent", async () => {
  const plane = memoryPlane();
  const closed = { ...TEXT, "stream-closed": "true" };
  for (const [path, headers] of [
    ["/v1/stream/a", TEXT],
    ["/v1/stream/b", closed],
  ] as const) {
    const first = await plane.ask("PUT", path, headers, "content");
    const second = await plane.ask("PUT", path, headers, "content");
    expect([first.status, second.status]).toEqual([201, 200]);
    expect(second.headers.get("stream-next-offset")).toBe(first.headers.get("stream-next-offset"));
    expect(await (await plane.ask("GET", path)).text()).toBe("content");
  }
  // A server that died between creating and appending left an empty, open stream.
  for (const [path, headers] of [
    ["/v1/stream/c", TEXT],
    ["/v1/stream/d", closed],
  ] as const) {
    await plane.streams.create({ scope: "default", stream: path.slice(-1) }, { contentType: "text/plain" });
    const again = await plane.ask("PUT", path, headers, "content");
    expect([again.status, again.headers.get("stream-closed")]).toEqual([200, headers === closed ? "true" : null]);
    expect(await (await plane.ask("GET", path)).text()).toBe("content");
  }
  // Whoever has events keeps them.
  await plane.ask("POST", "/v1/stream/a", TEXT, "+more");
  expect((await plane.ask("PUT", "/v1/stream/a", TEXT, "content")).status).toBe(200);
  expect(await (await plane.ask("GET", "/v1/stream/a")).text()).toBe("content+more");
  await expectProblem(await plane.ask("PUT", "/v1/stream/a", closed, "content"), "STREAM_EXISTS");
});

test("idempotent producers", async () => {
  const plane = await planeWith(TEXT);
  const send = (epoch: number, seq: number, body = "x") =>
    plane.ask("POST", PATH, { ...TEXT, "producer-id": "p", "producer-epoch": String(epoch), "producer-seq": String(seq) }, body);
  expect((await send(0, 0)).status).toBe(200);
  expect((await send(0, 1)).status).toBe(200);
  const again = await send(0, 0);
  expect([again.status, again.headers.get("producer-seq"), again.headers.get("producer-epoch")]).toEqual([204, "1", "0"]);
  const gap = await send(0, 5);
  await expectProblem(gap, "PRODUCER_SEQUENCE_GAP");
  expect([gap.headers.get("producer-expected-seq"), gap.headers.get("producer-received-seq")]).toEqual(["2", "5"]);
  expect((await send(1, 0)).status).toBe(200);
  const stale = await send(0, 2);
  await expectProblem(stale, "PRODUCER_EPOCH_STALE");
  expect(stale.headers.get("producer-epoch")).toBe("1");
  await expectProblem(await send(2, 1), "PRODUCER_HEADERS_INVALID");
  expect(await (await plane.ask("GET", PATH)).text()).toBe("xxx");
});

const PRODUCER = { "producer-id": "p", "producer-epoch": "0", "producer-seq": "0" };

test.each<[string, string, string, Record<string, string>, string | Uint8Array | undefined, ErrorCode]>([
  ["unknown stream", "POST", "/v1/stream/plant/none", TEXT, "x", "STREAM_UNKNOWN"],
  ["bad scope", "PUT", "/v1/stream/pl%20ant/a", TEXT, undefined, "INVALID_NAME"],
  ["bad stream name", "PUT", "/v1/stream/.hidden", TEXT, undefined, "INVALID_NAME"],
  ["name too long", "PUT", `/v1/stream/${"a".repeat(129)}`, TEXT, undefined, "INVALID_NAME"],
  ["empty name", "PUT", `${PATH}/`, TEXT, undefined, "NOT_FOUND"],
  ["no name", "GET", "/v1/stream/", {}, undefined, "NOT_FOUND"],
  ["path too deep", "GET", `${PATH}/x`, {}, undefined, "NOT_FOUND"],
  ["broken percent-encoding", "GET", "/v1/stream/%ff", {}, undefined, "NOT_FOUND"],
  ["subscriptions", "GET", "/v1/stream/__ds/subscriptions/a", {}, undefined, "NOT_FOUND"],
  ["unknown path", "GET", "/v2/stream/a", {}, undefined, "NOT_FOUND"],
  ["wrong method", "PATCH", PATH, {}, undefined, "METHOD_NOT_ALLOWED"],
  ["segments 0", "PUT", "/v1/stream/s", { "tributary-segments": "0" }, undefined, "INVALID_REQUEST"],
  ["segments 1025", "PUT", "/v1/stream/s", { "tributary-segments": "1025" }, undefined, "INVALID_REQUEST"],
  ["segments 2.0", "PUT", "/v1/stream/s", { "tributary-segments": "2.0" }, undefined, "INVALID_REQUEST"],
  ["a TTL", "PUT", "/v1/stream/s", { "stream-ttl": "60" }, undefined, "INVALID_REQUEST"],
  ["an expiry", "PUT", "/v1/stream/s", { "stream-expires-at": "2030-01-01T00:00:00Z" }, undefined, "INVALID_REQUEST"],
  ["a fork", "PUT", "/v1/stream/s", { "stream-forked-from": PATH }, undefined, "INVALID_REQUEST"],
  ["no content type at all", "PUT", "/v1/stream/s", { "content-type": "text" }, undefined, "INVALID_REQUEST"],
  [
    "a content type that is stored too long",
    "PUT",
    "/v1/stream/s",
    { "content-type": `a/b;${"c".repeat(251)}` },
    undefined,
    "INVALID_REQUEST",
  ],
  ["a batch type for a stream", "PUT", "/v1/stream/s", { "content-type": BATCH_NDJSON }, undefined, "CONTENT_TYPE_UNSUPPORTED"],
  ["a producer at PUT", "PUT", "/v1/stream/s", PRODUCER, undefined, "INVALID_REQUEST"],
  ["broken JSON at PUT", "PUT", "/v1/stream/s", JSON_TYPE, "{", "INVALID_JSON"],
  ["wrong content type", "POST", PATH, BYTES, "x", "CONTENT_TYPE_MISMATCH"],
  ["JSON for a text stream", "POST", PATH, JSON_TYPE, "1", "CONTENT_TYPE_MISMATCH"],
  ["broken JSON", "POST", PATH, JSON_TYPE, "{", "INVALID_JSON"],
  ["no content type", "POST", PATH, {}, new Uint8Array(1), "INVALID_REQUEST"],
  ["empty body", "POST", PATH, TEXT, undefined, "PAYLOAD_EMPTY"],
  ["empty batch", "POST", PATH, { "content-type": BATCH_NDJSON }, "\n", "PAYLOAD_EMPTY"],
  ["broken batch", "POST", PATH, { "content-type": BATCH_CBOR }, "x", "INVALID_BODY"],
  ["a batch with a key header", "POST", PATH, { "content-type": BATCH_NDJSON, "routing-key": "k" }, '{"data":1}', "INVALID_REQUEST"],
  ["JSON split in lines", "POST", PATH, { ...JSON_TYPE, "event-split": "lines" }, "1", "INVALID_REQUEST"],
  ["an unknown split", "POST", PATH, { ...TEXT, "event-split": "words" }, "x", "INVALID_REQUEST"],
  ["a key too long", "POST", PATH, { ...TEXT, "routing-key": "k".repeat(257) }, "x", "INVALID_REQUEST"],
  ["a key that is not UTF-8", "POST", PATH, { ...TEXT, "routing-key": "\xff" }, "x", "INVALID_REQUEST"],
  ["a time of no kind", "POST", PATH, { ...TEXT, "event-time": "now" }, "x", "INVALID_REQUEST"],
  ["a compressed body", "POST", PATH, { ...TEXT, "content-encoding": "gzip" }, "x", "CONTENT_TYPE_UNSUPPORTED"],
  ["two producer headers", "POST", PATH, { ...TEXT, "producer-id": "p", "producer-epoch": "0" }, "x", "PRODUCER_HEADERS_INVALID"],
  ["an empty producer id", "POST", PATH, { ...TEXT, ...PRODUCER, "producer-id": "" }, "x", "PRODUCER_HEADERS_INVALID"],
  ["a reserved producer id", "POST", PATH, { ...TEXT, ...PRODUCER, "producer-id": "tributary/put" }, "x", "PRODUCER_HEADERS_INVALID"],
  ["a producer id too long", "POST", PATH, { ...TEXT, ...PRODUCER, "producer-id": "p".repeat(129) }, "x", "PRODUCER_HEADERS_INVALID"],
  ["a sequence of 2^53", "POST", PATH, { ...TEXT, ...PRODUCER, "producer-seq": "9007199254740992" }, "x", "PRODUCER_HEADERS_INVALID"],
  ["a sequence of 1e3", "POST", PATH, { ...TEXT, ...PRODUCER, "producer-seq": "1e3" }, "x", "PRODUCER_HEADERS_INVALID"],
  ["a first sequence of 3", "POST", PATH, { ...TEXT, ...PRODUCER, "producer-seq": "3" }, "x", "PRODUCER_SEQUENCE_GAP"],
  ["an empty Stream-Seq", "POST", PATH, { ...TEXT, "stream-seq": "" }, "x", "INVALID_REQUEST"],
  ["an empty offset", "GET", `${PATH}?offset=`, {}, undefined, "OFFSET_INVALID"],
  ["two offsets", "GET", `${PATH}?offset=-1&offset=-1`, {}, undefined, "OFFSET_INVALID"],
  ["an offset with a comma", "GET", `${PATH}?offset=1,2`, {}, undefined, "OFFSET_INVALID"],
  ["an offset too long", "GET", `${PATH}?offset=${"0".repeat(256)}`, {}, undefined, "OFFSET_INVALID"],
  ["an offset of another stream", "GET", `${PATH}?offset=00000000_0000000000000000`, {}, undefined, "OFFSET_FOREIGN"],
  ["an unknown live mode", "GET", `${PATH}?offset=-1&live=websocket`, {}, undefined, "INVALID_REQUEST"],
  ["long-poll without an offset", "GET", `${PATH}?live=long-poll`, {}, undefined, "INVALID_REQUEST"],
  ["SSE without an offset", "GET", `${PATH}?live=sse`, {}, undefined, "INVALID_REQUEST"],
  ["an unknown view", "GET", `${PATH}?view=tree`, {}, undefined, "INVALID_REQUEST"],
  ["an unknown level", "GET", `${PATH}?level=fsynced`, {}, undefined, "INVALID_REQUEST"],
  ["an empty level", "GET", `${PATH}?level=`, {}, undefined, "INVALID_REQUEST"],
  ["SSE of an unknown stream", "GET", "/v1/stream/none?offset=-1&live=sse", {}, undefined, "STREAM_UNKNOWN"],
  ["an unknown path of management", "GET", "/v1/scopes/plant/segments", {}, undefined, "NOT_FOUND"],
  ["management by POST", "POST", "/v1/scopes/plant/streams/press", {}, "{}", "METHOD_NOT_ALLOWED"],
  ["management of a bad name", "PUT", "/v1/scopes/plant/streams/-", {}, "{}", "INVALID_NAME"],
  ["management with a list", "PUT", "/v1/scopes/plant/streams/s", {}, "[]", "INVALID_REQUEST"],
  ["management with broken JSON", "PUT", "/v1/scopes/plant/streams/s", {}, "{", "INVALID_JSON"],
  ["management with unknown members", "PUT", "/v1/scopes/plant/streams/s", {}, '{"segment":2}', "INVALID_REQUEST"],
  ["management with 0 segments", "PUT", "/v1/scopes/plant/streams/s", {}, '{"segments":0}', "INVALID_REQUEST"],
  ["a list of 0 streams", "GET", "/v1/scopes/plant/streams?limit=0", {}, undefined, "INVALID_REQUEST"],
  ["metrics where there are none", "GET", "/metrics", {}, undefined, "NOT_FOUND"],
])("bad input, %s: a clear error, and nothing changes", async (_what, method, path, headers, body, code) => {
  const plane = await planeWith(TEXT);
  const response = await plane.ask(method, path, headers, body);
  await expectProblem(response, code);
  if (code === "METHOD_NOT_ALLOWED") expect(response.headers.get("allow")).toContain("GET");
  const streams = await plane.streams.list({ limit: 9 });
  expect(streams.map(({ name, events }) => [name, events])).toEqual([[NAME, 0]]);
  expect((await plane.ask("POST", PATH, TEXT, "x")).status).toBe(204);
});

test("limits: the largest event and the largest request pass, one byte more does not", async () => {
  const plane = await planeWith(BYTES);
  expect((await plane.ask("POST", PATH, BYTES, new Uint8Array(LIMITS.eventBytesMax))).status).toBe(204);
  await expectProblem(await plane.ask("POST", PATH, BYTES, new Uint8Array(LIMITS.eventBytesMax + 1)), "EVENT_TOO_LARGE");
  const lines = { ...BYTES, "event-split": "lines" };
  const body = new Uint8Array(LIMITS.requestBytesMax + 1).fill(0x61);
  for (let i = LIMITS.eventBytesMax - 1; i < body.length; i += LIMITS.eventBytesMax) body[i] = 0x0a;
  expect((await plane.ask("POST", PATH, lines, body.subarray(0, -1))).status).toBe(204);
  await expectProblem(await plane.ask("POST", PATH, lines, body), "BATCH_TOO_LARGE");
  expect((await plane.streams.describe(NAME)).events).toBe(1 + 8);
});

test("offsets: gone, beyond the end, and paging through all events", async () => {
  const plane = await planeWith(BYTES);
  const lines = { ...BYTES, "event-split": "lines" };
  const count = LIMITS.readPageEventsMax + 5;
  await plane.ask("POST", PATH, lines, "x\n".repeat(count));
  const first = await plane.ask("GET", PATH);
  expect(first.headers.get("stream-up-to-date")).toBeNull();
  const next = first.headers.get("stream-next-offset");
  const second = await plane.ask("GET", `${PATH}?offset=${next}`);
  expect(second.headers.get("stream-up-to-date")).toBe("true");
  expect((await first.text()).length + (await second.text()).length).toBe(2 * count);

  const { firstOffset, nextOffset } = await plane.streams.describe(NAME);
  plane.streams.dropOldest(NAME, 3);
  await expectProblem(await plane.ask("GET", `${PATH}?offset=${firstOffset}`), "OFFSET_GONE");
  const beyond = await plane.ask("GET", `${PATH}?offset=${nextOffset.slice(0, -5)}99999`);
  await expectProblem(beyond, "OFFSET_UNKNOWN");
  expect(beyond.headers.get("stream-next-offset")).toBe(nextOffset);
});

test("gap records are in the envelope and not among the payloads", async () => {
  const plane = await planeWith(TEXT);
  plane.streams.insertGap(NAME, 7, "quota");
  expect(await (await plane.ask("GET", PATH)).text()).toBe("");
  await plane.ask("POST", PATH, TEXT, "x");
  plane.streams.insertGap(NAME, 1, "corrupt");
  const read = await plane.ask("GET", PATH);
  expect([await read.text(), read.headers.get("stream-up-to-date")]).toEqual(["x", "true"]);
  expect((await envelope(plane)).map(({ kind, count, reason }) => [kind, count, reason])).toEqual([
    ["gap", 7, "quota"],
    ["event", undefined, undefined],
    ["gap", 1, "corrupt"],
  ]);
});

test("ETags: 304 for the same page, a new one with more events, another view, or a closed stream", async () => {
  const plane = await planeWith(TEXT);
  const tag = async (query = "") => (await plane.ask("GET", PATH + query)).headers.get("etag") ?? "";
  await plane.ask("POST", PATH, TEXT, "a");
  const first = await tag();
  const cached = await plane.ask("GET", PATH, { "if-none-match": `"other", W/${first}` });
  expect([cached.status, await cached.text(), cached.headers.get("etag")]).toEqual([304, "", first]);
  const tags = [
    first,
    await tag("?view=envelope"),
    (await plane.ask("GET", `${PATH}?view=envelope`, { accept: "application/cbor" })).headers.get("etag"),
  ];
  await plane.ask("POST", PATH, TEXT, "b");
  tags.push(await tag());
  await plane.ask("POST", PATH, { "stream-closed": "true" });
  tags.push(await tag());
  expect(new Set(tags).size).toBe(5);
  expect((await plane.ask("GET", PATH, { "if-none-match": first })).status).toBe(200);
  expect((await plane.ask("GET", `${PATH}?offset=now`)).headers.get("etag")).toBeNull();
});

test("only pages with events may be cached", async () => {
  const plane = await planeWith(TEXT);
  expect((await plane.ask("GET", PATH)).headers.get("cache-control")).toBe("no-store");
  await plane.ask("POST", PATH, TEXT, "a");
  expect((await plane.ask("GET", PATH)).headers.get("cache-control")).toMatch(/^public, max-age=60/);
  expect((await plane.ask("GET", `${PATH}?offset=now`)).headers.get("cache-control")).toBe("no-store");
});

test("management lists, describes, creates and deletes", async () => {
  const plane = memoryPlane();
  for (const stream of ["a", "b", "c"]) {
    const made = await plane.ask("PUT", `/v1/scopes/plant/streams/${stream}`, {}, '{"segments":2,"contentType":"Text/CSV"}');
    expect(made.status).toBe(201);
  }
  expect((await plane.ask("PUT", "/v1/scopes/plant/streams/a", {}, '{"segments":2,"contentType":"text/csv"}')).status).toBe(200);
  await expectProblem(await plane.ask("PUT", "/v1/scopes/plant/streams/a"), "STREAM_EXISTS");
  expect(await (await plane.ask("GET", "/v1/scopes")).json()).toEqual({ scopes: [{ name: "plant" }] });
  const page = async (query: string) => {
    const { streams, next } = (await (await plane.ask("GET", `/v1/scopes/plant/streams${query}`)).json()) as {
      streams: { stream: string }[];
      next?: string;
    };
    return [streams.map(({ stream }) => stream), next];
  };
  expect(await page("?limit=2")).toEqual([["a", "b"], "b"]);
  expect(await page("?limit=2&after=b")).toEqual([["c"], undefined]);
  expect(await page("?limit=3")).toEqual([["a", "b", "c"], undefined]);
  expect(await (await plane.ask("GET", "/v1/scopes/none/streams")).json()).toEqual({ streams: [] });
  expect(await (await plane.ask("GET", "/v1/scopes/plant/streams/a")).json()).toMatchObject({
    scope: "plant",
    stream: "a",
    contentType: "text/csv",
    closed: false,
    events: 0,
    segments: [
      { id: "0.0.0", range: { from: 0, to: 2 ** 31 }, length: 0 },
      { id: "0.0.1", range: { from: 2 ** 31, to: 2 ** 32 }, length: 0 },
    ],
  });
  expect((await plane.ask("DELETE", "/v1/scopes/plant/streams/a")).status).toBe(204);
  await expectProblem(await plane.ask("GET", "/v1/scopes/plant/streams/a"), "STREAM_UNKNOWN");
});

test("a token guards everything but health and readiness", async () => {
  const plane = memoryPlane({ bearerToken: "s3cret", metricsText: async () => "up 1\n", status: () => ({ backlog: 3 }) });
  for (const path of [PATH, "/v1/scopes", "/status", "/metrics"]) {
    for (const authorization of [undefined, "Bearer s3cre", "Bearer s3cret2", "s3cret", "Bearer S3CRET"]) {
      const response = await plane.ask("GET", path, authorization === undefined ? {} : { authorization });
      await expectProblem(response, "UNAUTHORIZED");
      expect(response.headers.get("www-authenticate")).toMatch(/^Bearer/);
    }
  }
  const token = { authorization: "Bearer s3cret" };
  expect((await plane.ask("PUT", PATH, { ...token, ...TEXT }, "x")).status).toBe(201);
  expect((await plane.ask("GET", PATH, token)).headers.get("cache-control")).toMatch(/^private/);
  expect(await (await plane.ask("GET", "/metrics", token)).text()).toBe("up 1\n");
  expect(await (await plane.ask("GET", "/status", token)).json()).toEqual({ server: "test", side: "core", status: { backlog: 3 } });
  expect((await plane.ask("GET", "/health")).status).toBe(200);
  expect((await plane.ask("GET", "/ready")).status).toBe(200);
});

test("readiness follows the server, and ends with it", async () => {
  const plane = memoryPlane({ ready: () => ({ ready: false, detail: "opening the log" }) });
  const response = await plane.ask("GET", "/ready");
  expect([response.status, await response.json()]).toEqual([503, { ready: false, detail: "opening the log" }]);
  const closing = AbortSignal.abort();
  expect((await memoryPlane().ask("GET", "/ready", {}, undefined, closing)).status).toBe(503);
  await expectProblem(await memoryPlane().ask("GET", PATH, {}, undefined, closing), "SHUTTING_DOWN");
});

test("pages from elsewhere may ask only where a token guards", async () => {
  const evil = { origin: "https://evil.example" };
  const open = await planeWith(TEXT);
  for (const origin of ["https://evil.example", "null", "http://localhost.evil.example", "http://127.0.0.1.evil.example:80"]) {
    const response = await open.ask("POST", PATH, { ...TEXT, origin }, "x");
    await expectProblem(response, "UNAUTHORIZED");
    expect(response.headers.get("access-control-allow-origin")).toBeNull();
    expect((await open.ask("OPTIONS", PATH, { origin })).headers.get("access-control-allow-origin")).toBeNull();
  }
  for (const origin of ["http://localhost:3000", "http://127.0.0.1:8070", "https://[::1]"]) {
    const response = await open.ask("POST", PATH, { ...TEXT, origin }, "x");
    expect([response.status, response.headers.get("access-control-allow-origin"), response.headers.get("vary")]).toEqual([
      204,
      origin,
      "Origin",
    ]);
  }
  const guarded = memoryPlane({ bearerToken: "t" });
  const preflight = await guarded.ask("OPTIONS", PATH, evil);
  expect([preflight.status, preflight.headers.get("access-control-allow-origin")]).toEqual([204, "*"]);
  expect(preflight.headers.get("access-control-allow-headers")).toContain("Routing-Key");
  const response = await guarded.ask("PUT", PATH, { ...TEXT, ...evil, authorization: "Bearer t" });
  expect(response.headers.get("access-control-expose-headers")).toContain("Stream-Next-Offset");
});

test("a defect is reported and not told", async () => {
  const reported: unknown[] = [];
  const plane = memoryPlane({ reportError: (error) => reported.push(error) });
  const defect = new TypeError("secret detail");
  plane.streams.describe = () => Promise.reject(defect);
  const problem = await expectProblem(await plane.ask("GET", PATH), "INTERNAL");
  expect(JSON.stringify(problem)).not.toContain("secret");
  expect(reported).toEqual([defect]);
});

test("what may succeed later says when", async () => {
  const plane = await planeWith(TEXT);
  plane.streams.append = () => Promise.reject(new TributaryError("STORAGE_FULL", "no space is left"));
  const response = await plane.ask("POST", PATH, TEXT, "x");
  await expectProblem(response, "STORAGE_FULL");
  expect(response.headers.get("retry-after")).toBe("1");
});
