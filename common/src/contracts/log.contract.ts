import fc from "fast-check";
import { describe, expect, onTestFinished, test } from "vitest";
import type { Log, LogRecord } from "../ports/log.ts";

export interface LogFixture {
  /** Opens the one log of this fixture. It is opened again only after the earlier handle was closed. */
  open(): Promise<Log>;
  close(): Promise<void>;
}

const ALL = { recordsMax: 1000, bytesMax: 100_000_000 };

/** What every Log does. `setup` makes an empty log. */
export function logContract(name: string, setup: () => Promise<LogFixture>): void {
  const start = async (): Promise<LogFixture> => {
    const fixture = await setup();
    onTestFinished(() => fixture.close());
    return fixture;
  };
  const startOpen = async (): Promise<Log> => (await start()).open();

  describe(`Log contract: ${name}`, () => {
    test("starts empty", async () => {
      const log = await startOpen();
      expect(await log.state()).toMatchObject({ first: 1, last: 0 });
      expect(await log.read(1, ALL)).toEqual([]);
      await log.close();
    });

    test("appends at the expected end and reads back what was appended", async () => {
      const log = await startOpen();
      expect(await log.append(text("a"), 0)).toBe(1);
      expect(await log.append(text("b"), 1)).toBe(2);
      expect(shown(await log.read(1, ALL))).toEqual(["1:a", "2:b"]);
      expect(await log.state()).toMatchObject({ first: 1, last: 2 });
      expect((await log.state()).bytes).toBeGreaterThan(0);
      await log.close();
    });

    test("keeps empty and binary records", async () => {
      const log = await startOpen();
      const bytes = Uint8Array.from({ length: 70_000 }, (_, i) => (i * 7) & 0xff);
      await log.append(new Uint8Array(), 0);
      await log.append(bytes, 1);
      const [empty, binary] = await log.read(1, ALL);
      expect(empty?.data).toHaveLength(0);
      expect(Buffer.compare(binary?.data ?? new Uint8Array(), bytes)).toBe(0);
      await log.close();
    });

    test("leaves the caller's bytes alone, whole buffers and views alike", async () => {
      const log = await startOpen();
      const whole = patterned(5000, 1);
      const view = patterned(9000, 2).subarray(1000, 4000);
      await Promise.all([log.append(whole, 0), log.append(view, 1)]);
      expect(whole).toEqual(patterned(5000, 1));
      expect(view).toEqual(patterned(9000, 2).subarray(1000, 4000));
      const records = await log.read(1, ALL);
      expect(Buffer.compare(records[1]?.data ?? new Uint8Array(), view)).toBe(0);
      await log.close();
    });

    test("refuses an append that expects another end, and appends nothing", async () => {
      const log = await startOpen();
      await log.append(text("a"), 0);
      for (const expectedLast of [0, 2, 7]) {
        await expect(log.append(text("x"), expectedLast)).rejects.toMatchObject({ code: "LOG_SEQUENCE_MISMATCH" });
      }
      expect(await log.append(text("b"), 1)).toBe(2);
      expect(shown(await log.read(1, ALL))).toEqual(["1:a", "2:b"]);
      await log.close();
    });

    test("carries out pipelined appends in the order of the calls", async () => {
      const log = await startOpen();
      const count = 150;
      const seqs = await Promise.all(Array.from({ length: count }, (_, i) => log.append(text(`r${i}`), i)));
      expect(seqs).toEqual(Array.from({ length: count }, (_, i) => i + 1));
      const read = await readAll(log, 1);
      expect(shown(read)).toEqual(seqs.map((seq) => `${seq}:r${seq - 1}`));
      await log.close();
    });

    test("of two pipelines for one place the first wins, the second fails whole", async () => {
      const log = await startOpen();
      const results = await Promise.allSettled([
        log.append(text("a"), 0),
        log.append(text("b"), 1),
        log.append(text("x"), 0),
        log.append(text("y"), 1),
      ]);
      expect(results.map((result) => (result.status === "fulfilled" ? result.value : result.reason.code))).toEqual([
        1,
        2,
        "LOG_SEQUENCE_MISMATCH",
        "LOG_SEQUENCE_MISMATCH",
      ]);
      expect(shown(await log.read(1, ALL))).toEqual(["1:a", "2:b"]);
      await log.close();
    });

    test("what is pipelined behind a failed append fails too; the log goes on from its end", async () => {
      const log = await startOpen();
      const results = await Promise.allSettled([
        log.append(text("a"), 0),
        log.append(text("lost"), 5),
        log.append(text("behind"), 6),
        log.append(text("behind"), 7),
      ]);
      expect(results.map((result) => result.status)).toEqual(["fulfilled", "rejected", "rejected", "rejected"]);
      expect(await log.append(text("b"), 1)).toBe(2);
      expect(shown(await log.read(1, ALL))).toEqual(["1:a", "2:b"]);
      await log.close();
    });

    test("reads within bounds, and always at least one record", async () => {
      const log = await startOpen();
      for (let i = 0; i < 6; i++) await log.append(patterned(1000, i), i);
      const seqs = async (fromSeq: number, recordsMax: number, bytesMax: number) =>
        (await log.read(fromSeq, { recordsMax, bytesMax })).map((record) => record.seq);
      expect(await seqs(2, 3, 1_000_000)).toEqual([2, 3, 4]);
      expect(await seqs(5, 100, 1_000_000)).toEqual([5, 6]);
      expect(await seqs(3, 100, 2_999)).toEqual([3, 4]);
      expect(await seqs(3, 100, 3_000)).toEqual([3, 4, 5]);
      expect(await seqs(3, 100, 1)).toEqual([3]);
      expect(await seqs(0, 2, 1_000_000)).toEqual([1, 2]);
      expect(await seqs(7, 10, 1_000_000)).toEqual([]);
      expect(await seqs(1_000, 10, 1_000_000)).toEqual([]);
      await log.close();
    });

    test("keeps a record as it was, whatever its bytes become once it is durable", async () => {
      const log = await startOpen();
      const buffer = patterned(300_000, 1);
      await log.append(buffer, 0);
      buffer.fill(0);
      await log.append(buffer, 1);
      const [first, second] = await readAll(log, 1);
      expect(Buffer.compare(first?.data ?? buffer, patterned(300_000, 1))).toBe(0);
      expect(Buffer.compare(second?.data ?? buffer, buffer)).toBe(0);
      await log.close();
    });

    test("carries records of 4 MiB", async () => {
      const log = await startOpen();
      const sent = [0, 1, 2].map((seed) => patterned(4_194_304, seed));
      await Promise.all(sent.map((data, i) => log.append(data, i)));
      const read = await readAll(log, 1);
      expect(read.map((record) => record.seq)).toEqual([1, 2, 3]);
      for (const [i, record] of read.entries()) expect(Buffer.compare(record.data, sent[i] as Uint8Array)).toBe(0);
      await log.close();
    });

    test("truncates from the front, idempotently, and never past its end", async () => {
      const log = await startOpen();
      for (let i = 0; i < 5; i++) await log.append(text(`r${i + 1}`), i);
      await log.truncate(2);
      expect(await log.state()).toMatchObject({ first: 3, last: 5 });
      expect(shown(await log.read(1, ALL))).toEqual(["3:r3", "4:r4", "5:r5"]);
      await log.truncate(2);
      await log.truncate(1);
      await log.truncate(0);
      expect(await log.state()).toMatchObject({ first: 3, last: 5 });
      expect(await log.append(text("r6"), 5)).toBe(6);
      await log.truncate(5);
      expect(shown(await log.read(3, ALL))).toEqual(["6:r6"]);
      await log.truncate(900);
      expect(await log.state()).toMatchObject({ first: 7, last: 6 });
      expect(await log.append(text("r7"), 6)).toBe(7);
      expect(shown(await log.read(1, ALL))).toEqual(["7:r7"]);
      await log.close();
    });

    test("appends while a truncation is under way", async () => {
      const log = await startOpen();
      await Promise.all(Array.from({ length: 200 }, (_, i) => log.append(patterned(200, i), i)));
      const [, ...seqs] = await Promise.all([log.truncate(200), log.append(text("a"), 200), log.append(text("b"), 201)]);
      expect(seqs).toEqual([201, 202]);
      expect(shown(await log.read(1, ALL))).toEqual(["201:a", "202:b"]);
      await log.close();
    });

    test("reads while appends are under way see a prefix of the log", async () => {
      const log = await startOpen();
      let acknowledged = 0;
      const appends = Array.from({ length: 60 }, async (_, i) => {
        acknowledged = Math.max(acknowledged, await log.append(text(`r${i + 1}`), i));
      });
      const reads = Array.from({ length: 10 }, async () => {
        const before = acknowledged;
        const seqs = (await log.read(1, ALL)).map((record) => record.seq);
        expect(seqs).toEqual(seqs.map((_, i) => i + 1));
        expect(seqs.length).toBeGreaterThanOrEqual(before);
      });
      await Promise.all([...appends, ...reads]);
      await log.close();
    });

    test("keeps everything over a reopen", async () => {
      const fixture = await start();
      const before = await fixture.open();
      for (let i = 0; i < 4; i++) await before.append(text(`r${i + 1}`), i);
      await before.truncate(1);
      await before.close();
      const after = await fixture.open();
      expect(await after.state()).toMatchObject({ first: 2, last: 4 });
      expect(shown(await after.read(1, ALL))).toEqual(["2:r2", "3:r3", "4:r4"]);
      expect(await after.append(text("r5"), 4)).toBe(5);
      await after.close();
    });

    test("keeps its end over a reopen when everything was truncated", async () => {
      const fixture = await start();
      const before = await fixture.open();
      for (let i = 0; i < 3; i++) await before.append(text("x"), i);
      await before.truncate(3);
      await before.close();
      const after = await fixture.open();
      expect(await after.state()).toMatchObject({ first: 4, last: 3 });
      await expect(after.append(text("x"), 0)).rejects.toMatchObject({ code: "LOG_SEQUENCE_MISMATCH" });
      expect(await after.append(text("r4"), 3)).toBe(4);
      expect(shown(await after.read(1, ALL))).toEqual(["4:r4"]);
      await after.close();
    });

    test("refuses everything once closed", async () => {
      const log = await startOpen();
      await log.close();
      await log.close();
      await expect(log.append(text("x"), 0)).rejects.toMatchObject({ code: "LOG_CLOSED" });
      await expect(log.read(1, ALL)).rejects.toMatchObject({ code: "LOG_CLOSED" });
      await expect(log.state()).rejects.toMatchObject({ code: "LOG_CLOSED" });
      await expect(log.truncate(1)).rejects.toMatchObject({ code: "LOG_CLOSED" });
    });

    test("finishes the appends that were called before close", async () => {
      const fixture = await start();
      const log = await fixture.open();
      const appends = [0, 1, 2].map((i) => log.append(text(`r${i + 1}`), i));
      await Promise.all([...appends, log.close()]);
      const again = await fixture.open();
      expect(shown(await again.read(1, ALL))).toEqual(["1:r1", "2:r2", "3:r3"]);
      await again.close();
    });

    test("does what a list with a moving front does", async () => {
      const fixture = await start();
      let log = await fixture.open();
      let last = (await log.state()).last;
      let kept: LogRecord[] = [];
      await fc.assert(
        fc.asyncProperty(fc.array(operation(), { minLength: 1, maxLength: 8 }), async (operations) => {
          for (const op of operations) {
            if (op.type === "append") {
              const data = patterned(op.size, last);
              if (op.off === 0) {
                expect(await log.append(data, last)).toBe(++last);
                kept.push({ seq: last, data });
              } else {
                await expect(log.append(data, last + op.off)).rejects.toMatchObject({ code: "LOG_SEQUENCE_MISMATCH" });
              }
            } else if (op.type === "truncate") {
              await log.truncate(last - op.back);
              kept = kept.filter((record) => record.seq > last - op.back);
            } else {
              await log.close();
              log = await fixture.open();
            }
          }
          expect(await log.state()).toMatchObject({ first: kept[0]?.seq ?? last + 1, last });
          const read = await readAll(log, 0);
          expect(read.map((record) => record.seq)).toEqual(kept.map((record) => record.seq));
          for (const [i, record] of read.entries()) expect(Buffer.compare(record.data, kept[i]?.data ?? text("?"))).toBe(0);
        }),
        { numRuns: 20 },
      );
      await log.close();
    });
  });
}

function operation() {
  return fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({ type: fc.constant("append" as const), size: fc.nat(9000), off: fc.constantFrom(0, 0, 0, 0, 1, -1) }),
    },
    { weight: 2, arbitrary: fc.record({ type: fc.constant("truncate" as const), back: fc.nat(6) }) },
    { weight: 1, arbitrary: fc.record({ type: fc.constant("reopen" as const) }) },
  );
}

async function readAll(log: Log, fromSeq: number): Promise<LogRecord[]> {
  const records: LogRecord[] = [];
  for (let from = fromSeq; ; from = (records.at(-1)?.seq ?? 0) + 1) {
    const page = await log.read(from, { recordsMax: 64, bytesMax: 1_000_000 });
    if (page.length === 0) return records;
    records.push(...page);
  }
}

function shown(records: readonly LogRecord[]): string[] {
  return records.map(({ seq, data }) => `${seq}:${new TextDecoder().decode(data)}`);
}

function text(value: string): Uint8Array {
  return new TextEncoder().encode(value);
}

/** Bytes whose order shows: a part lost, doubled or swapped changes them. */
function patterned(size: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i++) bytes[i] = (i ^ (i >>> 8) ^ (i >>> 16) ^ (seed * 31)) & 0xff;
  return bytes;
}
