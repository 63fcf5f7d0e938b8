import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { busContract } from "../contracts/bus.contract.ts";
import { type NatsServer, startNatsServer } from "../testing/nats-server.ts";
import { NatsBus } from "./nats-bus.ts";
import { connectNats } from "./nats-connection.ts";

let server: NatsServer;
beforeAll(async () => {
  server = await startNatsServer({ jetstream: false });
});
afterAll(() => server.stop());

async function twoEnds(on: NatsServer) {
  const links = await Promise.all([connectNats({ url: on.url }), connectNats({ url: on.url })]);
  const [client, other] = links.map((link) => new NatsBus(link)) as [NatsBus, NatsBus];
  const close = async () => {
    await Promise.all([client.close(), other.close()]);
    await Promise.all(links.map((link) => link.close()));
  };
  return { client, server: other, links, close };
}

busContract("NatsBus", () => twoEnds(server));

describe("NatsBus when the server goes", () => {
  test("fails what is in flight as uncertain, refuses new requests at once, and comes back", async () => {
    const fragile = await startNatsServer({ jetstream: false });
    onTestFinished(() => fragile.stop());
    const ends = await twoEnds(fragile);
    onTestFinished(() => ends.close());
    const states: boolean[] = [];
    ends.client.onStatus((connected) => states.push(connected));
    let calls = 0;
    await ends.server.serve("slow", {}, async () => {
      if (++calls === 1) await new Promise<void>((resolve) => onTestFinished(() => resolve()));
      return new Uint8Array([7]);
    });
    const inFlight = ends.client.request("slow", new Uint8Array(3_000_000), { timeoutMs: 50_000 });
    const outcome = inFlight.catch((error: unknown) => error);
    await vi.waitFor(() => expect(calls).toBe(1), 10_000);
    await fragile.kill();
    expect(await outcome).toMatchObject({ code: "BUS_TIMEOUT" });
    await vi.waitFor(() => expect(ends.client.connected()).toBe(false), 10_000);
    await expect(ends.client.request("slow", new Uint8Array(), { timeoutMs: 50_000 })).rejects.toMatchObject({ code: "BUS_UNREACHABLE" });
    ends.client.publish("nobody", new Uint8Array(10));
    await fragile.restart();
    await vi.waitFor(
      async () => expect(await ends.client.request("slow", new Uint8Array(2_000_000), { timeoutMs: 5_000 })).toEqual(new Uint8Array([7])),
      20_000,
    );
    expect(states).toEqual([false, true]);
  });

  test("a server too small for one part still carries everything", async () => {
    const small = await startNatsServer({ jetstream: false, maxPayload: 4_096 });
    onTestFinished(() => small.stop());
    const ends = await twoEnds(small);
    onTestFinished(() => ends.close());
    await ends.server.serve("echo", {}, async (payload) => payload);
    const sent = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7) & 0xff);
    expect(Buffer.compare(await ends.client.request("echo", sent, { timeoutMs: 10_000 }), sent)).toBe(0);
  });
});
