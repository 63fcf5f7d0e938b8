import { rm } from "node:fs/promises";
import { join } from "node:path";
import { canMountSmallDisk } from "@tributary/common/testing/small-disk";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { append, http, readAll } from "./testing/http.ts";
import { type GatewayFacts, newFolder, type Server, startServer, statusOf, tributary, until } from "./testing/tributary.ts";

/** Runs the rest of its arguments where `$DISK` is a disk of its own, half of it taken by something else. */
const ON_SMALL_DISK = 'mount -t tmpfs -o size=32m tmpfs "$DISK" && head -c 16777216 /dev/urandom > "$DISK/other" && exec "$0" "$@"';
const EVENT = 131_072;

describe.skipIf(!canMountSmallDisk)("a full disk", () => {
  let folder: string;
  let remove: () => Promise<void>;
  let server: Server;
  beforeAll(async () => {
    ({ folder, remove } = await newFolder());
    const script = `DISK='${folder}'; ${ON_SMALL_DISK}`;
    server = await startServer(
      "up",
      ["--data", join(folder, "data"), "--set", "edge.vitalsIntervalMs=0", "--set", "core.flushIntervalMs=100"],
      {
        program: ["unshare", "-rm", "bash", "-c", script, process.execPath],
      },
    );
  });
  afterAll(async () => {
    await server.kill();
    await remove();
  });

  const body = (n: number): Uint8Array<ArrayBuffer> => {
    const bytes = new Uint8Array(EVENT);
    for (let at = 0; at < EVENT; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
    new DataView(bytes.buffer).setUint32(0, n);
    return bytes;
  };
  const numbers = async (url: string) => (await readAll(url, "disk/full")).map((record) => Buffer.from(record.data).readUInt32BE(0));

  test("is told as such, loses nothing, and all goes on once there is room", async () => {
    await http("PUT", `${server.gatewayHttp}/v1/stream/disk/full`);
    const acknowledged: number[] = [];
    let refusals = 0;
    for (let n = 0; refusals < 5; n++) {
      const answer = await append(server.gatewayHttp, "disk/full", body(n));
      if (answer.status === 204) acknowledged.push(n);
      else {
        expect(answer).toMatchObject({ status: 507, code: "STORAGE_FULL" });
        refusals++;
      }
      expect(n).toBeLessThan(1_000);
    }
    expect(acknowledged.length).toBeGreaterThan(10);
    expect(await numbers(server.gatewayHttp)).toEqual(acknowledged);

    await rm(`/proc/${server.pid}/root${folder}/other`);
    await until("an event to be taken again", async () => (await append(server.gatewayHttp, "disk/full", body(9_999))).status === 204);
    acknowledged.push(9_999);
    await until("all to reach the lake", async () => (await statusOf<GatewayFacts>(server.gatewayHttp)).usage.eventsHeld === 0);
    expect(await numbers(server.coreHttp)).toEqual(acknowledged);
    expect(await numbers(server.gatewayHttp)).toEqual(acknowledged);
    expect(await tributary(["verify", "--server", server.coreHttp])).toMatchObject({ code: 0 });
    expect(server.log()).toContain("STORAGE_FULL");
    expect(await server.stop()).toBe(0);
  });
});
