import { describe, expect, it } from "vitest";
import { seededRandom } from "./testing/gateway-model.ts";
import type { Fault, LogOperation } from "./testing/memory-log.ts";
import { Site } from "./testing/site.ts";

/** A fixed story with everything in it: creations, mappings, both lanes, sends, frees, restarts, drops. */
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
    const changes = () => (round === 4 ? site.mapping(0, false, 1) : round === 6 ? site.mapping(1, true, 3) : []);
    await step(() => site.gateway.commit(site.store, site.events(picks(8)), changes()));
    // Two at once: the second builds on the first.
    await step(() =>
      Promise.all([site.gateway.commit(site.store, site.events(picks(3))), site.gateway.commit(site.store, site.events(picks(3)))]),
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
});
