import { expect, test } from "vitest";
import type { TributaryError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { AppendResult, StreamService } from "../stream-service.ts";
import { ManualClock } from "../testing/manual-clock.ts";
import { type MemoryPlane, memoryPlane } from "./testing/plane.ts";
import { WorkTime } from "./work-time.ts";

const TEXT = { "content-type": "text/plain" };
const PATH = "/v1/stream/plant/press";
const NAME = { scope: "plant", stream: "press" };
const MAX_MS = 15_000;

const codeOf = async (work: Promise<unknown>): Promise<string> => {
  const error = await work.then(
    () => undefined,
    (reason: TributaryError) => reason,
  );
  return error?.code ?? "";
};

test("the time of a request is one for all that it takes", async () => {
  const clock = new ManualClock();
  const time = new WorkTime(clock, MAX_MS);
  const first = Promise.withResolvers<string>();
  const one = time.run(() => first.promise);
  clock.advance(10_000);
  first.resolve("done");
  expect(await one).toBe("done");
  // Neither a body that arrives nor a wait is work.
  clock.advance(60_000);
  const never = time.run(() => new Promise(() => {}));
  clock.advance(4_999);
  expect(clock.timers).toBe(1);
  clock.advance(1);
  expect(await codeOf(never)).toBe("BUS_TIMEOUT");
  expect(await codeOf(time.run(async () => "too late"))).toBe("BUS_TIMEOUT");
  time.renew();
  expect(await time.run(async () => "again")).toBe("again");
  expect(clock.timers).toBe(0);
});

test("what is given up is still under way", async () => {
  const clock = new ManualClock();
  const time = new WorkTime(clock, MAX_MS);
  const told: string[] = [];
  time.whenIdle(() => told.push("before"));
  const work = Promise.withResolvers<void>();
  const given = time.run(() => work.promise);
  clock.advance(MAX_MS);
  expect(await codeOf(given)).toBe("BUS_TIMEOUT");
  time.whenIdle(() => told.push("after"));
  expect(told).toEqual(["before"]);
  work.reject(new Error("nobody looks at it"));
  await expect.poll(() => told).toEqual(["before", "after"]);
});

/** Steps of the service wait until they are let go, or for ever. */
async function slowPlane(): Promise<MemoryPlane & { clock: ManualClock; held: (keyof StreamService)[]; release(): void }> {
  const clock = new ManualClock();
  const plane = memoryPlane({ clock, requestMsMax: MAX_MS });
  await plane.streams.create(NAME, { contentType: "text/plain" });
  const held: (keyof StreamService)[] = [];
  let waiting: (() => void)[] = [];
  const service = plane.streams as StreamService;
  for (const step of ["create", "describe", "list", "listScopes", "delete", "append", "read"] as const) {
    const real = service[step].bind(service) as (...args: unknown[]) => Promise<unknown>;
    const slow = async (...args: unknown[]) => {
      held.push(step);
      await new Promise<void>((resolve) => waiting.push(resolve));
      return real(...args);
    };
    Object.assign(service, { [step]: slow });
  }
  const release = () => {
    for (const go of waiting) go();
    waiting = [];
  };
  return { ...plane, clock, held, release };
}

test.each([
  ["PUT", PATH, TEXT, ""],
  ["POST", PATH, TEXT, "x"],
  ["POST", PATH, { "content-type": "application/vnd.tributary.batch+ndjson" }, '{"data":"x"}'],
  ["GET", `${PATH}?offset=-1`, {}, undefined],
  ["GET", `${PATH}?offset=-1&live=long-poll`, {}, undefined],
  ["GET", `${PATH}?offset=-1&live=sse`, {}, undefined],
  ["HEAD", PATH, {}, undefined],
  ["DELETE", PATH, {}, undefined],
  ["GET", "/v1/scopes", {}, undefined],
  ["GET", "/v1/scopes/plant/streams", {}, undefined],
  ["PUT", "/v1/scopes/plant/streams/press", {}, "{}"],
] as const)("%s %s that is not answered in time may have been carried out", async (method, path, headers, body) => {
  const { ask, clock, held } = await slowPlane();
  const asking = ask(method, path, headers, body);
  await expect.poll(() => held).toHaveLength(1);
  clock.advance(MAX_MS);
  const response = await asking;
  expect([response.status, response.headers.get("retry-after")]).toEqual([504, "1"]);
  if (method !== "HEAD") expect(await response.json()).toMatchObject({ code: "BUS_TIMEOUT" });
});

test("what each step takes is summed up, and the owner is not looked for beyond it", async () => {
  const { ask, clock, held, release } = await slowPlane();
  const asking = ask("GET", `${PATH}?offset=-1`);
  await expect.poll(() => held).toEqual(["describe"]);
  clock.advance(MAX_MS - 1_000);
  release();
  await expect.poll(() => held).toEqual(["describe", "read"]);
  clock.advance(1_000);
  expect((await asking).status).toBe(504);

  let looking = false;
  const ownerUrl = () => {
    looking = true;
    return new Promise<undefined>(() => {});
  };
  const away = memoryPlane({ clock, requestMsMax: MAX_MS, ownerUrl });
  await away.streams.create(NAME, { contentType: "text/plain" });
  const deleting = away.ask("DELETE", PATH);
  await expect.poll(() => looking).toBe(true);
  clock.advance(MAX_MS);
  const answer = await deleting;
  expect([answer.status, answer.headers.get("tributary-owner")]).toEqual([204, null]);
});

test("bodies of appends that were given up count until they are done", async () => {
  const clock = new ManualClock();
  const plane = memoryPlane({ clock, requestMsMax: MAX_MS });
  await plane.streams.create(NAME, { contentType: "text/plain" });
  const waiting: ((result: AppendResult) => void)[] = [];
  plane.streams.append = () => new Promise((resolve) => waiting.push(resolve));
  const large = new Uint8Array(LIMITS.requestBytesMax).map((_, at) => (at % 1_000 === 0 ? 10 : 120));
  const lines = { ...TEXT, "content-length": String(large.length), "event-split": "lines" };
  const many = LIMITS.requestBytesInFlightMax / LIMITS.requestBytesMax;
  const appends = Array.from({ length: many }, () => plane.ask("POST", PATH, lines, large));
  await expect.poll(() => waiting).toHaveLength(many);
  clock.advance(MAX_MS);
  for (const append of appends) expect((await append).status).toBe(504);
  expect((await plane.ask("POST", PATH, { ...TEXT, "content-length": "1" }, "x")).status).toBe(503);
  for (const done of waiting.splice(0)) done({ duplicate: false, nextOffset: "1", closed: false });
  await expect
    .poll(() => {
      void plane.ask("POST", PATH, { ...TEXT, "content-length": "1" }, "x");
      return waiting.length;
    })
    .toBeGreaterThan(0);
});

test("a live read waits for as long as it likes", async () => {
  const clock = new ManualClock();
  const plane = memoryPlane({ clock, requestMsMax: MAX_MS });
  await plane.streams.create(NAME, { contentType: "text/plain" });
  await plane.ask("POST", PATH, TEXT, "old");
  const { nextOffset } = await plane.streams.describe(NAME);

  const polling = plane.ask("GET", `${PATH}?offset=${nextOffset}&live=long-poll`);
  await expect.poll(() => plane.streams.waiting(NAME)).toBe(1);
  clock.advance(LIMITS.longPollMsMax - 1);
  await plane.ask("POST", PATH, TEXT, "new");
  expect(await (await polling).text()).toBe("new");

  const response = await plane.ask("GET", `${PATH}?offset=now&live=sse`);
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  await reader.read();
  for (const event of ["first", "second", "third"]) {
    const next = reader.read();
    await expect.poll(() => plane.streams.waiting(NAME)).toBe(1);
    clock.advance(MAX_MS - 1);
    await plane.ask("POST", PATH, TEXT, event);
    expect(new TextDecoder().decode((await next).value)).toContain(event);
  }
  await reader.cancel();
});
