import { systemClock } from "@tributary/common/clock";
import { TributaryError } from "@tributary/common/errors";
import type { Log } from "@tributary/common/ports/log";
import { describe, expect, it } from "vitest";
import { createEdgeStore } from "./log-edge-store.ts";
import { seededRandom } from "./testing/gateway-model.ts";
import { type Fault, type LogOperation, MemoryLog } from "./testing/memory-log.ts";
import { Site } from "./testing/site.ts";

/** A fixed story with everything in it: creations, mappings, both lanes, incarnations, sends, frees, restarts, drops. */
async function story(site: Site, step: (work: () => Promise<unknown>) => Promise<void>): Promise<void> {
  const random = seededRandom(99);
  const picks = (count: number) =>
    Array.from({ length: count }, () => ({
      stream: Math.floor(random.float() * 4),
      key: Math.floor(random.float() * 6),
      size: Math.floor(random.float() * 400),
    }));
  for (const segments of [1, 2, 3]) await step(() => site.create(segments));
  for (let round = 0; round < 12; round++) {
    const renews = round % 5 === 2;
    const changes = () => (round === 4 ? site.mapping(0, false, 1) : round === 6 ? site.mapping(1, true, 3) : []);
    await step(() => site.gateway.commit(site.store, site.events(picks(8)), changes(), "live", renews));
    // Two at once: the second builds on the first.
    await step(() =>
      Promise.all([
        site.gateway.commit(site.store, site.events(picks(3))),
        site.gateway.commit(site.store, site.events(picks(3)), [], "live", renews),
      ]),
    );
    if (round % 3 === 2) await step(() => site.send(3_000, 2, true));
    if (round === 7) await step(() => site.restart());
  }
}

/** Plays the story with one fault at the n-th operation of the log. Returns whether the story got that far. */
async function play(n: number, fault: Fault): Promise<boolean> {
  const site = new Site(4242);
  await site.open();
  let operations = 0;
  let struck = false;
  site.disk.fault = (_: LogOperation) => {
    if (++operations !== n) return undefined;
    struck = true;
    return fault;
  };
  await story(site, async (work) => {
    try {
      await work();
    } catch (error) {
      if (!struck) throw error;
      // A process that lives on opens its store again; a dead one is followed by another.
      await (fault === "full" ? site.reopen() : site.restart());
    }
  });
  site.disk.fault = () => undefined;
  await site.restart();
  await site.drain();
  site.checkCore();
  expect(await site.store.usage()).toMatchObject({ eventsHeld: 0, eventsUnsent: 0, recordsQuarantined: 0 });
  return struck;
}

describe("edge store and a dying log", () => {
  it("finishes a drop, or leaves everything as it was", async () => {
    for (const fault of ["crash-before", "crash-after", "full"] as const) {
      for (let n = 1; n <= 4; n++) {
        const site = new Site(7);
        await site.open();
        await story(site, async (work) => void (await work()));
        const held = (await site.store.usage()).eventsHeld;
        let operations = 0;
        site.disk.fault = () => (++operations === n ? fault : undefined);
        const dropped = await site.drop(site.disk.bytes / 2).then(
          () => true,
          () => false,
        );
        site.disk.fault = () => undefined;
        await site.restart();
        const left = (await site.store.usage()).eventsHeld;
        if (dropped) expect(left).toBeLessThan(held);
        await site.drain();
        site.checkCore({ withGaps: true });
        expect(await site.store.usage()).toMatchObject({ eventsHeld: 0, recordsQuarantined: 0 });
      }
    }
  });

  for (const fault of ["crash-before", "crash-after", "full"] as const) {
    it(`loses and doubles nothing when it fails at any operation: ${fault}`, async () => {
      let n = 1;
      while (await play(n, fault)) n++;
      expect(n).toBeGreaterThan(50);
    });
  }

  it("says of a commit that may have landed that it may have, also where something else failed before (simulation, seed 1666)", async () => {
    const site = new Site(3);
    let append: () => Promise<void> = async () => undefined;
    let read: () => Promise<void> = async () => undefined;
    site.store = createEdgeStore({
      log: async () => ({ log: unsteady(new MemoryLog(site.disk)), report: { recordsQuarantined: 0, quarantinePath: "" } }),
      random: seededRandom(1),
      clock: systemClock,
    });
    const unsteady = (log: Log): Log => ({
      state: () => log.state(),
      async append(data, expectedLast) {
        const seq = await log.append(data, expectedLast);
        await append();
        return seq;
      },
      async read(fromSeq, bounds) {
        await read();
        return log.read(fromSeq, bounds);
      },
      truncate: (throughSeq) => log.truncate(throughSeq),
      close: () => log.close(),
    });
    await site.open();
    await site.create(1);
    await site.gateway.commit(site.store, [], site.mapping(0, false, 1));
    const broken = new TributaryError("LOG_RESULT_UNKNOWN", "no answer");
    const answer = Promise.withResolvers<void>();
    append = () => answer.promise;
    read = () => Promise.reject(broken);
    const commit = site.gateway.commit(site.store, site.events([{ stream: 0, key: 1, size: 9 }]));
    const outcome = expect(commit).rejects.toMatchObject({ code: "LOG_RESULT_UNKNOWN" });
    await expect(site.store.uplinkNext(1)).rejects.toMatchObject({ code: "LOG_RESULT_UNKNOWN" });
    answer.reject(broken);
    await outcome;
    // Nothing was handed to the log here.
    await expect(site.gateway.commit(site.store, site.events([{ stream: 0, key: 1, size: 9 }]))).rejects.toMatchObject({
      code: "LOG_CLOSED",
    });
  });
});
