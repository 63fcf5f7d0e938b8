import { rm } from "node:fs/promises";
import { join } from "node:path";
import { startNatsServer } from "@tributary/common/testing/nats-server";
import { canMountSmallDisk } from "@tributary/common/testing/small-disk";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { append, http, readAll } from "./testing/http.ts";
import { type GatewayFacts, newFolder, type Server, startServer, statusOf, tributary, until } from "./testing/tributary.ts";

/** Runs the rest of its arguments where `$DISK` is a disk of its own, 16 MiB of it taken by something else. */
const ON_SMALL_DISK =
  'mount -t tmpfs -o size="$MEBIBYTES"m tmpfs "$DISK" && head -c 16777216 /dev/urandom > "$DISK/other" && exec "$0" "$@"';
const EVENT = 262_144;
const STREAM = "disk/full";
/** A disk has to be filled: slow where the machine is busy. */
const TEST_MS_MAX = 180_000;
const REFUSALS = 5;
/** Number of the event that shows that all goes on. */
const LAST = 9_999;

describe.skipIf(!canMountSmallDisk)("a full disk is told as such, loses nothing", { timeout: TEST_MS_MAX }, () => {
  let disk: string;
  const stops: (() => Promise<unknown>)[] = [];
  beforeEach(async () => {
    const created = await newFolder();
    disk = created.folder;
    stops.push(created.remove);
  });
  afterEach(async () => {
    for (const stop of stops.splice(0).reverse()) await stop();
  });

  const startOnDisk = async (mebibytes: number, command: "up" | "edge", ...args: string[]): Promise<Server> => {
    const program = ["unshare", "-rm", "bash", "-c", `DISK='${disk}' MEBIBYTES=${mebibytes}; ${ON_SMALL_DISK}`, process.execPath];
    const server = await startServer(command, ["--data", join(disk, "data"), "--set", "edge.vitalsIntervalMs=0", ...args], { program });
    stops.push(() => server.kill());
    return server;
  };

  /** Random, so that compression makes nothing of it. */
  const body = (n: number): Uint8Array<ArrayBuffer> => {
    const bytes = new Uint8Array(EVENT);
    for (let at = 0; at < EVENT; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
    new DataView(bytes.buffer).setUint32(0, n);
    return bytes;
  };
  const numbers = async (url: string) => (await readAll(url, STREAM)).map((record) => Buffer.from(record.data).readUInt32BE(0));

  /** Appends until events are refused. Gives the numbers of those acknowledged. */
  const fill = async (url: string): Promise<number[]> => {
    await http("PUT", `${url}/v1/stream/${STREAM}`);
    const acknowledged: number[] = [];
    let refusals = 0;
    for (let n = 0; refusals < REFUSALS; n++) {
      const answer = await append(url, STREAM, body(n));
      if (answer.status === 204) acknowledged.push(n);
      else {
        expect(answer).toMatchObject({ status: 507, code: "STORAGE_FULL" });
        refusals++;
      }
      expect(n).toBeLessThan(1_000);
    }
    expect(acknowledged.length).toBeGreaterThan(10);
    return acknowledged;
  };
  const takeLast = (url: string) => until("an event to be taken again", async () => (await append(url, STREAM, body(LAST))).status === 204);
  const untilEmpty = (url: string) =>
    until("all to reach the lake", async () => (await statusOf<GatewayFacts>(url)).usage.eventsHeld === 0);

  test("and all goes on once there is room: an appliance", async () => {
    const server = await startOnDisk(32, "up", "--set", "core.flushIntervalMs=100");
    const acknowledged = await fill(server.gatewayHttp);
    await rm(`/proc/${server.pid}/root${disk}/other`);
    await takeLast(server.gatewayHttp);
    await untilEmpty(server.gatewayHttp);
    expect(await numbers(server.coreHttp)).toEqual([...acknowledged, LAST]);
    expect(await numbers(server.gatewayHttp)).toEqual([...acknowledged, LAST]);
    expect(await tributary(["verify", "--server", server.coreHttp])).toMatchObject({ code: 0 });
    expect(await server.stop()).toBe(0);
  });

  test("and a gateway makes room by itself once its core is there", async () => {
    const nats = await startNatsServer({ maxPayload: 8_388_608 });
    stops.push(() => nats.stop());
    const gateway = await startOnDisk(112, "edge", "--nats", nats.url);
    const acknowledged = await fill(gateway.gatewayHttp);
    await until("the gateway to be read", async () => {
      return (await http("GET", `${gateway.gatewayHttp}/v1/stream/${STREAM}?offset=-1`)).status === 200;
    });
    expect(await numbers(gateway.gatewayHttp)).toEqual(acknowledged);

    const elsewhere = await newFolder();
    stops.push(elsewhere.remove);
    const core = await startServer("core", [
      ...["--data", elsewhere.folder, "--nats", nats.url, "--set", "core.flushIntervalMs=100"],
      ...["--set", `nats.monitorUrl=${nats.monitoringUrl}`],
    ]);
    stops.push(() => core.kill());
    await takeLast(gateway.gatewayHttp);
    await untilEmpty(gateway.gatewayHttp);
    expect(await numbers(core.coreHttp)).toEqual([...acknowledged, LAST]);
    expect(await tributary(["verify", "--server", core.coreHttp])).toMatchObject({ code: 0 });
  });
});
