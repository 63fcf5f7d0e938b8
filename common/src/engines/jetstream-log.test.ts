import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { logContract } from "../contracts/log.contract.ts";
import { hasCode } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { type NatsServer, type NatsServerOptions, startNatsCluster, startNatsServer } from "../testing/nats-server.ts";
import { JetStreamLog } from "./jetstream-log.ts";
import { connectNats, type NatsLink } from "./nats-connection.ts";

let server: NatsServer;
let link: NatsLink;
let names = 0;
beforeAll(async () => {
  server = await startNatsServer({ maxPayload: 8_388_608 });
  link = await connectNats({ url: server.url });
});
afterAll(async () => {
  await link.close();
  await server.stop();
});

const PAGE = { recordsMax: 10_000, bytesMax: 64 * 1_048_576 };

function openLog(options: { name?: string; bytesMax?: number; recordBytesMin?: number } = {}): Promise<JetStreamLog> {
  return JetStreamLog.open(link, { name: `log-${names++}`, replicas: 1, ...options });
}

async function ownServer(options: NatsServerOptions = {}): Promise<{ fragile: NatsServer; own: NatsLink }> {
  const fragile = await startNatsServer(options);
  onTestFinished(() => fragile.stop());
  const own = await connectNats({ url: fragile.url });
  onTestFinished(() => own.close());
  return { fragile, own };
}

function record(seq: number, size = 64): Uint8Array {
  const bytes = new Uint8Array(size).fill(seq & 0xff);
  new DataView(bytes.buffer).setUint32(0, seq);
  return bytes;
}

function numberOf(data: Uint8Array): number {
  return new DataView(data.buffer, data.byteOffset).getUint32(0);
}

async function readAll(log: JetStreamLog): Promise<number[]> {
  const records = await log.read(1, PAGE);
  for (const { seq, data } of records) expect(numberOf(data)).toBe(seq);
  return records.map((r) => r.seq);
}

const upTo = (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, i) => first + i);

logContract("JetStreamLog", async () => {
  const name = `contract-${names++}`;
  return { open: () => openLog({ name }), close: async () => {} };
});

