import { expect, test } from "vitest";
import type { Clock } from "../clock.ts";
import { LIMITS } from "../limits.ts";
import { ManualClock } from "../testing/manual-clock.ts";
import { type EnvelopeLine, envelopeLines, type MemoryPlane, memoryPlane } from "./testing/plane.ts";

const TEXT = { "content-type": "text/plain" };
const PATH = "/v1/stream/plant/press";
const NAME = { scope: "plant", stream: "press" };

async function planeWith(clock: Clock, contentType = "text/plain"): Promise<MemoryPlane> {
  const plane = memoryPlane({ clock });
  await plane.streams.create(NAME, { contentType });
  return plane;
}

/** The reader has come to the end and waits. */
async function untilWaiting(plane: MemoryPlane, readers = 1): Promise<void> {
  await expect.poll(() => plane.streams.waiting(NAME)).toBe(readers);
}

interface Control {
  readonly streamNextOffset: string;
  readonly streamCursor?: string;
  readonly upToDate?: boolean;
  readonly streamClosed?: boolean;
}

/** Takes the events of an SSE response as they come. */
function sseReader(response: Response) {
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const decoder = new TextDecoder();
  let text = "";
  async function next(): Promise<{ type: string; data: string } | undefined> {
    for (;;) {
      const end = text.indexOf("\n\n");
      if (end >= 0) {
        const lines = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        const data = lines.slice(1).map((line) => line.replace(/^data: ?/, ""));
        return { type: (lines[0] as string).replace("event: ", ""), data: data.join("\n") };
      }
      const { done, value } = await reader.read();
      if (done) return undefined;
      text += decoder.decode(value, { stream: true });
    }
  }
  return {
    next,
    cancel: () => reader.cancel(),
    async control(): Promise<Control> {
      const event = await next();
      expect(event?.type).toBe("control");
      return JSON.parse(event?.data ?? "") as Control;
    },
    async data(): Promise<string> {
      const event = await next();
      expect(event?.type).toBe("data");
      return event?.data ?? "";
    },
  };
}

test("long-poll answers at once where there are events, and waits where there are none", async () => {
  const plane = await planeWith(new ManualClock());
  await plane.ask("POST", PATH, TEXT, "old");
  const first = await plane.ask("GET", `${PATH}?offset=-1&live=long-poll`);
  expect([first.status, await first.text()]).toEqual([200, "old"]);
  const cursor = first.headers.get("stream-cursor") ?? "";
  const waiting = plane.ask("GET", `${PATH}?offset=${first.headers.get("stream-next-offset")}&live=long-poll&cursor=${cursor}`);
  await untilWaiting(plane);
  await plane.ask("POST", PATH, TEXT, "new");
  const second = await waiting;
  expect([second.status, await second.text(), second.headers.get("stream-up-to-date")]).toEqual([200, "new", "true"]);
  expect(Number(second.headers.get("stream-cursor"))).toBeGreaterThan(Number(cursor));
});

test("readers at level tiered see what is in the lake, and wake as more comes there", async () => {
  const plane = await planeWith(new ManualClock());
  await plane.ask("POST", PATH, TEXT, "old");
  plane.streams.tier(NAME);
  await plane.ask("POST", PATH, TEXT, "new");
  const page = await plane.ask("GET", `${PATH}?level=tiered`);
  expect([await page.text(), page.headers.get("stream-up-to-date")]).toEqual(["old", "true"]);
  expect(page.headers.get("tributary-level")).toBe("tiered");
  expect(await (await plane.ask("GET", `${PATH}?level=committed`)).text()).toBe("oldnew");
  const end = page.headers.get("stream-next-offset");
  for (const method of ["HEAD", "GET"]) {
    const now = await plane.ask(method, `${PATH}?offset=now&level=tiered`);
    expect([await now.text(), now.headers.get("stream-next-offset")]).toEqual(["", end]);
    expect(now.headers.get("tributary-level")).toBe("tiered");
  }
  const waiting = plane.ask("GET", `${PATH}?offset=${end}&live=long-poll&level=tiered`);
  const following = await plane.ask("GET", `${PATH}?offset=${end}&live=sse&level=tiered`);
  expect(following.headers.get("tributary-level")).toBe("tiered");
  const sse = sseReader(following);
  expect(await sse.control()).toMatchObject({ streamNextOffset: end, upToDate: true });
  const told = sse.data();
  await untilWaiting(plane, 2);
  await plane.ask("POST", PATH, { ...TEXT, "stream-closed": "true" }, "last");
  await untilWaiting(plane, 2);
  plane.streams.tier(NAME);
  const polled = await waiting;
  expect([polled.status, await polled.text(), polled.headers.get("stream-closed")]).toEqual([200, "newlast", "true"]);
  expect(await told).toBe("newlast");
  expect(await sse.control()).toMatchObject({ streamClosed: true });
});

