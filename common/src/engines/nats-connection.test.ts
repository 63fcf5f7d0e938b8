import { once } from "node:events";
import { createServer } from "node:net";
import { expect, onTestFinished, test, vi } from "vitest";
import { systemClock } from "../clock.ts";
import { type NatsServerOptions, startNatsServer } from "../testing/nats-server.ts";
import { connectNats } from "./nats-connection.ts";
import { assertSafeServer, findUnsafe, type ServerReport, watchServers } from "./nats-safety.ts";

async function start(options: NatsServerOptions) {
  const server = await startNatsServer(options);
  onTestFinished(() => server.stop());
  return server;
}

test("an unreachable server is named, once the time is over", async () => {
  // Listens and says nothing: the worst kind.
  const silent = createServer().listen(0, "127.0.0.1");
  onTestFinished(() => void silent.close());
  await once(silent, "listening");
  const { port } = silent.address() as { port: number };
  const warnings: string[] = [];
  const url = `nats://someone:secret@127.0.0.1:${port}`;
  const failure = connectNats({ url, startTimeoutMs: 200, warn: (message) => warnings.push(message) });
  await expect(failure).rejects.toMatchObject({ code: "BUS_UNREACHABLE", message: expect.stringContaining(`nats://127.0.0.1:${port}`) });
  await expect(failure).rejects.not.toMatchObject({ message: expect.stringContaining("secret") });
  expect(warnings).toHaveLength(1);
});

test("waits for a server that comes later, and can be called off", async () => {
  const first = await start({ jetstream: false });
  await first.kill();
  const abort = new AbortController();
  const given = connectNats({ url: first.url, startTimeoutMs: Number.POSITIVE_INFINITY, signal: abort.signal, warn: () => abort.abort() });
  await expect(given).rejects.toMatchObject({ code: "BUS_UNREACHABLE" });
  const waiting = connectNats({ url: first.url, startTimeoutMs: Number.POSITIVE_INFINITY, warn: () => void first.restart() });
  const link = await waiting;
  expect(link.connected()).toBe(true);
  await link.close();
});

test("wrong credentials are told apart from an absent server, and right ones work", async () => {
  const server = await start({ jetstream: false, auth: { user: "gateway", pass: "right" } });
  for (const credentials of [{}, { user: "gateway", pass: "wrong" }, { token: "other" }]) {
    await expect(connectNats({ url: server.url, ...credentials })).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      message: expect.stringContaining("credentials"),
    });
  }
  const links = [
    await connectNats({ url: server.url, user: "gateway", pass: "right" }),
    await connectNats({ url: server.url.replace("//", "//gateway:right@") }),
  ];
  for (const link of links) {
    expect(link.url).toBe(server.url);
    await link.close();
  }
});

test("a user without an inbox, and a server for tiny messages only, are refused at once; other missing rights are told", async () => {
  const users = `authorization { users: [
    { user: deaf, password: d, permissions: { subscribe: ["news.>"] } }
    { user: mute, password: m, permissions: { publish: ["news.>"], subscribe: [">"] } } ] }`;
  const server = await start({ jetstream: false, extraConfig: users });
  await expect(connectNats({ url: server.url, user: "deaf", pass: "d" })).rejects.toMatchObject({
    code: "CONFIG_INVALID",
    message: expect.stringContaining("_INBOX"),
  });
  const warnings: string[] = [];
  const mute = await connectNats({ url: server.url, user: "mute", pass: "m", warn: (message) => warnings.push(message) });
  onTestFinished(() => mute.close());
  mute.inbox.send("secret", "");
  await vi.waitFor(() => expect(warnings).toEqual([expect.stringContaining("secret")]), 10_000);
  const tiny = await start({ jetstream: false, maxPayload: 1_024 });
  await expect(connectNats({ url: tiny.url })).rejects.toMatchObject({
    code: "CONFIG_INVALID",
    message: expect.stringContaining("max_payload"),
  });
});

test.each(["http://127.0.0.1:4222", "nats://", "", "nats://a:b:c"])("refuses the URL '%s'", async (url) => {
  await expect(connectNats({ url })).rejects.toMatchObject({ code: "CONFIG_INVALID" });
});

test("reconnects for ever and reports each change", async () => {
  const server = await start({ jetstream: false });
  const link = await connectNats({ url: server.url });
  onTestFinished(() => link.close());
  const states: boolean[] = [];
  const remove = link.onStatus((connected) => states.push(connected));
  await server.kill();
  await vi.waitFor(() => expect(states).toEqual([false]), 10_000);
  await server.restart();
  await vi.waitFor(() => expect(states).toEqual([false, true]), 10_000);
  remove();
  await link.close();
  expect(states).toEqual([false, true]);
});