describe("JetStreamLog", () => {
  test("takes pipelined appends in order and reads them back in pages", async () => {
    const log = await openLog();
    expect(await log.state()).toEqual({ first: 1, last: 0, bytes: 0 });
    const seqs = await Promise.all(upTo(1, 200).map((seq) => log.append(record(seq, 1_000), seq - 1)));
    expect(seqs).toEqual(upTo(1, 200));
    expect(await readAll(log)).toEqual(upTo(1, 200));
    const paged: number[] = [];
    while (paged.length < 200) {
      const page = await log.read(paged.length + 1, { recordsMax: 7, bytesMax: 5_500 });
      expect(page.length).toBeGreaterThan(0);
      expect(page.length).toBeLessThanOrEqual(5);
      paged.push(...page.map((r) => r.seq));
    }
    expect(paged).toEqual(upTo(1, 200));
    expect(await log.read(201, PAGE)).toEqual([]);
    expect(await log.read(200, { recordsMax: 1, bytesMax: 1 })).toHaveLength(1);
  });

  test("a second writer's appends are refused, and everything behind a refused one too", async () => {
    const first = await openLog();
    const second = await JetStreamLog.open(await secondLink(), { name: `log-${names - 1}`, replicas: 1 });
    await first.append(record(1), 0);
    await expect(second.append(record(1), 0)).rejects.toMatchObject({ code: "LOG_SEQUENCE_MISMATCH" });
    await second.append(record(2), 1);
    const outcomes = await Promise.allSettled([first.append(record(2), 1), first.append(record(3), 2 + 1), first.append(record(4), 4)]);
    for (const outcome of outcomes) expect(outcome).toMatchObject({ reason: { code: "LOG_SEQUENCE_MISMATCH" } });
    expect(await readAll(first)).toEqual([1, 2]);
  });

  test("truncation frees from the front, is idempotent and never lowers the end, also over a kill", async () => {
    const { fragile, own } = await ownServer();
    const log = await JetStreamLog.open(own, { name: "wal", replicas: 1 });
    await Promise.all(upTo(1, 20).map((seq) => log.append(record(seq), seq - 1)));
    await log.truncate(5);
    await log.truncate(5);
    await log.truncate(2);
    await log.truncate(0);
    expect(await log.state()).toMatchObject({ first: 6, last: 20 });
    expect(await readAll(log)).toEqual(upTo(6, 20));
    await log.truncate(1_000);
    expect(await log.state()).toEqual({ first: 21, last: 20, bytes: 0 });
    expect(await log.read(1, PAGE)).toEqual([]);
    await fragile.restart();
    expect(await log.state()).toMatchObject({ first: 21, last: 20 });
    await vi.waitFor(() => expect(own.connected()).toBe(true), 10_000);
    expect(await log.append(record(21), 20)).toBe(21);
    await fragile.restart();
    expect(await readAll(log)).toEqual([21]);
  });

  test("shows a hole as missing sequences and reads on behind it", async () => {
    const log = await openLog({ name: "holes" });
    await Promise.all(upTo(1, 60).map((seq) => log.append(record(seq), seq - 1)));
    for (const seq of upTo(11, 50)) {
      await link.inbox.request("$JS.API.STREAM.MSG.DELETE.holes", JSON.stringify({ seq }), { timeoutMs: 5_000 });
    }
    expect(await readAll(log)).toEqual([...upTo(1, 10), ...upTo(51, 60)]);
    expect((await log.read(12, { recordsMax: 1, bytesMax: 1 })).map((r) => r.seq)).toEqual([51]);
  });

  test("a full log refuses, keeps what it has, and takes more after truncation", async () => {
    const log = await openLog({ bytesMax: 100_000 });
    let last = 0;
    const fill = async () => {
      for (;;) last = await log.append(record(last + 1, 10_000), last);
    };
    await expect(fill()).rejects.toMatchObject({ code: "STORAGE_FULL" });
    expect(last).toBeGreaterThan(5);
    expect(await readAll(log)).toEqual(upTo(1, last));
    await log.truncate(2);
    expect(await log.append(record(last + 1, 10_000), last)).toBe(last + 1);
  });

  test("takes records up to its maximum and refuses larger ones without touching the log", async () => {
    const log = await openLog();
    await log.append(record(1, log.recordBytesMax), 0);
    await expect(log.append(record(2, log.recordBytesMax + 1), 1)).rejects.toMatchObject({ code: "BATCH_TOO_LARGE" });
    await log.append(record(2, 4), 1);
    const [large] = await log.read(1, PAGE);
    expect(Buffer.compare(large?.data ?? new Uint8Array(), record(1, log.recordBytesMax))).toBe(0);
    await expect(openLog({ recordBytesMin: LIMITS.frameBytesMax })).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      message: expect.stringContaining("max_payload"),
    });
  });

  test("refuses a stream whose settings lose records, and says what to change", async () => {
    const config = {
      name: "loose",
      subjects: ["tributary.log.loose"],
      storage: "file",
      max_age: 1e12,
      discard: "old",
      persist_mode: "async",
    };
    await link.inbox.request("$JS.API.STREAM.CREATE.loose", JSON.stringify(config), { timeoutMs: 5_000 });
    await expect(openLog({ name: "loose" })).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      message: expect.stringMatching(/discard is "old", it must be "new".*max_age is 1000000000000, it must be 0.*persist_mode/),
    });
  });

  test("nothing is appended after it was closed", async () => {
    const log = await openLog();
    await log.close();
    await expect(log.append(record(1), 0)).rejects.toMatchObject({ code: "LOG_CLOSED" });
    await expect(log.state()).rejects.toMatchObject({ code: "LOG_CLOSED" });
  });
});