test("long-poll is over after its time: 204 with the end of the stream", async () => {
  const clock = new ManualClock();
  const plane = await planeWith(clock);
  const waiting = plane.ask("GET", `${PATH}?offset=now&live=long-poll`);
  await untilWaiting(plane);
  clock.advance(LIMITS.longPollMsMax);
  const response = await waiting;
  expect([response.status, response.headers.get("stream-up-to-date"), response.headers.get("stream-next-offset")]).toEqual([
    204,
    "true",
    (await plane.streams.describe(NAME)).nextOffset,
  ]);
  expect(response.headers.get("stream-cursor")).not.toBeNull();
});

test("a gap record alone does not end a long-poll of payloads, but one of envelopes", async () => {
  const clock = new ManualClock();
  const plane = await planeWith(clock);
  const payloads = plane.ask("GET", `${PATH}?offset=now&live=long-poll`);
  const envelopes = plane.ask("GET", `${PATH}?offset=now&live=long-poll&view=envelope`);
  await untilWaiting(plane, 2);
  plane.streams.insertGap(NAME, 2, "quota");
  expect(envelopeLines(await (await envelopes).text())).toMatchObject([{ kind: "gap", count: 2 }]);
  await untilWaiting(plane);
  await plane.ask("POST", PATH, TEXT, "x");
  expect(await (await payloads).text()).toBe("x");
});

test("long-poll ends when the stream closes, is deleted, or the server stops", async () => {
  const plane = await planeWith(new ManualClock());
  const closing = new AbortController();
  const stopped = plane.ask("GET", `${PATH}?offset=now&live=long-poll`, {}, undefined, closing.signal);
  await untilWaiting(plane);
  closing.abort();
  expect((await stopped).status).toBe(204);

  const closed = plane.ask("GET", `${PATH}?offset=now&live=long-poll`);
  await untilWaiting(plane);
  await plane.ask("POST", PATH, { "stream-closed": "true" });
  const response = await closed;
  expect([response.status, response.headers.get("stream-closed"), response.headers.get("stream-cursor")]).toEqual([204, "true", null]);
  // Nothing to wait for any more.
  expect((await plane.ask("GET", `${PATH}?offset=now&live=long-poll`)).headers.get("stream-closed")).toBe("true");

  await plane.ask("DELETE", PATH);
  await plane.streams.create(NAME, { contentType: "text/plain" });
  const deleted = plane.ask("GET", `${PATH}?offset=now&live=long-poll`);
  await untilWaiting(plane);
  await plane.ask("DELETE", PATH);
  expect((await deleted).status).toBe(404);
});

test("SSE sends pages as they come, each with its control event, and ends with the stream", async () => {
  const plane = await planeWith(new ManualClock());
  await plane.ask("POST", PATH, { ...TEXT, "event-split": "lines" }, "a\n b\r\n");
  const response = await plane.ask("GET", `${PATH}?offset=-1&live=sse`);
  expect(response.headers.get("content-type")).toBe("text/event-stream");
  expect(response.headers.get("stream-sse-data-encoding")).toBeNull();
  const sse = sseReader(response);
  expect((await sse.next())?.data).toBe("a\n b\n");
  expect(await sse.control()).toMatchObject({ upToDate: true });
  const coming = sse.data();
  await untilWaiting(plane);
  await plane.ask("POST", PATH, { ...TEXT, "stream-closed": "true" }, "last");
  expect(await coming).toBe("last");
  expect(await sse.control()).toEqual({
    streamNextOffset: (await plane.streams.describe(NAME)).nextOffset,
    upToDate: true,
    streamClosed: true,
  });
  expect(await sse.next()).toBeUndefined();
});

