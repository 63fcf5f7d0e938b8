import { execFile, execFileSync } from "node:child_process";
import { createServer } from "node:net";
import { promisify } from "node:util";
import { type Clock, systemClock } from "@tributary/common/clock";
import { TributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import { createLogger } from "@tributary/common/logger";
import { systemRandom } from "@tributary/common/random";
import mqtt from "mqtt";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { Credentials } from "./credentials.ts";
import { createMqttCounters, type MqttCounters } from "./mqtt-counters.ts";
import { createMqttListener, type MqttListener } from "./mqtt-listener.ts";
import { FakeIngest } from "./testing/fake-ingest.ts";
import { MqttPeer } from "./testing/mqtt-peer.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface Started {
  readonly ingest: FakeIngest;
  readonly listener: MqttListener;
  readonly counters: MqttCounters;
  readonly log: string[];
}

async function start(options: { ingest?: FakeIngest; credentials?: Credentials; port?: number; clock?: Clock } = {}): Promise<Started> {
  const ingest = options.ingest ?? new FakeIngest();
  const counters = createMqttCounters();
  const log: string[] = [];
  const clock = options.clock ?? systemClock;
  const listener = await createMqttListener({
    ingest,
    clock,
    random: systemRandom,
    log: createLogger({ level: "debug", clock, write: (line) => log.push(line) }),
    counters,
    options: { host: "127.0.0.1", port: options.port ?? 0, credentials: options.credentials },
  });
  cleanups.push(() => {
    ingest.automatic = true;
    ingest.commit();
    return listener.close();
  });
  return { ingest, listener, counters, log };
}

async function peer(port: number, options: Parameters<typeof MqttPeer.connect>[1] = {}): Promise<MqttPeer> {
  const connection = await MqttPeer.connect(port, options);
  cleanups.push(() => connection.destroy());
  return connection;
}

async function client(port: number, options: mqtt.IClientOptions = {}): Promise<mqtt.MqttClient> {
  const connection = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, { reconnectPeriod: 20, ...options });
  connection.on("error", () => {});
  cleanups.push(() => connection.endAsync(true));
  return connection;
}