describe("JetStreamLog when servers die", () => {
  test("a kill among pipelined appends: what resolved is there, what did not is unknown or refused", async () => {
    const { fragile, own } = await ownServer();
    const log = await JetStreamLog.open(own, { name: "wal", replicas: 1 });
    let end = 0;
    let unknown = 0;
    for (let round = 0; round < 3; round++) {
      const acked = await appendUntilFailure(log, end, 32, async (resolved) => {
        if (resolved === 40) await fragile.kill();
      });
      unknown += acked.unknown;
      await fragile.restart();
      await vi.waitFor(() => expect(own.connected()).toBe(true), 10_000);
      const seqs = await readAll(log);
      expect(seqs).toEqual(upTo(1, seqs.length));
      expect(seqs.length).toBeGreaterThanOrEqual(acked.last);
      expect((await log.state()).last).toBe(seqs.length);
      end = seqs.length;
    }
    expect(unknown).toBeGreaterThan(0);
  });

  test("R3: the stream's leader dies among pipelined appends, and nothing acknowledged is missing at the next", async () => {
    const cluster = await startNatsCluster(3);
    onTestFinished(() => cluster.stop());
    const own = await connectNats({ url: cluster.url });
    onTestFinished(() => own.close());
    const log = await JetStreamLog.open(own, { name: "wal", replicas: 3, appendTimeoutMs: 2_000 });
    const leader = async () => {
      const info = await own.inbox.request("$JS.API.STREAM.INFO.wal", "", { timeoutMs: 5_000 });
      return info.json<{ cluster?: { leader?: string } }>().cluster?.leader;
    };
    const victim = cluster.servers[Number((await leader())?.slice(1))];
    const acked = await appendUntilFailure(log, 0, 16, async (resolved) => {
      if (resolved === 40) await victim?.kill();
    });
    expect(acked.last).toBeGreaterThanOrEqual(40);

    // As a container does: an append at an expected end decides where the log ends; reads only say what to try next.
    const end = await vi.waitFor(
      async () => {
        const { last } = await log.state();
        return await log.append(record(last + 1), last);
      },
      { timeout: 30_000, interval: 100 },
    );
    expect(end).toBeGreaterThan(acked.last);
    await victim?.restart();
    expect(await readAll(log)).toEqual(upTo(1, end));
    expect(hasCode(acked.error, "LOG_RESULT_UNKNOWN", "LOG_SEQUENCE_MISMATCH")).toBe(true);
  });
});

async function secondLink(): Promise<NatsLink> {
  const other = await connectNats({ url: server.url });
  onTestFinished(() => other.close());
  return other;
}

/** Keeps `window` appends under way until one fails, then waits for all. Every failure must be one that the port allows. */
async function appendUntilFailure(
  log: JetStreamLog,
  from: number,
  window: number,
  onResolved: (count: number) => Promise<void>,
): Promise<{ last: number; unknown: number; error: unknown }> {
  const result = { last: from, unknown: 0, error: undefined as unknown };
  let resolved = 0;
  const under = new Set<Promise<void>>();
  const deadline = performance.now() + 30_000;
  for (let seq = from + 1; result.error === undefined && performance.now() < deadline; seq++) {
    const one = log
      .append(record(seq, 4_000), seq - 1)
      .then(
        async (at) => {
          expect(at).toBe(seq);
          result.last = Math.max(result.last, at);
          await onResolved(++resolved);
        },
        (error: unknown) => {
          expect(hasCode(error, "LOG_RESULT_UNKNOWN", "LOG_SEQUENCE_MISMATCH")).toBe(true);
          if (hasCode(error, "LOG_RESULT_UNKNOWN")) result.unknown++;
          result.error ??= error;
        },
      )
      .finally(() => under.delete(one));
    under.add(one);
    if (under.size >= window) await Promise.race(under);
  }
  await Promise.all(under);
  return result;
}