test("SSE of bytes is base64, of JSON an array, of envelopes NDJSON", async () => {
  const bytes = await planeWith(new ManualClock(), "application/octet-stream");
  await bytes.ask("POST", PATH, { "content-type": "application/octet-stream" }, Uint8Array.of(0xff, 0x0a, 0));
  const binary = await bytes.ask("GET", `${PATH}?offset=-1&live=sse`);
  expect(binary.headers.get("stream-sse-data-encoding")).toBe("base64");
  expect(Buffer.from(await sseReader(binary).data(), "base64")).toEqual(Buffer.of(0xff, 0x0a, 0));
  const lines = await sseReader(await bytes.ask("GET", `${PATH}?offset=-1&live=sse&view=envelope`)).data();
  expect(lines.split("\n").map((line) => (JSON.parse(line) as EnvelopeLine).base64)).toEqual(["/woA"]);

  const json = await planeWith(new ManualClock(), "application/json");
  await json.ask("POST", PATH, { "content-type": "application/json" }, '[{"a":\n1},2]');
  expect(await sseReader(await json.ask("GET", `${PATH}?offset=-1&live=sse`)).data()).toBe('[{"a":\n1},2]');
});

test("SSE shows that it lives, and gives a connection up after a minute", async () => {
  const clock = new ManualClock();
  const plane = await planeWith(clock);
  const sse = sseReader(await plane.ask("GET", `${PATH}?offset=now&live=sse`));
  let last = await sse.control();
  for (let seconds = 15; seconds <= 60; seconds += 15) {
    const coming = sse.next();
    await untilWaiting(plane);
    clock.advance(15_000);
    last = JSON.parse((await coming)?.data ?? "") as Control;
    expect(last).toMatchObject({ upToDate: true, streamNextOffset: last.streamNextOffset });
  }
  expect(await sse.next()).toBeUndefined();
  expect(clock.timers).toBe(0);
});

test("SSE lets go of the stream when the reader leaves, the server stops, or the stream is deleted", async () => {
  const clock = new ManualClock();
  const plane = await planeWith(clock);
  const closing = new AbortController();
  const open = async () => {
    const sse = sseReader(await plane.ask("GET", `${PATH}?offset=now&live=sse`, {}, undefined, closing.signal));
    await sse.control();
    const end = sse.next();
    await untilWaiting(plane);
    return { sse, end };
  };
  const leaver = await open();
  await leaver.sse.cancel();
  await untilWaiting(plane, 0);

  const deleted = await open();
  await plane.ask("DELETE", PATH);
  expect(await deleted.end).toBeUndefined();

  await plane.streams.create(NAME, { contentType: "text/plain" });
  const stopped = await open();
  closing.abort();
  expect(await stopped.end).toBeUndefined();
  expect(clock.timers).toBe(0);
});

test("a slow SSE reader is sent no page before it took the one before", async () => {
  const plane = await planeWith(new ManualClock());
  await plane.ask("POST", PATH, { ...TEXT, "event-split": "lines" }, "x\n".repeat(3 * LIMITS.readPageEventsMax));
  let reads = 0;
  const read = plane.streams.read.bind(plane.streams);
  plane.streams.read = (...args) => {
    reads++;
    return read(...args);
  };
  const sse = sseReader(await plane.ask("GET", `${PATH}?offset=-1&live=sse`));
  await sse.data();
  expect(reads).toBe(1);
  expect((await sse.control()).upToDate).toBeUndefined();
  await sse.data();
  expect(reads).toBe(2);
  await sse.cancel();
});

test("a service that wakes for nothing is not asked again and again", async () => {
  const plane = await planeWith(new ManualClock());
  let waits = 0;
  plane.streams.waitForData = async () => {
    waits++;
  };
  expect((await plane.ask("GET", `${PATH}?offset=now&live=long-poll`)).status).toBe(204);
  const sse = sseReader(await plane.ask("GET", `${PATH}?offset=now&live=sse`));
  await sse.control();
  expect(await sse.next()).toBeUndefined();
  expect(waits).toBe(2);
});
