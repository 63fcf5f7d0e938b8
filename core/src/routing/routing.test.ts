import { TributaryError } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { LIMITS } from "@tributary/common/limits";
import {
  type AppendAnswer,
  type HelloAnswer,
  type LevelsAnswer,
  type MovedMessage,
  type ResolveAnswer,
  SLICE_STATUS,
  UPLINK_SUBJECTS,
} from "@tributary/common/uplink-protocol";
import { afterEach, describe, expect, test } from "vitest";
import { resolveStreams } from "../service/stream-resolver.ts";
import { gatewayBlock } from "../service/testing/gateway-block.ts";
import { encodeAppend, NODE_SUBJECTS } from "./node-requests.ts";
import { CLUSTER, pack, TestCluster, type TestNode, textsOf } from "./testing/test-cluster.ts";

const NAME = { scope: "plant", stream: "press" };
const WRITER = "0123456789abcdef0123456789abcdef";
const INCARNATION = "0011223344556677";
const GATEWAY_STREAM = "11".repeat(16);
const WITHIN = { timeoutMs: 5_000 };
const NO_SIGNAL = new AbortController().signal;

let cluster: TestCluster | undefined;
afterEach(async () => {
  await cluster?.close();
  cluster = undefined;
});

/** Node 0 owns all containers; node 1 owns none. */
async function two(containers = 1): Promise<{ c: TestCluster; owner: TestNode; guest: TestNode }> {
  const c = new TestCluster(containers);
  cluster = c;
  await c.start(2);
  for (let i = 0; i < containers; i++) await c.take(i, 0);
  return { c, owner: c.node(0), guest: c.node(1) };
}

const append = (node: TestNode, ...texts: string[]) => node.streams.append(NAME, { events: pack(...texts), contentType: undefined });
const produce = (node: TestNode, seq: number, ...texts: string[]) =>
  node.streams.append(NAME, { events: pack(...texts), contentType: undefined, producer: { id: "p", epoch: 0, seq } });
const block = (first: number, ...texts: string[]) => gatewayBlock(WRITER, INCARNATION, [{ streamId: GATEWAY_STREAM, first, texts }]);
const entry = { streamId: GATEWAY_STREAM, segment: { generation: 0, epoch: 0, number: 0 }, incarnation: INCARNATION, lane: "live" };
const levels = encodeCbor({ writer: WRITER, entries: [entry] });

/** Asks as a gateway does, of one node: the others have cut themselves off from the group. */
async function control<T>(node: TestNode, request: object): Promise<T> {
  return decodeCbor(await node.bus.request(UPLINK_SUBJECTS.control(CLUSTER), encodeCbor(request), WITHIN)) as T;
}

async function resolve(c: TestCluster, node: TestNode): Promise<ResolveAnswer["streams"][number] | undefined> {
  const wish = { name: NAME, provisionalId: GATEWAY_STREAM, contentType: "text/plain", segments: 1, createdAtMs: 7, create: true };
  const answer = await c.settled(control<ResolveAnswer>(node, { type: "resolve", streams: [wish] }));
  return answer.streams[0];
}

test("streams of a container that nobody serves are listed with what the directory knows", async () => {
  const { c, owner, guest } = await two(2);
  const names = Array.from({ length: 8 }, (_, i) => ({ scope: "plant", stream: `s${i}` }));
  for (const name of names) await c.settled(guest.streams.create(name, { contentType: "text/plain", segments: 2 }));
  const list = () => c.settled(guest.streams.list({ limit: 10 }));
  const all = await list();
  const left = c.leave(1);
  const some = await list();
  expect(some.map(({ name }) => name)).toEqual(names);
  const [served, unserved] = [false, true].map((away) => some.filter((info) => (info.unserved ?? false) === away));
  expect(served?.length).toBeGreaterThan(0);
  expect(unserved?.length).toBeGreaterThan(0);
  for (const info of served ?? []) expect(all).toContainEqual(info);
  expect(unserved?.[0]).toMatchObject({ contentType: "text/plain", segments: [{ id: "0.0.0" }, { id: "0.0.1" }] });
  await left?.close();
  await c.take(1, 0);
  expect(await list()).toEqual(await c.settled(owner.streams.list({ limit: 10 })));
  expect(await list()).toEqual(all);
});

