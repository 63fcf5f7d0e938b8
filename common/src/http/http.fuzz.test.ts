import { expect, it } from "vitest";
import { encodeCbor } from "../format/cbor.ts";
import { fuzzBytes, orCode } from "../testing/fuzz.ts";
import { BATCH_CBOR, BATCH_NDJSON } from "./batch.ts";
import { parseBatchCbor } from "./batch-cbor.ts";
import { parseBatchNdjson } from "./batch-ndjson.ts";
import { jsonEvents } from "./json-events.ts";
import { lineEnds } from "./split-lines.ts";
import { memoryPlane } from "./testing/plane.ts";

const beside = import.meta.url;
const utf8 = (text: string) => new TextEncoder().encode(text);
const REFUSED = ["INVALID_JSON", "INVALID_BODY", "INVALID_REQUEST", "EVENT_TOO_LARGE", "BATCH_TOO_LARGE"] as const;

const BODIES: Readonly<Record<string, readonly Uint8Array[]>> = {
  json: [
    utf8('[{"a":[1,2.5e3,"\\u00e9\\""],"b":null}, 12345678901234567890 , "x"]'),
    utf8(' {"data" : [ true ] } '),
    utf8("[[],[[1]],{}]"),
  ],
  ndjson: [
    utf8('{"key":"press-7","time":1795162530250,"data":{"pressure":8.13}}\r\n\n{"time":"2026-11-20T08:15:30.251Z","base64":"/wD+"}\n'),
    utf8('{"data":"a\\u00e9"}\n{"data":[1,{"data":2}],"key":""}'),
  ],
  cbor: [
    encodeCbor([{ key: "press-7", time: 1_795_162_530_250, data: new Uint8Array([0, 255]) }, { data: "text" }]),
    Uint8Array.of(0x9f, 0xbf, 0x64, ...utf8("data"), 0x62, ...utf8("hi"), 0x64, ...utf8("time"), 0x19, 0x03, 0xe8, 0xff, 0xff),
  ],
  lines: [utf8("one\r\n\ntwo\nthree"), utf8("\n\n\n")],
};

function expectPacked(pack: { readonly payload: Uint8Array; readonly ends: ArrayLike<number> }, body: Uint8Array): void {
  let before = 0;
  for (const end of Array.from(pack.ends)) {
    expect(end).toBeGreaterThanOrEqual(before);
    before = end;
  }
  expect(before).toBe(pack.payload.length);
  expect(before).toBeLessThanOrEqual(body.length);
}

it("mutated JSON: whoever is taken is cut into texts that are JSON", async () => {
  await fuzzBytes({
    name: "json",
    beside,
    seeds: BODIES["json"] ?? [],
    run: (body) => {
      const events = orCode(() => jsonEvents(body), ...REFUSED);
      if (!events) return;
      expectPacked(events, body);
      events.ends.forEach((end, i) => {
        JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(events.payload.subarray(events.ends[i - 1] ?? 0, end)));
      });
    },
  });
});

it.each([
  ["ndjson", parseBatchNdjson],
  ["cbor", parseBatchCbor],
] as const)("mutated batches in %s are taken or refused", async (name, parse) => {
  await fuzzBytes({
    name: `batch-${name}`,
    beside,
    seeds: BODIES[name] ?? [],
    run: (body) => {
      const pack = orCode(() => parse(body, 7), ...REFUSED);
      if (!pack) return;
      expectPacked(pack, body);
      expect(pack.ends.length).toBe(pack.count);
      for (const key of Array.isArray(pack.keys) ? pack.keys : []) expect(key.isWellFormed()).toBe(true);
      for (const time of typeof pack.timesMs === "object" ? pack.timesMs : []) expect(Number.isSafeInteger(time) && time >= 0).toBe(true);
    },
  });
});

it("lines: every body is cut without a byte lost", async () => {
  await fuzzBytes({
    name: "lines",
    beside,
    seeds: BODIES["lines"] ?? [],
    run: (body) => {
      const ends = orCode(() => lineEnds(body), "EVENT_TOO_LARGE", "BATCH_TOO_LARGE");
      if (ends && body.length > 0) expect(ends.at(-1)).toBe(body.length);
    },
  });
});

