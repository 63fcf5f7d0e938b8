import { cp, open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { append, http, readPayloads } from "./testing/http.ts";
import { type GatewayFacts, newFolder, reported, startServer, statusOf, tributary, until } from "./testing/tributary.ts";

let folder: string;
let remove: () => Promise<void>;
beforeAll(async () => {
  ({ folder, remove } = await newFolder());
});
afterAll(() => remove());

const QUIET = ["--set", "edge.vitalsIntervalMs=0", "--set", "core.flushIntervalMs=100"];

test("a second start goes on where the first stopped; a stop by SIGTERM is clean", async () => {
  const args = ["--data", join(folder, "again"), ...QUIET];
  const first = await startServer("up", args);
  await http("PUT", `${first.gatewayHttp}/v1/stream/a/b`);
  await append(first.gatewayHttp, "a/b", "before");
  const before = await statusOf<GatewayFacts>(first.gatewayHttp);
  expect(await first.stop()).toBe(0);
  expect(first.log()).toMatch(/stopped/);

  const second = await startServer("up", args);
  const after = await statusOf<GatewayFacts>(second.gatewayHttp);
  expect(after.writer).toBe(before.writer);
  expect(after.incarnation).not.toBe(before.incarnation);
  await append(second.gatewayHttp, "a/b", "after");
  expect(await readPayloads(second.gatewayHttp, "a/b")).toEqual(["before", "after"]);
  await until("both at the core", async () => (await readPayloads(second.coreHttp, "a/b")).length === 2);
  expect(await readPayloads(second.coreHttp, "a/b")).toEqual(["before", "after"]);
  expect(await tributary(["verify", "--server", second.coreHttp])).toMatchObject({ code: 0 });

  const third = await tributary(["up", ...args, "--http-port", "0", "--mqtt-port", "0", "--core-port", "0", "--json"]);
  expect(third.code).toBe(1);
  expect(reported(third)).toMatchObject({ code: "DATA_DIR_LOCKED", hint: expect.stringContaining("--data") });
  await append(second.gatewayHttp, "a/b", "undisturbed");
  // A reader that follows does not hold up the stop.
  expect((await fetch(`${second.coreHttp}/v1/stream/a/b?offset=now&live=sse`)).status).toBe(200);
  expect(await second.stop()).toBe(0);
});

describe("an edge log that was damaged while nobody used it", () => {
  const COUNT = 60;

  /** A gateway without a core holds all of its events; SIGKILL leaves SQLite's own log beside the database. */
  async function damaged(name: string, options: { clean: boolean }, spoil: (file: string) => Promise<void>) {
    const data = join(folder, name);
    const first = await startServer("edge", ["--data", data, ...QUIET.slice(0, 2)]);
    await http("PUT", `${first.gatewayHttp}/v1/stream/a/b`);
    for (let n = 0; n < COUNT; n++) await append(first.gatewayHttp, "a/b", `event ${n} ${"x".repeat(2_000)}`);
    if (options.clean) await first.stop();
    else await first.kill();
    await spoil(join(data, "edge"));
    const second = await startServer("edge", ["--data", data, ...QUIET.slice(0, 2)]);
    const status = await statusOf<GatewayFacts>(second.gatewayHttp);
    expect((await http("PUT", `${second.gatewayHttp}/v1/stream/a/b`)).status).toBeLessThan(300);
    await append(second.gatewayHttp, "a/b", "after");
    const payloads = await readPayloads(second.gatewayHttp, "a/b");
    await second.stop();
    expect(payloads.at(-1)).toBe("after");
    return { status, payloads, log: second.log(), quarantined: await readdir(join(data, "edge", "quarantine")).catch(() => []) };
  }

  test("a corrupt last page: it starts, keeps the rest, counts and reports what was lost", async () => {
    const { status, payloads, log, quarantined } = await damaged("page", { clean: true }, async (edge) => {
      const path = join(edge, "log.db");
      const { size } = await stat(path);
      const file = await open(path, "r+");
      await file.write(Buffer.alloc(4_096, 0xa5), 0, 4_096, size - 4_096);
      await file.close();
    });
    expect(status.recovery.recordsQuarantined + (status.recovery.quarantinePath === "" ? 0 : 1)).toBeGreaterThan(0);
    expect(quarantined.length).toBeGreaterThan(0);
    expect(log).toContain("damaged");
    expect(payloads.length).toBeGreaterThan(COUNT / 2);
  });

  test("a torn end: what was cut off is the only loss", async () => {
    const { payloads } = await damaged("torn", { clean: false }, async (edge) => {
      const wal = await open(join(edge, "log.db-wal"), "r+");
      const { size } = await wal.stat();
      await wal.truncate(size - 3_000);
      await wal.close();
    });
    expect(payloads.length).toBeGreaterThan(COUNT / 2);
    expect(payloads.slice(0, -1)).toEqual(payloads.slice(0, -1).map((_, n) => `event ${n} ${"x".repeat(2_000)}`));
  });

  test("nothing but garbage: it starts anew", async () => {
    const { payloads, quarantined } = await damaged("garbage", { clean: true }, async (edge) => {
      for (const name of await readdir(edge)) {
        if (!name.startsWith("log.db")) continue;
        const file = await open(join(edge, name), "r+");
        await file.truncate(0);
        await file.write(Buffer.from("this is no database\n".repeat(500)));
        await file.close();
      }
    });
    expect(payloads).toEqual(["after"]);
    expect(quarantined.length).toBeGreaterThan(0);
  });
});

test("a copy of a whole data folder is an appliance of its own", async () => {
  const original = join(folder, "original");
  const first = await startServer("up", ["--data", original, ...QUIET]);
  await http("PUT", `${first.gatewayHttp}/v1/stream/a/b`);
  await append(first.gatewayHttp, "a/b", "common");
  await first.stop();
  await cp(original, join(folder, "copy"), { recursive: true });
  const [one, two] = await Promise.all([original, join(folder, "copy")].map((data) => startServer("up", ["--data", data, ...QUIET])));
  for (const [server, text] of [
    [one, "one"],
    [two, "two"],
  ] as const) {
    if (!server) throw new Error("it has started");
    await append(server.gatewayHttp, "a/b", text);
    await until("all at the core", async () => (await readPayloads(server.coreHttp, "a/b")).length === 2);
    expect(await readPayloads(server.coreHttp, "a/b")).toEqual(["common", text]);
    expect(await server.stop()).toBe(0);
  }
});