/** Time that passes only when a test says so. */
class ManualClock implements Clock {
  #now = 1_000_000;
  #timers: { at: number; callback: () => void }[] = [];
  nowMs(): number {
    return this.#now;
  }
  monotonicMs(): number {
    return this.#now;
  }
  setTimer(delayMs: number, callback: () => void): () => void {
    const timer = { at: this.#now + delayMs, callback };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  }
  advance(ms: number): void {
    const until = this.#now + ms;
    for (;;) {
      const due = this.#timers.filter((timer) => timer.at <= until).sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      this.#timers = this.#timers.filter((timer) => timer !== due);
      this.#now = due.at;
      due.callback();
    }
    this.#now = until;
  }
}

describe("a real client", () => {
  it.each([0, 1, 2] as const)("publishes with QoS %i, in order", async (qos) => {
    const { ingest, listener, counters } = await start();
    const device = await client(listener.port, { clientId: "device-1" });
    const sent = Array.from({ length: 200 }, (_, i) => `event ${i}`);
    await Promise.all(sent.map((data) => device.publishAsync("plant/temperature/oven/2", data, { qos })));
    await device.publishAsync("plant/temperature", "own key", { qos });
    await device.publishAsync("lonely", "default scope", { qos });
    await vi.waitFor(() => expect(ingest.events).toHaveLength(202));
    expect(ingest.events.slice(0, 200)).toEqual(sent.map((data) => ({ stream: "plant/temperature", key: "oven/2", data })));
    expect(ingest.events[200]).toEqual({ stream: "plant/temperature", key: "device-1", data: "own key" });
    expect(ingest.events[201]).toEqual({ stream: "default/lonely", key: "device-1", data: "default scope" });
    expect(counters.publishes[qos]).toBe(202);
    if (qos === 2) await vi.waitFor(() => expect(ingest.hasPacketIds("device-1")).toBe(false));
  });

  it("speaks MQTT 3.1", async () => {
    const { ingest, listener } = await start();
    const device = await client(listener.port, { clientId: "old", protocolId: "MQIsdp", protocolVersion: 3 });
    await device.publishAsync("s/t", "x", { qos: 1 });
    expect(ingest.events).toHaveLength(1);
  });

  it("publishes 1 MiB, and more is refused", async () => {
    const { ingest, listener, counters } = await start();
    const device = await client(listener.port);
    await device.publishAsync("s/big", Buffer.alloc(LIMITS.eventBytesMax, "x"), { qos: 1 });
    expect(ingest.events[0]?.data).toHaveLength(LIMITS.eventBytesMax);

    const raw = await peer(listener.port);
    raw.publish("s/big", Buffer.alloc(LIMITS.eventBytesMax + 1), 1, 1);
    await raw.ended;
    const second = await peer(listener.port);
    second.publish("s/big", Buffer.alloc(LIMITS.mqttPacketBytesMax), 1, 1);
    await second.ended;
    expect(counters.closed).toMatchObject({ "event-too-large": 1, "packet-too-large": 1 });
    expect(ingest.events).toHaveLength(1);
  });

  it("sends every QoS 2 event exactly once through restarts of the listener and lost commits", async () => {
    const ingest = new FakeIngest();
    let running = await start({ ingest });
    const { port } = running.listener;
    const device = await client(port, { clientId: "careful", clean: false });
    const sent = Array.from({ length: 400 }, (_, i) => String(i));
    let failed: unknown;
    const done = Promise.all(sent.map((data) => device.publishAsync("s/once", data, { qos: 2 }))).catch((error: unknown) => {
      failed = error;
    });
    for (const atLeast of [50, 150, 250]) {
      await vi.waitFor(() => expect(ingest.events.length).toBeGreaterThanOrEqual(atLeast), { interval: 1 });
      // What a kill does: what is not durable is gone, and so are all connections.
      ingest.automatic = false;
      ingest.restart();
      await running.listener.close();
      ingest.automatic = true;
      running = await start({ ingest, port });
    }
    await done;
    expect(failed).toBeUndefined();
    expect(ingest.events.map((event) => event.data).toSorted((a, b) => Number(a) - Number(b))).toEqual(sent);
    await vi.waitFor(() => expect(ingest.hasPacketIds("careful")).toBe(false));
  });

  it("gets its QoS 1 events through failed commits", async () => {
    const { ingest, listener, counters } = await start();
    ingest.automatic = false;
    const connecting = client(listener.port, { clientId: "stubborn", clean: false });
    const device = await connecting;
    const published = device.publishAsync("s/t", "one", { qos: 1 });
    await vi.waitFor(() => expect(ingest.pending).toBe(1));
    ingest.automatic = true;
    ingest.fail(new TributaryError("STORAGE_FULL", "no space left"));
    await published;
    expect(ingest.events.map((event) => event.data)).toEqual(["one"]);
    expect(counters.closed["commit-failed"]).toBe(1);
  });

  it("is mosquitto_pub, where it is installed", async ({ skip }) => {
    try {
      execFileSync("mosquitto_pub", ["--help"], { stdio: "ignore" });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") skip("mosquitto_pub is not installed");
    }
    const { ingest, listener } = await start({ credentials: { username: "u", password: "p" } });
    const run = promisify(execFile);
    for (const qos of ["0", "1", "2"]) {
      await run("mosquitto_pub", ["-p", `${listener.port}`, "-i", "mosq", "-u", "u", "-P", "p", "-t", "a/b/c", "-m", `m${qos}`, "-q", qos]);
    }
    await vi.waitFor(() => expect(ingest.events.map((event) => event.data)).toEqual(["m0", "m1", "m2"]));
  });
});

describe("acknowledgements", () => {
  it("come after the commit, in order, and not before", async () => {
    const { ingest, listener, counters } = await start();
    const device = await peer(listener.port);
    ingest.automatic = false;
    device.publish("s/t", "a", 1, 7);
    device.publish("s/t", "b", 2, 8);
    device.publish("s/t", "c", 0);
    device.publish("s/t", "d", 1, 9);
    expect(await device.beforePong()).toEqual([]);
    expect(counters.acknowledged).toBe(0);
    ingest.commit();
    expect(await device.next()).toMatchObject({ cmd: "puback", messageId: 7 });
    expect(await device.next()).toMatchObject({ cmd: "pubrec", messageId: 8 });
    expect(await device.next()).toMatchObject({ cmd: "puback", messageId: 9 });
    expect(counters.acknowledged).toBe(3);
  });

  it("answers a repeated QoS 2 publish when the original is durable, and appends it once", async () => {
    const { ingest, listener, counters } = await start();
    const device = await peer(listener.port, { clean: false });
    ingest.automatic = false;
    device.publish("s/t", "a", 2, 5);
    device.publish("s/t", "a", 2, 5, true);
    expect(await device.beforePong()).toEqual([]);
    ingest.commit();
    expect(await device.next()).toMatchObject({ cmd: "pubrec", messageId: 5 });
    expect(await device.next()).toMatchObject({ cmd: "pubrec", messageId: 5 });
    expect(ingest.events).toHaveLength(1);
    expect(counters.duplicates).toBe(1);

    // The release is durable before PUBCOMP, also for the repetition of it.
    device.send({ cmd: "pubrel", messageId: 5 }, { cmd: "pubrel", messageId: 5 });
    expect(await device.beforePong()).toEqual([]);
    ingest.commit();
    expect(await device.next()).toMatchObject({ cmd: "pubcomp", messageId: 5 });
    expect(await device.next()).toMatchObject({ cmd: "pubcomp", messageId: 5 });

    // The id now stands for another event.
    device.publish("s/t", "b", 2, 5);
    expect(await device.beforePong()).toEqual([]);
    ingest.commit();
    expect(await device.next()).toMatchObject({ cmd: "pubrec", messageId: 5 });
    expect(ingest.events.map((event) => event.data)).toEqual(["a", "b"]);
  });

  // Simulation, seed 123: a backup that is put back holds ids that were released since.
  it.each([false, true])("takes other bytes under a held packet id as another event (DUP: %s)", async (dup) => {
    const { ingest, listener, counters } = await start();
    const device = await peer(listener.port, { clean: false });
    for (const [topic, payload] of [
      ["s/t", "a"],
      ["s/t", "b"],
      ["s/u", "b"],
    ] as const) {
      device.publish(topic, payload, 2, 5, dup);
      expect(await device.next()).toMatchObject({ cmd: "pubrec", messageId: 5 });
    }
    device.publish("s/u", "b", 2, 5, !dup);
    expect(await device.next()).toMatchObject({ cmd: "pubrec", messageId: 5 });
    expect(ingest.events.map(({ stream, data }) => [stream, data])).toEqual([
      ["s/t", "a"],
      ["s/t", "b"],
      ["s/u", "b"],
    ]);
    expect(counters.duplicates).toBe(1);
  });

  it("completes the release of an id that it does not know", async () => {
    const { listener } = await start();
    const device = await peer(listener.port);
    device.send({ cmd: "pubrel", messageId: 77 });
    expect(await device.next()).toMatchObject({ cmd: "pubcomp", messageId: 77 });
  });

  it("knows QoS 2 ids after a restart, and forgets them with a clean session before it accepts it", async () => {
    const ingest = new FakeIngest();
    const first = await start({ ingest });
    const before = await peer(first.listener.port, { clientId: "d", clean: false });
    before.publish("s/t", "a", 2, 5);
    expect(await before.next()).toMatchObject({ cmd: "pubrec" });
    await first.listener.close();
    ingest.restart();

    const second = await start({ ingest });
    const back = await MqttPeer.open(second.listener.port);
    cleanups.push(() => back.destroy());
    back.sendConnect({ clientId: "d", clean: false });
    expect(await back.next()).toMatchObject({ cmd: "connack", sessionPresent: true });
    back.publish("s/t", "a", 2, 5, true);
    expect(await back.next()).toMatchObject({ cmd: "pubrec" });
    expect(ingest.events).toHaveLength(1);

    ingest.automatic = false;
    const clean = await MqttPeer.open(second.listener.port);
    cleanups.push(() => clean.destroy());
    clean.sendConnect({ clientId: "d", clean: true });
    // Sent without waiting for CONNACK, as a client may.
    clean.publish("s/t", "b", 2, 5);
    await vi.waitFor(() => expect(ingest.pending).toBe(1));
    ingest.commit();
    expect(await clean.next()).toMatchObject({ cmd: "connack", sessionPresent: false, returnCode: 0 });
    await vi.waitFor(() => expect(ingest.pending).toBe(1));
    ingest.commit();
    expect(await clean.next()).toMatchObject({ cmd: "pubrec", messageId: 5 });
    expect(ingest.events.map((event) => event.data)).toEqual(["a", "b"]);
  });

  it("accepts a clean session once there is room to record it", async () => {
    const { ingest, listener, counters } = await start();
    const before = await peer(listener.port, { clientId: "d", clean: false });
    before.publish("s/t", "a", 2, 5);
    expect(await before.next()).toMatchObject({ cmd: "pubrec" });
    ingest.admission = "full";
    const clean = await MqttPeer.open(listener.port);
    cleanups.push(() => clean.destroy());
    clean.sendConnect({ clientId: "d" });
    await vi.waitFor(() => expect(counters.waits).toBe(1));
    ingest.admission = "accepted";
    ingest.commit();
    expect(await clean.next()).toMatchObject({ cmd: "connack", returnCode: 0 });
    expect(ingest.hasPacketIds("d")).toBe(false);
  });

  it("refuses the connection when the clean session cannot be made durable", async () => {
    const { ingest, listener } = await start();
    ingest.automatic = false;
    const waiting = await MqttPeer.open(listener.port);
    cleanups.push(() => waiting.destroy());
    const other = await peer(listener.port, { clientId: "other", clean: false });
    other.publish("s/t", "a", 1, 1);
    await vi.waitFor(() => expect(ingest.pending).toBe(1));
    waiting.sendConnect({ clientId: "w" });
    await vi.waitFor(() => expect(ingest.pending).toBe(2));
    ingest.fail(new TributaryError("STORAGE_FULL", "no space left"));
    expect(await waiting.next()).toMatchObject({ cmd: "connack", returnCode: 3 });
    await waiting.ended;
    expect(await other.next()).toBeUndefined();
  });

  it("answers what was taken before it closes", async () => {
    const { ingest, listener } = await start();
    const device = await peer(listener.port);
    ingest.automatic = false;
    device.publish("s/t", "a", 1, 3);
    await vi.waitFor(() => expect(ingest.pending).toBe(1));
    const closing = listener.close();
    ingest.commit();
    await closing;
    expect(await device.next()).toMatchObject({ cmd: "puback", messageId: 3 });
    expect(await device.next()).toBeUndefined();
  });
});

describe("back-pressure", () => {
  it("waits for room, loses nothing and keeps the order", async () => {
    const { ingest, listener, counters } = await start();
    ingest.roomMax = 7;
    const devices = await Promise.all(["a", "b", "c"].map((id) => client(listener.port, { clientId: id })));
    const sent = Array.from({ length: 300 }, (_, i) => i);
    await Promise.all(devices.flatMap((device) => sent.map((i) => device.publishAsync("s/t", String(i), { qos: (i % 3) as 0 | 1 | 2 }))));
    await vi.waitFor(() => expect(ingest.events).toHaveLength(900));
    for (const key of ["a", "b", "c"]) {
      expect(ingest.events.filter((event) => event.key === key).map((event) => Number(event.data))).toEqual(sent);
    }
    expect(counters.waits).toBeGreaterThan(0);
  });

  it("takes a bounded number of unanswered publishes", async () => {
    const { ingest, listener } = await start();
    const device = await peer(listener.port);
    ingest.automatic = false;
    const extra = 10;
    for (let id = 1; id <= LIMITS.mqttUnansweredMax + extra; id++) device.publish("s/t", "x", 1, id);
    await vi.waitFor(() => expect(ingest.pending).toBe(LIMITS.mqttUnansweredMax));
    ingest.commit();
    await vi.waitFor(() => expect(ingest.pending).toBe(extra));
    ingest.commit();
    for (let id = 1; id <= LIMITS.mqttUnansweredMax + extra; id++) expect(await device.next()).toMatchObject({ messageId: id });
  });

  it("stops reading from a client that has to wait", async () => {
    const { ingest, listener } = await start();
    const device = await peer(listener.port);
    ingest.admission = "full";
    const payload = Buffer.alloc(100_000, "x");
    let id = 1;
    // Until the kernel's buffers are full: nobody reads any more.
    while (device.socket.writableLength < 4_000_000) {
      device.publish("s/t", payload, 1, id++);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(ingest.events).toHaveLength(0);
    ingest.admission = "accepted";
    ingest.commit();
    for (let acked = 1; acked < id; acked++) expect(await device.next()).toMatchObject({ cmd: "puback", messageId: acked });
  });

  it.each([
    ["quota", "quota"],
    ["stopping", "stopping"],
    ["closed", "stream-closed"],
  ] as const)("closes when the answer is %s", async (admission, reason) => {
    const { ingest, listener, counters } = await start();
    const device = await peer(listener.port);
    ingest.admission = admission;
    device.publish("s/t", "a", 1, 1);
    expect(await device.next()).toBeUndefined();
    expect(counters.closed[reason]).toBe(1);
  });

  it("waits when a stream cannot be created for now, closes when there are too many", async () => {
    const { ingest, listener, counters } = await start();
    const device = await peer(listener.port);
    ingest.createError = new TributaryError("OVERLOADED", "the log is being reopened");
    device.publish("s/t", "a", 1, 1);
    await vi.waitFor(() => expect(counters.waits).toBe(1));
    ingest.createError = undefined;
    ingest.commit();
    expect(await device.next()).toMatchObject({ cmd: "puback" });
    ingest.createError = new TributaryError("TOO_MANY_STREAMS", "no more");
    device.publish("s/other", "a", 1, 2);
    expect(await device.next()).toBeUndefined();
    expect(counters.closed["too-many-streams"]).toBe(1);
  });
});

describe("streams", () => {
  it("creates a deleted stream again", async () => {
    const { ingest, listener } = await start();
    const device = await peer(listener.port);
    device.publish("s/t", "a", 1, 1);
    await device.next();
    const before = ingest.stream({ scope: "s", stream: "t" })?.id;
    ingest.setState({ scope: "s", stream: "t" }, "gone");
    device.publish("s/t", "b", 1, 2);
    expect(await device.next()).toMatchObject({ messageId: 2 });
    expect(ingest.stream({ scope: "s", stream: "t" })?.id).not.toBe(before);
  });

  it("takes nothing but JSON into a JSON stream", async () => {
    const { ingest, listener, counters } = await start();
    ingest.createStream({ scope: "s", stream: "j" }, { contentType: "application/json; charset=utf-8", segments: 1, closed: false });
    const device = await peer(listener.port);
    device.publish("s/j", '{"a":1}', 1, 1);
    expect(await device.next()).toMatchObject({ messageId: 1 });
    device.publish("s/j", '{"a":', 1, 2);
    expect(await device.next()).toBeUndefined();
    expect(counters.closed["event-not-json"]).toBe(1);
    expect(ingest.events).toHaveLength(1);
  });

  it.each(["plant/+", "$SYS/x", "plant//x", "plänt/x"])(
    "closes a connection that publishes to %s, and says so in the log",
    async (topic) => {
      const { ingest, listener, counters, log } = await start();
      const device = await peer(listener.port);
      device.publish(topic, "a", 1, 1);
      expect(await device.next()).toBeUndefined();
      const [reason, count] = Object.entries(counters.closed).find(([name]) => name.startsWith("topic-")) ?? [];
      expect(count).toBe(1);
      expect(log.join("")).toContain(`reason=${reason}`);
      expect(log.join("")).toContain(topic);
      expect(ingest.events).toHaveLength(0);
    },
  );
});

describe("connections", () => {
  it.each([
    ["no credentials", {}, 5],
    ["a wrong password", { username: "ada", password: Buffer.from("wrong") }, 4],
    ["a wrong user", { username: "eve", password: Buffer.from("secret") }, 4],
    ["the right ones", { username: "ada", password: Buffer.from("secret") }, 0],
  ])("with %s", async (_what, options, returnCode) => {
    const { listener, counters } = await start({ credentials: { username: "ada", password: "secret" } });
    const device = await MqttPeer.open(listener.port);
    cleanups.push(() => device.destroy());
    device.sendConnect(options);
    expect(await device.next()).toMatchObject({ cmd: "connack", returnCode });
    if (returnCode !== 0) {
      await device.ended;
      expect(counters.closed[returnCode === 5 ? "credentials-missing" : "credentials"]).toBe(1);
    }
  });

  it.each([
    ["an unknown protocol level", { protocolVersion: 5 as const }, 1],
    ["an empty id without a clean session", { clientId: "", clean: false }, 2],
    ["an id that is too long", { clientId: "x".repeat(300) }, 2],
    ["a will whose topic maps to no stream", { will: { topic: "$x/y", payload: Buffer.from("w"), qos: 0 as const, retain: false } }, 5],
  ])("refuses %s", async (_what, options, returnCode) => {
    const { listener } = await start();
    const device = await MqttPeer.open(listener.port);
    cleanups.push(() => device.destroy());
    if ("clientId" in options && options.clientId === "") {
      // mqtt-packet does not send what the standard forbids.
      device.socket.write(Buffer.from([0x10, 12, 0, 4, 77, 81, 84, 84, 4, 0, 0, 0, 0, 0]));
    } else device.sendConnect(options);
    // The answer to MQTT 5 has the form of 3.1.1 and ends the connection.
    expect(await device.next()).toMatchObject({ cmd: "connack", returnCode });
    await device.ended;
  });

  it("gives a client without an id one of its own", async () => {
    const { ingest, listener } = await start();
    const devices = [await peer(listener.port, { clientId: "" }), await peer(listener.port, { clientId: "" })];
    for (const device of devices) {
      device.publish("s/t", "a", 1, 1);
      expect(await device.next()).toMatchObject({ cmd: "puback" });
    }
    expect(ingest.events[0]?.key).toMatch(/^auto-[0-9a-f]{16}$/);
    expect(ingest.events[1]?.key).not.toBe(ingest.events[0]?.key);
  });

  it("tells a client that comes back whether its session is there", async () => {
    const { listener } = await start();
    const present = async (clean: boolean) => {
      const device = await MqttPeer.open(listener.port);
      cleanups.push(() => device.destroy());
      device.sendConnect({ clientId: "d", clean });
      const answer = await device.next();
      return answer?.cmd === "connack" && answer.sessionPresent;
    };
    expect(await present(false)).toBe(false);
    expect(await present(false)).toBe(true);
    expect(await present(true)).toBe(false);
    expect(await present(false)).toBe(false);
  });

  it("closes the old connection of a client that connects again", async () => {
    const { ingest, listener, counters } = await start();
    const old = await peer(listener.port, { clientId: "d" });
    const other = await peer(listener.port, { clientId: "e" });
    const again = await peer(listener.port, { clientId: "d" });
    await old.ended;
    again.publish("s/t", "a", 1, 1);
    expect(await again.next()).toMatchObject({ cmd: "puback" });
    expect(await other.beforePong()).toEqual([]);
    expect(counters.closed["taken-over"]).toBe(1);
    expect(counters.connectionsOpen).toBe(2);
    expect(ingest.events).toHaveLength(1);
  });

  it("publishes the will of a connection that breaks, and not of one that says DISCONNECT", async () => {
    const { ingest, listener, counters } = await start();
    const will = { topic: "s/wills/gone", payload: Buffer.from("w"), qos: 1 as const, retain: false };
    const polite = await peer(listener.port, { clientId: "polite", will });
    polite.send({ cmd: "disconnect" });
    await polite.ended;
    const broken = await peer(listener.port, { clientId: "broken", will });
    broken.destroy();
    await vi.waitFor(() => expect(ingest.events).toEqual([{ stream: "s/wills", key: "gone", data: "w" }]));
    ingest.admission = "full";
    const late = await peer(listener.port, { clientId: "late", clean: false, will: { ...will, topic: "s/wills" } });
    late.destroy();
    await vi.waitFor(() => expect(counters.closed["connection-lost"]).toBe(2));
    ingest.admission = "accepted";
    ingest.commit();
    await vi.waitFor(() => expect(ingest.events[1]).toEqual({ stream: "s/wills", key: "late", data: "w" }));
    expect(counters).toMatchObject({ wills: 2, willsLost: 0 });
  });

  it("closes a silent client after one and a half times its keep-alive, and one that never says CONNECT", async () => {
    const clock = new ManualClock();
    const { listener, counters } = await start({ clock });
    const mute = await MqttPeer.open(listener.port);
    cleanups.push(() => mute.destroy());
    const silent = await peer(listener.port, { clientId: "silent", keepalive: 10 });
    const patient = await peer(listener.port, { clientId: "patient", keepalive: 0 });
    const alive = await peer(listener.port, { clientId: "alive", keepalive: 10 });
    clock.advance(LIMITS.mqttConnectMsMax - 1000);
    expect(counters.connectionsOpen).toBe(4);
    await alive.beforePong();
    clock.advance(3_000);
    await mute.ended;
    expect(counters.connectionsOpen).toBe(3);
    clock.advance(5_000);
    await silent.ended;
    expect(await alive.beforePong()).toEqual([]);
    expect(await patient.beforePong()).toEqual([]);
    expect(counters.closed).toMatchObject({ "keep-alive": 1, "connect-timeout": 1 });
  });

  it("refuses subscriptions and goes on", async () => {
    const { listener } = await start();
    const device = await peer(listener.port);
    device.send(
      { cmd: "subscribe", messageId: 9, subscriptions: ["a/b", "#"].map((topic) => ({ topic, qos: 1 as const })) },
      { cmd: "unsubscribe", messageId: 10, unsubscriptions: ["a/b"] },
      { cmd: "puback", messageId: 11 },
    );
    expect(await device.next()).toMatchObject({ cmd: "suback", messageId: 9, granted: [128, 128] });
    expect(await device.next()).toMatchObject({ cmd: "unsuback", messageId: 10 });
    expect(await device.beforePong()).toEqual([]);
  });

  it("closes malformed connections, counts them, and leaves the others alone", async () => {
    const { ingest, listener, counters, log } = await start();
    const healthy = await peer(listener.port, { clientId: "healthy" });
    const garbage = await MqttPeer.open(listener.port);
    garbage.socket.write("GET / HTTP/1.1\r\n\r\n");
    await garbage.ended;
    for (let i = 0; i < 5; i++) {
      const broken = await peer(listener.port, { clientId: "broken" });
      broken.publish("s/t", "kept", 0);
      broken.socket.write(Buffer.from([0x36, 5, 0, 1, 97, 0, 1]));
      await broken.ended;
    }
    expect(counters.closed).toMatchObject({ "connect-expected": 1, "quality-of-service": 5 });
    // One line a second for each reason.
    expect(log.filter((line) => line.includes("quality-of-service")).length).toBeLessThan(5);
    healthy.publish("s/t", "a", 1, 1);
    expect(await healthy.next()).toMatchObject({ cmd: "puback" });
    expect(ingest.events).toHaveLength(6);
  });

  it("says so when the port is taken, by another kind of server or by another gateway", async () => {
    const { listener } = await start();
    await expect(start({ port: listener.port })).rejects.toMatchObject({ code: "PORT_IN_USE" });
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    cleanups.push(() => new Promise((resolve) => server.close(resolve)));
    const address = server.address() as { port: number };
    await expect(start({ port: address.port })).rejects.toMatchObject({ code: "PORT_IN_USE" });
    await expect(
      createMqttListener({
        ingest: new FakeIngest(),
        clock: systemClock,
        random: systemRandom,
        log: createLogger({ level: "error", clock: systemClock, write: () => {} }),
        counters: createMqttCounters(),
        options: { host: "203.0.113.1", port: 0, credentials: undefined },
      }),
    ).rejects.toMatchObject({ code: "CONFIG_INVALID" });
  });

  it("takes back many clients at once after a restart", async () => {
    const { ingest, listener, counters } = await start();
    const devices = await Promise.all(Array.from({ length: 300 }, (_, i) => peer(listener.port, { clientId: `d${i}` })));
    for (const device of devices) device.publish("s/t", "a", 1, 1);
    for (const device of devices) expect(await device.next()).toMatchObject({ cmd: "puback" });
    expect(counters.connectionsAccepted).toBe(300);
    expect(ingest.events).toHaveLength(300);
  });
});