test("reconnects also where the wall clock was set back meanwhile", async () => {
  const server = await start({ jetstream: false });
  const link = await connectNats({ url: server.url });
  onTestFinished(() => link.close());
  const states: boolean[] = [];
  link.onStatus((connected) => states.push(connected));
  const { now } = Date;
  const clock = vi.spyOn(Date, "now").mockImplementation(() => now() - 3_600_000);
  onTestFinished(() => clock.mockRestore());
  await server.kill();
  await vi.waitFor(() => expect(states).toEqual([false]), 10_000);
  await server.restart();
  await vi.waitFor(() => expect(states).toEqual([false, true]), 10_000);
});

test("a request to a server that stands still fails in its time", async () => {
  const server = await start({ jetstream: false });
  const link = await connectNats({ url: server.url });
  onTestFinished(() => link.close());
  process.kill(server.pid, "SIGSTOP");
  // The signal takes effect a moment later; until then the server still says that nobody listens.
  const outcome = () => link.inbox.request("any", "", { timeoutMs: 100 }).catch((error: unknown) => error);
  await vi.waitFor(async () => expect(await outcome()).toMatchObject({ code: "BUS_TIMEOUT" }), 10_000);
});

const quiet = { warn: () => {} };

test("a server that syncs always passes, seen through its monitoring port", async () => {
  const server = await start({});
  const link = await connectNats({ url: server.url });
  onTestFinished(() => link.close());
  await assertSafeServer(link, { ...quiet, monitoringUrls: [`${server.monitoringUrl}/`] });
  await expect(assertSafeServer(link, quiet)).rejects.toMatchObject({
    code: "NATS_UNSAFE",
    message: expect.stringContaining("nats.monitorUrl"),
  });
});

test("a server that does not sync always, or has no JetStream, is refused, unless that is allowed, loudly", async () => {
  for (const [options, reason] of [
    [{ syncAlways: false }, "sync_interval: always"],
    [{ jetstream: false }, "JetStream is not enabled"],
  ] as const) {
    const server = await start(options);
    const link = await connectNats({ url: server.url });
    onTestFinished(() => link.close());
    const safety = { monitoringUrls: [server.monitoringUrl] };
    await expect(assertSafeServer(link, { ...quiet, ...safety })).rejects.toMatchObject({
      code: "NATS_UNSAFE",
      message: expect.stringContaining(reason),
    });
    const warnings: string[] = [];
    await assertSafeServer(link, { ...safety, allowUnsafe: true, warn: (message) => warnings.push(message) });
    expect(warnings).toEqual([expect.stringMatching(/^UNSAFE: /)]);
  }
});

const ACCOUNTS = `
system_account: SYS
accounts {
  SYS: { users: [{ user: admin, password: a }], exports: [{ service: "$SYS.REQ.SERVER.PING.VARZ", response_type: stream, accounts: [SEEING] }] }
  SEEING: { jetstream: enabled, users: [{ user: seeing, password: s }], imports: [{ service: { account: SYS, subject: "$SYS.REQ.SERVER.PING.VARZ" } }] }
  BLIND: { jetstream: enabled, users: [{ user: blind, password: b }] }
}`;

test("the setting can be seen with a user of the system account, or through a service that the account imports", async () => {
  const server = await start({ extraConfig: ACCOUNTS });
  const blind = await connectNats({ url: server.url, user: "blind", pass: "b" });
  onTestFinished(() => blind.close());
  const seeing = await connectNats({ url: server.url, user: "seeing", pass: "s" });
  onTestFinished(() => seeing.close());
  await expect(assertSafeServer(blind, quiet)).rejects.toMatchObject({ code: "NATS_UNSAFE" });
  await assertSafeServer(blind, { ...quiet, system: { user: "admin", pass: "a" } });
  await assertSafeServer(seeing, quiet);
});

test("a monitoring port of another server proves nothing", async () => {
  const server = await start({ syncAlways: false });
  const other = await start({});
  const link = await connectNats({ url: server.url });
  onTestFinished(() => link.close());
  await expect(assertSafeServer(link, { ...quiet, monitoringUrls: [other.monitoringUrl] })).rejects.toMatchObject({ code: "NATS_UNSAFE" });
});

