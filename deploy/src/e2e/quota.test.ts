import { join } from "node:path";
import { freePorts } from "@tributary/common/testing/free-ports";
import { startNatsServer } from "@tributary/common/testing/nats-server";
import { afterAll, beforeAll, expect, test } from "vitest";
import { append, http, readAll, readPayloads } from "./testing/http.ts";
import { type GatewayFacts, newFolder, type Server, startServer, statusOf, tributary, until } from "./testing/tributary.ts";

let folder: string;
let remove: () => Promise<void>;
const stops: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  ({ folder, remove } = await newFolder());
});
afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
  await remove();
});

const CAP = 16_777_216;
/** Random, so that compression makes nothing of it. */
const EVENT = 262_144;
const body = (n: number): Uint8Array<ArrayBuffer> => {
  const bytes = new Uint8Array(EVENT);
  for (let at = 0; at < EVENT; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  new DataView(bytes.buffer).setUint32(0, n);
  return bytes;
};

const facts = (server: Server) => statusOf<GatewayFacts>(server.gatewayHttp);

/** Fills two gateways, one for each policy, while their core is away; then the core comes. */
test("a full quota is refused or drops the oldest with a record; freeing makes room again", { timeout: 180_000 }, async () => {
  const [port] = (await freePorts(1)) as [number];
  const start = async (policy: string) => {
    const server = await startServer("edge", [
      ...["--data", join(folder, policy), "--nats", `nats://127.0.0.1:${port}`, "--set", "edge.vitalsIntervalMs=0"],
      ...["--set", `edge.diskBytesMax=${CAP}`, "--set", `edge.diskPolicy=${policy}`],
    ]);
    stops.push(() => server.kill());
    expect((await http("PUT", `${server.gatewayHttp}/v1/stream/quota/${policy}`)).status).toBe(201);
    return server;
  };
  const [rejecting, dropping] = await Promise.all([start("reject"), start("drop-oldest")]);

  let accepted = 0;
  let size = EVENT;
  await until("the quota to be used up", async () => {
    const answer = await append(rejecting.gatewayHttp, "quota/reject", body(accepted).subarray(0, size));
    if (answer.status === 204) accepted++;
    else {
      expect(answer).toMatchObject({ status: 507, code: "QUOTA_EXCEEDED" });
      expect(answer.headers.get("Retry-After")).not.toBeNull();
      // Where a large event has no room any more, a small one may have.
      size = Math.max(16_384, size / 2);
    }
    return (await facts(rejecting)).overQuota;
  });
  expect(accepted).toBeGreaterThan(0);
  expect((await facts(rejecting)).usage.diskBytes).toBeLessThanOrEqual(CAP);
  expect((await append(rejecting.gatewayHttp, "quota/reject", "too much")).code).toBe("QUOTA_EXCEEDED");

  const sent = Math.ceil((CAP * 1.5) / EVENT);
  for (let n = 0; n < sent; n++) {
    await until(`event ${n} to be taken`, async () => (await append(dropping.gatewayHttp, "quota/drop-oldest", body(n))).status === 204);
  }
  const { eventsDropped, usage } = await facts(dropping);
  expect(eventsDropped).toBeGreaterThan(0);
  expect(usage.diskBytes).toBeLessThanOrEqual(CAP);

  const nats = await startNatsServer({ port, maxPayload: 8_388_608 });
  stops.push(() => nats.stop());
  const core = await startServer("core", [
    ...["--data", join(folder, "core"), "--nats", nats.url, "--set", "core.flushIntervalMs=100"],
    ...["--set", `nats.monitorUrl=${nats.monitoringUrl}`],
  ]);
  stops.push(() => core.kill());
  await until("both gateways to be empty", async () => {
    const both = await Promise.all([facts(rejecting), facts(dropping)]);
    return both.every((gateway) => gateway.usage.eventsHeld === 0 && !gateway.overQuota);
  });
  expect((await append(rejecting.gatewayHttp, "quota/reject", "room again")).status).toBe(204);
  await until("the last event", async () => (await readPayloads(core.coreHttp, "quota/reject")).length === accepted + 1);

  const numbers = (await readAll(core.coreHttp, "quota/drop-oldest"))
    .filter((record) => record.kind === "event")
    .map((record) => Buffer.from(record.data).readUInt32BE(0));
  expect(numbers).toEqual(Array.from({ length: sent - eventsDropped }, (_, i) => eventsDropped + i));
  const verified = await tributary(["verify", "quota/drop-oldest", "quota/reject", "--json", "--server", core.coreHttp]);
  expect(verified.code).toBe(0);
  const [dropReport, rejectReport] = verified.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as object);
  expect(dropReport).toMatchObject({ events: sent - eventsDropped, eventsDeclaredLost: eventsDropped, missing: 0, doubled: 0 });
  expect(rejectReport).toMatchObject({ events: accepted + 1, eventsDeclaredLost: 0, missing: 0, doubled: 0 });
});