/** What the data plane did not expect is INTERNAL, status 500. */
async function expectAnswered(answer: Response): Promise<void> {
  const text = await answer.text();
  expect(answer.status, text).toBeLessThan(500);
  if (answer.status >= 400) expect(JSON.parse(text)).toMatchObject({ status: answer.status, code: expect.any(String) });
}

it("mutated bodies are answered with a status below 500, whatever they are said to be", async () => {
  const { ask } = memoryPlane();
  await ask("PUT", "/v1/stream/json", { "content-type": "application/json" });
  await ask("PUT", "/v1/stream/text", { "content-type": "text/plain" });
  await ask("PUT", "/v1/scopes/default/streams/managed", { "content-type": "application/json" }, "{}");
  await fuzzBytes({
    name: "body",
    beside,
    cost: 4,
    seeds: [...Object.values(BODIES).flat(), utf8('{"segments":4,"contentType":"text/plain"}')],
    run: async (body) => {
      for (const contentType of ["application/json", "text/plain", BATCH_NDJSON, BATCH_CBOR]) {
        for (const name of ["json", "text"])
          await expectAnswered(await ask("POST", `/v1/stream/${name}`, { "content-type": contentType }, body));
      }
      await expectAnswered(await ask("POST", "/v1/stream/text", { "content-type": "text/plain", "event-split": "lines" }, body));
      await expectAnswered(await ask("PUT", "/v1/scopes/default/streams/managed", { "content-type": "application/json" }, body));
    },
  });
});

const HEADERS = [
  "Producer-Id: p\nProducer-Epoch: 0\nProducer-Seq: 0",
  "Stream-Seq: 0000000012\nStream-Closed: true",
  "Routing-Key: press-7\nEvent-Time: 2026-11-20T08:15:30.250Z",
  "Event-Time: 1795162530250\nContent-Encoding: identity\nEvent-Split: lines",
  'Tributary-Segments: 4\nStream-TTL: 5\nIf-None-Match: "x"\nAccept: application/cbor',
].map(utf8);

it("mutated headers are answered with a status below 500", async () => {
  await fuzzBytes({
    name: "headers",
    beside,
    cost: 2,
    seeds: HEADERS,
    run: async (bytes) => {
      const { ask } = memoryPlane();
      const headers = new Headers({ "content-type": "text/plain" });
      for (const line of Buffer.from(bytes).toString("latin1").split("\n")) {
        const [name = "", ...value] = line.split(":");
        try {
          headers.append(name.trim(), value.join(":").trim());
        } catch {
          // Not a header: no client and no server lets it through.
        }
      }
      for (const method of ["PUT", "POST", "GET", "HEAD", "DELETE"]) {
        const body = method === "PUT" || method === "POST" ? "a\nb" : undefined;
        const answer = await ask(method, "/v1/stream/s", Object.fromEntries(headers), body);
        if (method === "HEAD") expect(answer.status).toBeLessThan(500);
        else await expectAnswered(answer);
      }
    },
  });
});

const URLS = [
  "/v1/stream/plant/press?offset=-1",
  "/v1/stream/press?offset=now&live=long-poll&cursor=12345",
  "/v1/stream/press?offset=m1_0000000000000000_0&view=envelope&live=sse&cursor=99999999999999999999",
  "/v1/scopes/default/streams?limit=10&after=a",
  "/v1/scopes/default/streams/press",
  "/v1/stream/%2e%2e/%00?offset=%ff",
].map(utf8);

it("mutated paths and parameters are answered with a status below 500", async () => {
  const { ask } = memoryPlane();
  await ask("PUT", "/v1/stream/press", { "content-type": "text/plain", "stream-closed": "true" }, "event");
  await fuzzBytes({
    name: "url",
    beside,
    seeds: URLS,
    run: async (bytes) => {
      const path = `/${Buffer.from(bytes).toString("latin1").replace(/^\/+/, "")}`;
      // The last stream is closed, so that live reads end.
      await expectAnswered(await ask("GET", path));
    },
  });
});