test("an old version, one unsafe member or an unseen member makes a cluster unsafe", () => {
  const report = (id: string, changes: Partial<ServerReport> = {}): ServerReport => ({
    ...{ id, name: id, version: "2.15.1", jetstream: true, syncAlways: true, clusterSize: 3 },
    ...{ maxPayloadBytes: 8_388_608, nowMs: 0, askedAtMs: 0, storeBytes: 0, storeBytesMax: 0 },
    ...changes,
  });
  const all = [report("a"), report("b"), report("c")];
  expect(findUnsafe("a", "2.15.1", all)).toBeUndefined();
  expect(findUnsafe("a", "3.0.0-beta", all)).toBeUndefined();
  expect(findUnsafe("x", "2.15.1", [...all, report("x", { jetstream: false, syncAlways: false })])).toBeUndefined();
  expect(findUnsafe("a", "2.14.9", all)).toMatch("2.14.9");
  expect(findUnsafe("a", "2.15.1", [report("a"), report("b"), report("c", { syncAlways: false })])).toMatch("c runs without");
  expect(findUnsafe("a", "2.15.1", [report("a"), report("b", { version: "2.12.1" }), report("c")])).toMatch("2.12.1");
  expect(findUnsafe("a", "2.15.1", [report("a"), report("b")])).toMatch("2 of the 3");
  expect(findUnsafe("a", "2.15.1", [report("a"), report("a"), report("b")])).toMatch("2 of the 3");
  expect(findUnsafe("a", "2.15.1", [report("a"), report("b")], { mustSee: "majority" })).toBeUndefined();
  expect(findUnsafe("a", "2.15.1", [report("a")], { mustSee: "majority" })).toMatch("1 of the 3");
  expect(findUnsafe("a", "2.15.1", [report("a"), report("b", { syncAlways: false })], { mustSee: "majority" })).toMatch("b runs without");
  expect(findUnsafe("a", "2.15.1", [report("a"), report("b")], { mustSee: "connected" })).toBeUndefined();
  expect(findUnsafe("c", "2.15.1", [report("a"), report("b")], { mustSee: "connected" })).toMatch("not the one");
  expect(findUnsafe("d", "2.15.1", all)).toMatch("not the one");
  expect(findUnsafe("a", "2.15.1", [])).toMatch("could not be seen");
});

test("the inbox fails what waits when the time of an injected clock is over", async () => {
  const server = await start({ jetstream: false });
  const timers: (() => void)[] = [];
  const clock = {
    ...systemClock,
    setTimer: (_: number, callback: () => void) => {
      timers.push(callback);
      return () => {};
    },
  };
  const link = await connectNats({ url: server.url, clock });
  onTestFinished(() => link.close());
  link.nc.subscribe("silent");
  const answer = link.inbox.request("silent", "", { timeoutMs: 86_400_000 });
  for (const fire of timers) fire();
  await expect(answer).rejects.toMatchObject({ code: "BUS_TIMEOUT" });
});

test("a server that comes back unsafe is not used, until it is safe", async () => {
  const first = await start({});
  const port = Number(new URL(first.url).port);
  const warnings: string[] = [];
  const warn = (message: string) => void warnings.push(message);
  const link = await connectNats({ url: first.url, warn });
  onTestFinished(() => link.close());
  let monitoringUrls = [first.monitoringUrl];
  link.guard(() => assertSafeServer(link, { monitoringUrls, mustSee: "connected", warn }));
  await first.kill();
  await vi.waitFor(() => expect(link.connected()).toBe(false), 10_000);
  const careless = await start({ port, syncAlways: false });
  monitoringUrls = [careless.monitoringUrl];
  await vi.waitFor(() => expect(warnings.some((warning) => warning.includes("runs without"))).toBe(true), 10_000);
  expect(link.connected()).toBe(false);
  expect(() => link.inbox.send("anything", "")).toThrow("not connected");
  await careless.kill();
  const careful = await start({ port });
  monitoringUrls = [careful.monitoringUrl];
  await vi.waitFor(() => expect(link.connected()).toBe(true), 10_000);
});

test("a server that comes to the cluster unsafe later stops everything, until it is safe", async () => {
  const server = await start({});
  const link = await connectNats({ url: server.url });
  onTestFinished(() => link.close());
  const careless = await start({ syncAlways: false });
  let monitoringUrls = [server.monitoringUrl];
  const options = () => ({ ...quiet, monitoringUrls });
  link.guard(() => assertSafeServer(link, { ...options(), mustSee: "connected" }));
  const fetched: string[] = [];
  const fetch: typeof globalThis.fetch = (url, init) => {
    fetched.push(String(url));
    return globalThis.fetch(url, init);
  };
  const endWatch = watchServers(
    link,
    {
      ...quiet,
      fetch,
      get monitoringUrls() {
        return monitoringUrls;
      },
    },
    20,
  );
  onTestFinished(endWatch);
  monitoringUrls = [server.monitoringUrl, "http://127.0.0.1:1"];
  const before = fetched.length;
  await vi.waitFor(() => expect(fetched.length).toBeGreaterThan(before + 4), 10_000);
  expect(link.connected()).toBe(true);
  monitoringUrls = [server.monitoringUrl, careless.monitoringUrl];
  await vi.waitFor(() => expect(link.connected()).toBe(false), 10_000);
  monitoringUrls = [server.monitoringUrl];
  await vi.waitFor(() => expect(link.connected()).toBe(true), 10_000);
});