test("an append that the network brings twice is there once", async () => {
  const { c, owner, guest } = await two();
  const { info } = await c.settled(owner.streams.create(NAME, {}));
  const subject = NODE_SUBJECTS.operation(CLUSTER, owner.id, "append");
  const ask = (id: string, text: string) => {
    const request = { events: pack(text), contentType: undefined };
    return guest.bus.request(subject, encodeAppend({ id, container: 0, streamId: info.id, request }), WITHIN);
  };
  const [first, again] = await c.settled(Promise.all([ask("a.1", "x"), ask("a.1", "x")]));
  expect(again).toEqual(first);
  expect(await c.settled(ask("a.1", "x"))).toEqual(first);
  await c.settled(ask("a.2", "y"));
  expect(await c.settled(textsOf(guest.streams, NAME))).toEqual(["x", "y"]);
});

describe("a node that owns nothing", () => {
  test("does all that the owner does", async () => {
    const { c, owner, guest } = await two(3);
    const run = <T>(promise: Promise<T>) => c.settled(promise);
    const created = await run(guest.streams.create(NAME, { contentType: "text/plain", segments: 3 }));
    expect(created).toMatchObject({ created: true, info: { events: 0, closed: false } });
    expect(await run(owner.streams.create(NAME, { contentType: "text/plain" }))).toMatchObject({ created: false });
    const appended = await run(append(guest, "a", "b"));
    expect(await run(textsOf(owner.streams, NAME))).toEqual(["a", "b"]);
    expect(await run(produce(guest, 0, "c"))).toMatchObject({ duplicate: false, producerSeq: 0 });
    expect(await run(produce(guest, 0, "c"))).toMatchObject({ duplicate: true, producerSeq: 0 });
    await expect(run(produce(guest, 5, "x"))).rejects.toMatchObject({ code: "PRODUCER_SEQUENCE_GAP", details: { expectedSeq: 1 } });
    const keyed = { ...pack("d", "e"), keys: ["k1", "k2"], timesMs: [5, 6] };
    await run(guest.streams.append(NAME, { events: keyed, contentType: undefined, streamSeq: "1" }));
    await expect(run(guest.streams.append(NAME, { events: pack("x"), contentType: undefined, streamSeq: "1" }))).rejects.toMatchObject({
      code: "SEQUENCE_CONFLICT",
    });
    await expect(run(guest.streams.append(NAME, { events: pack("x"), contentType: "text/html" }))).rejects.toMatchObject({
      code: "CONTENT_TYPE_MISMATCH",
    });

    const request = { offset: appended.nextOffset, eventsMax: 2, bytesMax: 100 };
    const page = await run(guest.streams.read(NAME, request));
    expect(page).toEqual(await run(owner.streams.read(NAME, request)));
    expect(page.events.map((event) => [event.key, Buffer.from(event.data).toString()])).toEqual([
      ["", "c"],
      ["k1", "d"],
    ]);
    expect(page.upToDate).toBe(false);
    for (const offset of ["-1", "now", page.nextOffset]) {
      const at = { offset, eventsMax: 100, bytesMax: 100 };
      expect(await run(guest.streams.read(NAME, at))).toEqual(await run(owner.streams.read(NAME, at)));
    }
    for (const offset of ["g1_x", "c2_0000000000000009_00000000", "nonsense"]) {
      const at = { offset, eventsMax: 100, bytesMax: 100 };
      const refused = await run(owner.streams.read(NAME, at)).catch((error: TributaryError) => ({
        code: error.code,
        details: error.details,
      }));
      await expect(run(guest.streams.read(NAME, at))).rejects.toMatchObject(refused);
    }
    expect(await run(guest.streams.describe(NAME))).toEqual(await run(owner.streams.describe(NAME)));
    for (let i = 0; i < 5; i++) await run(guest.streams.create({ scope: "plant", stream: `s${i}` }, {}));
    const list = await run(guest.streams.list({ limit: 10 }));
    expect(list).toHaveLength(6);
    expect(list).toEqual(await run(owner.streams.list({ limit: 10 })));
    expect(await run(guest.streams.listScopes())).toEqual(["plant"]);

    await run(guest.streams.append(NAME, { events: undefined, contentType: undefined, close: true }));
    const { nextOffset } = await run(owner.streams.describe(NAME));
    await expect(run(append(guest, "x"))).rejects.toMatchObject({ code: "STREAM_CLOSED", details: { nextOffset } });
    expect(await run(guest.streams.read(NAME, { ...request, offset: nextOffset }))).toMatchObject({ closed: true, upToDate: true });
    await run(guest.streams.delete(NAME));
    await expect(run(owner.streams.describe(NAME))).rejects.toMatchObject({ code: "STREAM_UNKNOWN" });
    await expect(run(guest.streams.describe(NAME))).rejects.toMatchObject({ code: "STREAM_UNKNOWN" });
    expect(guest.host.hosted.size).toBe(0);
  });

  test("says where the owner is, and the owner does not", async () => {
    const { c, owner, guest } = await two();
    await c.settled(owner.streams.create(NAME, {}));
    expect(await guest.services.streams.ownerUrl(NAME)).toBe("http://node-0");
    expect(await owner.services.streams.ownerUrl(NAME)).toBeUndefined();
    expect(await guest.services.streams.ownerUrl({ scope: "plant", stream: "none" })).toBeUndefined();
  });

  test("needs one request an operation once it knows the stream", async () => {
    const { c, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    for (const operation of [
      () => append(guest, "a"),
      () => guest.streams.read(NAME, { offset: "-1", eventsMax: 1, bytesMax: 1 }),
      () => guest.streams.describe(NAME),
    ]) {
      guest.bus.sent.length = 0;
      await c.settled<unknown>(operation());
      expect(guest.bus.sent).toHaveLength(1);
    }
  });

  test("holds as many subscriptions as there are operations, however many streams and readers there are", async () => {
    const { c, owner, guest } = await two(16);
    const before = [owner.bus.subscriptions, guest.bus.subscriptions];
    for (let i = 0; i < 20; i++) await c.settled(guest.streams.create({ scope: "plant", stream: `s${i}` }, {}));
    expect([owner.bus.subscriptions, guest.bus.subscriptions]).toEqual(before);
    expect(guest.bus.subscriptions).toBeLessThan(16);
    expect(owner.bus.subscriptions - guest.bus.subscriptions).toBe(16);
  });

  test("takes what gateways send through any node, in order, and their other requests", async () => {
    const { c, owner, guest } = await two();
    owner.bus.cut();
    await c.leave(0)?.close();
    await c.take(0, 0);
    // Only the guest is in the group now; the owner has its direct subject, and the ones between nodes.
    owner.view.rename("b".repeat(16));
    c.owners.set(0, { container: 0, epoch: 2, node: owner.view.node, url: "http://node-0" });
    await c.step();
    expect(await resolve(c, guest)).toMatchObject({ id: GATEWAY_STREAM, containers: [0] });
    const hello = { type: "hello", writer: WRITER, incarnation: INCARNATION, parent: undefined, name: "gw", version: "1" };
    expect(await c.settled(control<HelloAnswer>(guest, hello))).toMatchObject({ containers: 1, epochs: [2] });

    const send = async (first: number, text: string) => {
      const answer = await guest.bus.request(UPLINK_SUBJECTS.append(CLUSTER, 0), block(first, text), WITHIN);
      return decodeCbor(answer) as AppendAnswer;
    };
    const answers = await c.settled(Promise.all(["a", "b", "c", "d"].map((text, i) => send(i + 1, text))));
    expect(answers.map((answer) => [answer.slices[0]?.[0], answer.epoch])).toEqual(new Array(4).fill([SLICE_STATUS.accepted, 2]));
    expect(await c.settled(textsOf(guest.streams, NAME))).toEqual(["a", "b", "c", "d"]);
    const asked = guest.bus.request(UPLINK_SUBJECTS.levels(CLUSTER, 0), levels, WITHIN);
    expect(decodeCbor(await c.settled(asked)) as LevelsAnswer).toMatchObject({ entries: [[4, 0]], epoch: 2 });
    const fetched = await c.settled(control(guest, { type: "fetch", name: NAME, writer: WRITER, offset: "-1", bytesMax: 1_000 }));
    expect(fetched).toMatchObject({ upToDate: true, events: [{ number: 1 }, { number: 2 }, { number: 3 }, { number: 4 }] });
  });
});

describe("streams on several nodes", () => {
  test("created on one, used on another at once; deleted on one, gone on all, and another under its name", async () => {
    const { c, owner, guest } = await two();
    await c.start(1);
    const third = c.node(2);
    const run = <T>(promise: Promise<T>) => c.settled(promise);
    const { info } = await run(guest.streams.create(NAME, {}));
    await run(append(third, "a"));
    await run(append(owner, "b"));
    expect(await run(textsOf(guest.streams, NAME))).toEqual(["a", "b"]);
    // The third has all of it cached, and hears of nothing.
    third.services.directory.forgetAll = () => {};
    await run(owner.streams.delete(NAME));
    await expect(run(append(third, "x"))).rejects.toMatchObject({ code: "STREAM_UNKNOWN" });
    await expect(run(textsOf(third.streams, NAME))).rejects.toMatchObject({ code: "STREAM_UNKNOWN" });
    const again = await run(third.streams.create(NAME, {}));
    expect(again.info.id).not.toBe(info.id);
    await run(append(guest, "c"));
    expect(await run(textsOf(owner.streams, NAME))).toEqual(["c"]);
  });

  test("a node whose watch was forgotten does not hold on to a stream that another one deleted", async () => {
    const { c, owner } = await two();
    await c.start(1, { deaf: true });
    const deaf = c.node(2);
    const run = <T>(promise: Promise<T>) => c.settled(promise);
    // Won here by compare-and-set: nobody could have changed it, a moment ago.
    const { info } = await run(deaf.streams.create(NAME, {}));
    await run(owner.streams.delete(NAME));
    await expect(run(deaf.streams.delete(NAME))).rejects.toMatchObject({ code: "STREAM_UNKNOWN" });
    const other = { scope: "plant", stream: "other" };
    const wish = { name: other, provisionalId: "22".repeat(16), contentType: "text/plain", segments: 1, createdAtMs: 7, create: true };
    const ask = () => resolveStreams(deaf.services.streams, deaf.services.directory, [wish]);
    expect((await run(ask())).streams[0]?.problem).toBe("");
    await run(owner.streams.delete(other));
    for (let i = 0; i < 6; i++) await c.step(1_000);
    expect((await run(ask())).streams[0]?.problem).toBe("deleted");
    expect((await run(deaf.streams.create(NAME, {}))).info.id).not.toBe(info.id);
  });

  test("a registration that comes after the deletion is refused", async () => {
    const { c, owner, guest } = await two();
    const run = <T>(promise: Promise<T>) => c.settled(promise);
    let ensured: (() => void) | undefined;
    guest.bus.tap = async (subject, request) => {
      if (subject.endsWith(".ensure"))
        await new Promise<void>((go) => {
          ensured = go;
        });
      return request();
    };
    const late = guest.streams.create(NAME, {});
    late.catch(() => {});
    for (let i = 0; !ensured && i < 100; i++) await c.step();
    await run(owner.streams.delete(NAME));
    guest.bus.tap = undefined;
    ensured?.();
    // It begins again under another id.
    const { info } = await run(late);
    await run(append(owner, "a"));
    expect((await run(owner.streams.describe(NAME))).id).toBe(info.id);
  });

  test("a container that forgot a stream is told of it again", async () => {
    const { c, guest } = await two();
    const run = <T>(promise: Promise<T>) => c.settled(promise);
    await run(guest.streams.create(NAME, {}));
    // Another log: as after a disaster that took what was registered.
    c.forgetLog(0);
    c.leave(0);
    await c.take(0, 0);
    await run(append(guest, "a"));
    expect(await run(textsOf(guest.streams, NAME))).toEqual(["a"]);
  });
});

describe("while a container moves", () => {
  test("appends of a producer are there once each and in order, whichever node takes them", async () => {
    const { c, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    const sending = (async () => {
      for (let seq = 0; seq < 60; seq++) await produce(c.node(seq % 2), seq, `e${seq}`);
    })();
    const moving = (async () => {
      for (let i = 0; i < 6; i++) {
        for (let turn = 0; turn < 5; turn++) await c.step();
        await c.move(0, (i + 1) % 2);
      }
    })();
    await Promise.all([c.settled(sending), moving]);
    expect(await c.settled(textsOf(guest.streams, NAME))).toEqual(Array.from({ length: 60 }, (_, i) => `e${i}`));
  });

  test("requests wait for the next owner, and are told when there is none for too long", async () => {
    const { c, owner, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    const before = c.leave(0);
    const waiting = [append(owner, "a"), append(guest, "b"), guest.streams.describe(NAME)];
    for (let i = 0; i < 20; i++) await c.step(100);
    await before?.close();
    await c.take(0, 1);
    await c.settled(Promise.all(waiting));
    expect((await c.settled(textsOf(owner.streams, NAME))).sort()).toEqual(["a", "b"]);

    c.leave(0);
    const startMs = c.clock.monotonicMs();
    await expect(c.settled(append(owner, "c"))).rejects.toMatchObject({ code: "CONTAINER_NOT_OWNED" });
    const tookMs = c.clock.monotonicMs() - startMs;
    expect(tookMs).toBeGreaterThanOrEqual(LIMITS.rerouteMsMax);
    expect(tookMs).toBeLessThan(LIMITS.rerouteMsMax + 1_000);
  });

  test("a reader at level tiered sees through another node what is in the lake, and is woken as more comes there", async () => {
    const { c, owner, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    await c.settled(append(owner, "a"));
    const read = async (offset: string) => {
      const page = await c.settled(guest.streams.read(NAME, { offset, eventsMax: 10, bytesMax: 1_000, level: "tiered" }));
      return { ...page, events: page.events.map((event) => Buffer.from(event.data).toString()) };
    };
    const { nextOffset, ...empty } = await read("now");
    expect(empty).toMatchObject({ events: [], upToDate: true });
    expect(await read("-1")).toEqual({ nextOffset, ...empty });
    const wait = (level: "committed" | "tiered") =>
      guest.streams.waitForData(NAME, nextOffset, { timeoutMs: 100_000, signal: NO_SIGNAL, level });
    // At the committed end something is there already; the two do not share a request.
    let woken = false;
    const waiting = wait("tiered").then(() => {
      woken = true;
    });
    await c.settled(wait("committed"));
    expect(woken).toBe(false);
    for (let i = 0; i < 30 && !woken; i++) await c.step(1_000);
    await c.settled(waiting);
    expect(await read(nextOffset)).toMatchObject({ events: ["a"], upToDate: true });
  });

  test("a reader at the end stays there, and hears of what the next owner takes", async () => {
    const { c, guest } = await two();
    await c.start(1);
    await c.settled(guest.streams.create(NAME, {}));
    let woken = 0;
    const readers = c.nodes.map(({ streams }) =>
      streams.waitForData(NAME, "now", { timeoutMs: 20_000, signal: NO_SIGNAL }).then(() => woken++),
    );
    for (const index of [1, 2, 0, 1]) {
      await c.step();
      await c.move(0, index);
    }
    await c.step();
    expect(woken).toBe(0);
    await append(c.node(0), "a");
    await c.settled(Promise.all(readers), 1);
    expect(c.nodes.map(({ host }) => host.waits)).toEqual([0, 0, 0]);
  });

  test("a paused owner is left as soon as there is another one, and what it says later counts for nothing", async () => {
    const { c, owner, guest } = await two();
    await c.start(1);
    await c.settled(guest.streams.create(NAME, {}));
    await c.settled(append(guest, "a"));
    owner.bus.pause();
    const read = textsOf(guest.streams, NAME);
    const sent = produce(guest, 0, "b");
    for (let i = 0; i < 10; i++) await c.step(100);
    // The paused owner keeps its instance and does not know of the other one.
    owner.view.freeze();
    await c.take(0, 2);
    const takenMs = c.clock.monotonicMs();
    expect(await c.settled(read)).toContain("a");
    await c.settled(sent);
    // Of the test's own time: nobody waits until requests to the paused one are given up.
    expect(c.clock.monotonicMs() - takenMs).toBeLessThan(1_000);
    owner.bus.resume();
    await c.step();
    // It must lose its log before it can say anything more.
    await expect(
      c.settled(
        owner.host.get(0).append((await c.settled(guest.streams.describe(NAME))).id, { events: pack("z"), contentType: undefined }),
      ),
    ).rejects.toMatchObject({ code: expect.stringMatching(/CONTAINER_NOT_OWNED|LOG_RESULT_UNKNOWN|OVERLOADED/) });
    expect(await c.settled(textsOf(guest.streams, NAME))).toEqual(["a", "b"]);
    owner.host.drop(0);
  });

  test("a request is handed on once: nodes that take each other for the owner do not send it in circles", async () => {
    const { c, owner, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    c.leave(0);
    owner.view.freeze(new Map([[0, { container: 0, epoch: 9, node: guest.id, url: "" }]]));
    guest.view.freeze(new Map([[0, { container: 0, epoch: 9, node: owner.id, url: "" }]]));
    owner.bus.sent.length = 0;
    guest.bus.sent.length = 0;
    await expect(c.settled(append(guest, "a"))).rejects.toMatchObject({ code: "CONTAINER_NOT_OWNED" });
    expect(owner.bus.sent.filter((subject) => subject.includes(".node."))).toEqual([]);
    // Tried again now and then, not all the time.
    expect(guest.bus.sent.length).toBeGreaterThan(1);
    expect(guest.bus.sent.length).toBeLessThan(30);
  });

  test("a node that lost its lease is asked under its next id", async () => {
    const { c, owner, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    const renamed = "c".repeat(16);
    owner.view.rename(renamed);
    c.owners.set(0, { container: 0, epoch: 1, node: renamed, url: "" });
    await c.step();
    await c.settled(append(guest, "a"));
    expect(guest.bus.sent.at(-1)).toContain(renamed);
    const old = guest.bus.request(`tributary.${CLUSTER}.node.${owner.id}.append`, new Uint8Array(0), WITHIN);
    await expect(old).rejects.toMatchObject({ code: "BUS_NO_RESPONDER" });
  });
});

describe("readers at the end of another node's stream", () => {
  test("share one wait, and when the last one leaves nothing of it is left", async () => {
    const { c, owner, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    await c.settled(append(guest, "x"));
    const { nextOffset } = await c.settled(guest.streams.describe(NAME));
    const timersBefore = c.clock.timers;
    const leavers = Array.from({ length: 10 }, () => new AbortController());
    guest.bus.sent.length = 0;
    const waiting = leavers.map(({ signal }) => guest.streams.waitForData(NAME, nextOffset, { timeoutMs: 19_000, signal }));
    await c.step(1);
    expect(owner.host.waits).toBe(1);
    expect(guest.bus.sent.filter((subject) => subject.endsWith(".wait"))).toHaveLength(1);
    for (const leaver of leavers.slice(1)) leaver.abort();
    await c.step(1);
    expect(owner.host.waits).toBe(1);
    leavers[0]?.abort();
    await Promise.all(waiting);
    await c.step(1);
    expect(owner.host.waits).toBe(0);
    expect(c.clock.timers).toBe(timersBefore);
  });

  test("a wait that nobody takes back ends by itself", async () => {
    const { c, owner, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    const leaver = new AbortController();
    const waiting = guest.streams.waitForData(NAME, "now", { timeoutMs: 60_000, signal: leaver.signal });
    await c.step(1);
    await c.step(1);
    expect(owner.host.waits).toBe(1);
    // As if the reader's node had died.
    guest.bus.publish = () => {};
    leaver.abort();
    await waiting;
    expect(owner.host.waits).toBe(1);
    await c.step(LIMITS.nodeWaitMsMax);
    expect(owner.host.waits).toBe(0);
  });

  test("outlast the owner's patience, and hear of closing and deleting", async () => {
    const { c, owner, guest } = await two();
    const run = <T>(promise: Promise<T>) => c.settled(promise);
    await run(guest.streams.create(NAME, {}));
    let woken = false;
    const first = guest.streams.waitForData(NAME, "now", { timeoutMs: 100_000, signal: NO_SIGNAL }).then(() => {
      woken = true;
    });
    for (let i = 0; i < 50; i++) await c.step(1_000);
    expect([woken, owner.host.waits]).toEqual([false, 1]);
    await run(owner.streams.append(NAME, { events: undefined, contentType: undefined, close: true }));
    await run(first);
    const other = { scope: "plant", stream: "other" };
    await run(guest.streams.create(other, {}));
    const second = guest.streams.waitForData(other, "now", { timeoutMs: 100_000, signal: NO_SIGNAL });
    await c.step(1);
    await run(owner.streams.delete(other));
    await run(second.catch((error: unknown) => expect(error).toMatchObject({ code: "STREAM_UNKNOWN" })));
    expect(owner.host.waits).toBe(0);
  });

  test("are counted, and too many are refused", async () => {
    const { c, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    await c.settled(append(guest, "x"));
    guest.bus.tap = (subject, request) => (subject.endsWith(".wait") ? new Promise(() => {}) : request());
    const leaver = new AbortController();
    const held: Promise<void>[] = [];
    for (let i = 0; i < LIMITS.nodeWaitsMax; i++) {
      const stream = { scope: "many", stream: `s${i}` };
      held.push(
        guest.streams.create(stream, {}).then(() => guest.streams.waitForData(stream, "now", { timeoutMs: 1e9, signal: leaver.signal })),
      );
      if (i % 256 === 255) for (let turn = 0; turn < 8; turn++) await c.step();
    }
    for (let turn = 0; turn < 8; turn++) await c.step();
    await expect(c.settled(guest.streams.waitForData(NAME, "now", { timeoutMs: 1e9, signal: NO_SIGNAL }))).rejects.toMatchObject({
      code: "OVERLOADED",
    });
    leaver.abort();
    await c.settled(Promise.all(held));
  });
});

describe("answers of another node", () => {
  test("that are lost: an append that may have happened is not sent again, unless a producer's number tells", async () => {
    const { c, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    let losing = 0;
    guest.bus.tap = async (subject, request) => {
      const answer = await request();
      if (losing === 0 || !subject.endsWith(".append")) return answer;
      losing--;
      throw new TributaryError("BUS_TIMEOUT", "lost");
    };
    losing = 1;
    await expect(c.settled(append(guest, "a"))).rejects.toMatchObject({ code: "BUS_TIMEOUT", sideEffects: true });
    losing = 2;
    expect(await c.settled(produce(guest, 0, "b"))).toMatchObject({ duplicate: true });
    losing = 1;
    await c.settled(guest.streams.append(NAME, { events: undefined, contentType: undefined, close: true }));
    expect(await c.settled(textsOf(guest.streams, NAME))).toEqual(["a", "b"]);
  });

  test("that come after another one is the owner are not waited for", async () => {
    const { c, guest } = await two();
    await c.start(1);
    await c.settled(guest.streams.create(NAME, {}));
    await c.settled(append(guest, "a"));
    let late: (() => void) | undefined;
    guest.bus.tap = async (_, request) => {
      const answer = await request();
      guest.bus.tap = undefined;
      await new Promise<void>((go) => {
        late = go;
      });
      return answer;
    };
    const reading = textsOf(guest.streams, NAME);
    await c.step(1);
    await c.move(0, 2);
    await c.settled(append(c.node(2), "b"));
    expect(await c.settled(reading)).toContain("a");
    late?.();
    expect(await c.settled(textsOf(guest.streams, NAME))).toEqual(["a", "b"]);
  });

  test.each([
    ["no CBOR", Uint8Array.of(0xff)],
    ["another type", encodeCbor([1, 2])],
    ["no fields", encodeCbor({})],
    ["wrong fields", encodeCbor({ duplicate: "no", nextChain: -1, ancestry: {}, closed: 1 })],
  ])("that cannot be understood (%s) are a defect, and nothing is tried again", async (_, answer) => {
    const { c, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    guest.bus.sent.length = 0;
    guest.bus.tap = async () => answer;
    await expect(c.settled(append(guest, "a"))).rejects.toMatchObject({ code: "INTERNAL" });
    await expect(c.settled(guest.streams.describe(NAME))).rejects.toMatchObject({ code: "INTERNAL" });
    await expect(c.settled(guest.streams.read(NAME, { offset: "-1", eventsMax: 1, bytesMax: 1 }))).rejects.toMatchObject({
      code: "INTERNAL",
    });
    await expect(
      c.settled(guest.streams.waitForData(NAME, `c2_0000000000000000_${await idTag(guest)}`, { timeoutMs: 1_000, signal: NO_SIGNAL })),
    ).rejects.toMatchObject({ code: "INTERNAL" });
    expect(guest.bus.sent.filter((subject) => !subject.endsWith(".cancel"))).toHaveLength(4);
  });

  test("errors keep their code and details", async () => {
    const { c, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    guest.bus.tap = async () => {
      throw new TributaryError("OVERLOADED", "by the test", { why: 1 });
    };
    await expect(c.settled(append(guest, "a"))).rejects.toMatchObject({ code: "OVERLOADED", details: { why: 1 } });
  });

  test("nobody there is the same as no owner: safe to try again", async () => {
    const { c, owner, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    owner.bus.cut();
    c.leave(0);
    const sent = append(guest, "a");
    for (let i = 0; i < 5; i++) await c.step(100);
    await c.take(0, 1);
    await c.settled(sent);
    expect(await c.settled(textsOf(guest.streams, NAME))).toEqual(["a"]);
  });

  test("too many requests at once are refused, not kept", async () => {
    const { c, guest } = await two();
    await c.settled(guest.streams.create(NAME, {}));
    guest.bus.tap = () => new Promise(() => {});
    const held = Array.from({ length: LIMITS.nodeRequestsInFlightMax }, () => append(guest, "x"));
    for (const each of held) each.catch(() => {});
    await c.step();
    await expect(c.settled(append(guest, "y"))).rejects.toMatchObject({ code: "OVERLOADED" });
  });
});

describe("the direct subjects of an owner", () => {
  const direct = (epoch: number, operation: "append" | "levels") => UPLINK_SUBJECTS.direct(CLUSTER, 0, epoch, operation);

  test("are served under its epoch alone, and gateways hear of it when one begins", async () => {
    const { c, guest } = await two();
    await resolve(c, guest);
    const heard: number[] = [];
    await c.network.subscribe(
      UPLINK_SUBJECTS.moved(CLUSTER, "*"),
      (payload) => void heard.push((decodeCbor(payload) as MovedMessage).epoch),
    );
    const send = (epoch: number, first: number) => c.network.request(direct(epoch, "append"), block(first, `e${first}`), WITHIN);
    expect(decodeCbor(await c.settled(send(1, 1)))).toEqual({ slices: [[SLICE_STATUS.accepted, 1]], epoch: 1 });
    await c.move(0, 1);
    await c.step();
    expect(heard).toEqual([2]);
    await expect(c.settled(send(1, 2))).rejects.toMatchObject({ code: "BUS_NO_RESPONDER" });
    expect(decodeCbor(await c.settled(send(2, 2)))).toMatchObject({ slices: [[SLICE_STATUS.accepted, 2]] });
    expect(decodeCbor(await c.settled(c.network.request(direct(2, "levels"), levels, WITHIN)))).toMatchObject({ entries: [[2, 1]] });
    expect(guest.bus.sent.filter((subject) => subject.includes(".node."))).toEqual([]);
  });
});

async function idTag(node: TestNode): Promise<string> {
  return (await node.services.directory.find(NAME))?.record.id.slice(0, 8) ?? "";
}
