import { describe, expect, onTestFinished, test, vi } from "vitest";
import { TributaryError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Bus } from "../ports/bus.ts";

/** Two ends of one bus. An engine inside one process may give the same object twice. */
export interface BusFixture {
  readonly client: Bus;
  readonly server: Bus;
  close(): Promise<void>;
}

const ANSWER_MS = 20_000;

/** What every Bus does. `setup` makes a bus that nobody else uses. */
export function busContract(name: string, setup: () => Promise<BusFixture>): void {
  const start = async (): Promise<BusFixture> => {
    const fixture = await setup();
    onTestFinished(() => fixture.close());
    return fixture;
  };

  describe(`Bus contract: ${name}`, () => {
    test("carries a request to the handler and its answer back", async () => {
      const { client, server } = await start();
      await server.serve("calc.*", {}, async (payload, subject) => text(`${subject}:${string(payload)}`));
      expect(string(await client.request("calc.double", text("21"), { timeoutMs: ANSWER_MS }))).toBe("calc.double:21");
    });

    test("carries an empty payload both ways", async () => {
      const { client, server } = await start();
      await server.serve("empty", {}, async (payload) => payload);
      expect(await client.request("empty", new Uint8Array(), { timeoutMs: ANSWER_MS })).toHaveLength(0);
    });

    test("gives requests of one requester to one subject to the handler in the order sent, large ones among them", async () => {
      const { client, server } = await start();
      const seen: number[] = [];
      await server.serve("ordered", { group: "g" }, async (payload) => {
        seen.push(new DataView(payload.buffer, payload.byteOffset).getUint32(0));
        return new Uint8Array();
      });
      const sizes = Array.from({ length: 120 }, (_, i) => (i % 40 === 7 ? 2_500_000 : 4 + (i % 900)));
      await Promise.all(sizes.map((size, i) => client.request("ordered", numbered(i, size), { timeoutMs: ANSWER_MS })));
      expect(seen).toEqual(sizes.map((_, i) => i));
    });

    test("runs handlers concurrently", async () => {
      const { client, server } = await start();
      const waiting: (() => void)[] = [];
      await server.serve("rendezvous", {}, async (payload) => {
        await new Promise<void>((resolve) => {
          waiting.push(resolve);
          if (waiting.length === 3) for (const release of waiting) release();
        });
        return payload;
      });
      const answers = await Promise.all(["a", "b", "c"].map((t) => client.request("rendezvous", text(t), { timeoutMs: ANSWER_MS })));
      expect(answers.map(string)).toEqual(["a", "b", "c"]);
    });

    test("gives each request to one member of a group", async () => {
      const { client, server } = await start();
      const calls: number[] = [];
      for (const member of [0, 1, 2]) {
        await server.serve("shared", { group: "workers" }, async () => {
          calls.push(member);
          return text(String(member));
        });
      }
      await Promise.all(Array.from({ length: 60 }, () => client.request("shared", text("x"), { timeoutMs: ANSWER_MS })));
      expect(calls).toHaveLength(60);
    });

    test("gives a large request whole to one member of a group", async () => {
      const { client, server } = await start();
      const sizes: number[] = [];
      for (let member = 0; member < 3; member++) {
        await server.serve("shared.large", { group: "workers" }, async (payload) => {
          sizes.push(payload.length);
          return payload.subarray(0, 4);
        });
      }
      const answers = await Promise.all(
        Array.from({ length: 5 }, (_, i) => client.request("shared.large", numbered(i, 3_000_000), { timeoutMs: ANSWER_MS })),
      );
      expect(answers.map((a) => new DataView(a.buffer, a.byteOffset).getUint32(0))).toEqual([0, 1, 2, 3, 4]);
      expect(sizes).toEqual(Array(5).fill(3_000_000));
    });

    test.each([
      ["one byte", 1],
      ["64 KiB", 65_536],
      ["around 1 MiB, less", 1_048_575],
      ["1 MiB", 1_048_576],
      ["around 1 MiB, more", 1_048_577],
      ["3 MB", 3_000_001],
      ["the largest frame", LIMITS.frameBytesMax],
    ])("carries %s unchanged, as request and as answer", async (_, size) => {
      const { client, server } = await start();
      await server.serve("echo", {}, async (payload) => payload);
      const sent = patterned(size);
      const answer = await client.request("echo", sent, { timeoutMs: ANSWER_MS });
      expect(answer.length).toBe(size);
      expect(Buffer.compare(answer, sent)).toBe(0);
    });

    test("keeps concurrent large requests apart", async () => {
      const { client, server } = await start();
      await server.serve("echo.*", {}, async (payload) => payload);
      const sent = Array.from({ length: 4 }, (_, i) => numbered(i, 2_200_000 + i));
      const answers = await Promise.all(sent.map((p, i) => client.request(`echo.${i % 2}`, p, { timeoutMs: ANSWER_MS })));
      for (const [i, answer] of answers.entries()) expect(Buffer.compare(answer, sent[i] as Uint8Array)).toBe(0);
    });

    test("brings a handler's error to the requester with code, message and details", async () => {
      const { client, server } = await start();
      await server.serve("refuses", {}, async () => {
        throw new TributaryError("STREAM_UNKNOWN", "there is no stream 'x/ü'", { stream: "x/ü", count: 3, final: true });
      });
      await expect(client.request("refuses", text(""), { timeoutMs: ANSWER_MS })).rejects.toMatchObject({
        name: "TributaryError",
        code: "STREAM_UNKNOWN",
        message: "there is no stream 'x/ü'",
        details: { stream: "x/ü", count: 3, final: true },
      });
    });

    test("brings a defect of a handler as INTERNAL", async () => {
      const { client, server } = await start();
      await server.serve("breaks", {}, async () => {
        throw new RangeError("off by one");
      });
      await expect(client.request("breaks", text(""), { timeoutMs: ANSWER_MS })).rejects.toMatchObject({ code: "INTERNAL" });
    });

    test("says at once that nobody serves a subject", async () => {
      const { client } = await start();
      const request = (payload: Uint8Array) => client.request("nobody.here", payload, { timeoutMs: ANSWER_MS });
      await expect(request(text("small"))).rejects.toMatchObject({ code: "BUS_NO_RESPONDER" });
      await expect(request(patterned(2_500_000))).rejects.toMatchObject({ code: "BUS_NO_RESPONDER" });
    });

    test("gives up on a handler that does not answer in time", async () => {
      const { client, server } = await start();
      let release = (): void => {};
      await server.serve("silent", {}, async () => {
        await new Promise<void>((resolve) => {
          release = resolve;
        });
        return text("too late");
      });
      await expect(client.request("silent", text(""), { timeoutMs: 60 })).rejects.toMatchObject({ code: "BUS_TIMEOUT" });
      release();
    });

    test("publishes to every subscriber whose pattern matches, in order, large payloads too", async () => {
      const { client, server } = await start();
      const seen: Record<"exact" | "star" | "tail" | "other", string[]> = { exact: [], star: [], tail: [], other: [] };
      const note = (who: keyof typeof seen) => (payload: Uint8Array, subject: string) =>
        void seen[who].push(`${subject} ${payload.length}`);
      await server.subscribe("news.eu.rain", note("exact"));
      await server.subscribe("news.*.rain", note("star"));
      await client.subscribe("news.>", note("tail"));
      await client.subscribe("newspaper.>", note("other"));
      client.publish("news.eu.rain", text("1"));
      client.publish("news.us.rain", patterned(2_500_000));
      client.publish("news.us.rain", text("3"));
      client.publish("news.us", text("22"));
      await vi.waitFor(() => expect(seen.tail).toHaveLength(4), ANSWER_MS);
      await vi.waitFor(() => expect(seen.star).toHaveLength(3), ANSWER_MS);
      expect(seen).toEqual({
        exact: ["news.eu.rain 1"],
        star: ["news.eu.rain 1", "news.us.rain 2500000", "news.us.rain 1"],
        tail: ["news.eu.rain 1", "news.us.rain 2500000", "news.us.rain 1", "news.us 2"],
        other: [],
      });
    });

    test("a closed subscription takes nothing more, and its close waits for the handlers that are running", async () => {
      const { client, server } = await start();
      const events: string[] = [];
      let release = (): void => {};
      const served = await server.serve("leaving", {}, async () => {
        events.push("handler began");
        await new Promise<void>((resolve) => {
          release = resolve;
        });
        events.push("handler ended");
        return text("done");
      });
      const answer = client.request("leaving", text(""), { timeoutMs: ANSWER_MS });
      await vi.waitFor(() => expect(events).toEqual(["handler began"]), ANSWER_MS);
      const closed = served.close().then(() => events.push("closed"));
      release();
      expect(string(await answer)).toBe("done");
      await closed;
      expect(events).toEqual(["handler began", "handler ended", "closed"]);
      await expect(client.request("leaving", text(""), { timeoutMs: ANSWER_MS })).rejects.toMatchObject({ code: "BUS_NO_RESPONDER" });
    });

    test("a closed listener hears nothing more", async () => {
      const { client, server } = await start();
      const heard: string[] = [];
      const listener = await server.subscribe("gossip", (payload) => void heard.push(string(payload)));
      await server.subscribe("gossip", (payload) => void heard.push(`second ${string(payload)}`));
      client.publish("gossip", text("a"));
      await vi.waitFor(() => expect(heard.toSorted()).toEqual(["a", "second a"]), ANSWER_MS);
      await listener.close();
      client.publish("gossip", text("b"));
      await vi.waitFor(() => expect(heard).toContain("second b"), ANSWER_MS);
      expect(heard).not.toContain("b");
    });

    test("is connected until it is closed; then requests fail and do not hang", async () => {
      const { client } = await start();
      expect(client.connected()).toBe(true);
      await client.close();
      await expect(client.request("any", text(""), { timeoutMs: ANSWER_MS })).rejects.toMatchObject({ code: "BUS_UNREACHABLE" });
      expect(client.connected()).toBe(false);
    });
  });
}

function text(value: string): Uint8Array {
  return new TextEncoder().encode(value);
}

function string(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/** Bytes whose order shows: a part lost, doubled or swapped changes them. */
function patterned(size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i++) bytes[i] = (i ^ (i >>> 8) ^ (i >>> 16)) & 0xff;
  return bytes;
}

function numbered(number: number, size: number): Uint8Array {
  const bytes = patterned(size);
  new DataView(bytes.buffer).setUint32(0, number);
  return bytes;
}
