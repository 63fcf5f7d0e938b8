import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Site } from "./testing/site.ts";
import { steps, take } from "./testing/steps.ts";

const seeds = fc.integer({ min: 1, max: 1 << 30 });

describe("edge store", () => {
  it("brings every event to the core exactly once, whatever happens in between", async () => {
    await fc.assert(
      fc.asyncProperty(seeds, steps({ lengthMax: 60, drops: false }), async (seed, story) => {
        const site = new Site(seed);
        await site.open();
        await site.create(1);
        for (const step of story) await take(site, step);
        await site.drain();
        site.checkCore();
        const usage = await site.store.usage();
        expect(usage).toMatchObject({ eventsHeld: 0, eventsUnsent: 0, recordsQuarantined: 0, eventsSkipped: 0 });
      }),
      { numRuns: 150 },
    );
  });

  it("reads back its own events in order, from any ordinal on, before and after restarts", async () => {
    await fc.assert(
      fc.asyncProperty(seeds, steps({ lengthMax: 40, drops: false }), async (seed, story) => {
        const site = new Site(seed);
        await site.open();
        await site.create(2);
        for (const step of story) if (step.type !== "send") await take(site, step);
        await site.checkLocal();
        await site.restart();
        await site.checkLocal();
        const acked = [...site.gateway.acked.values()].reduce((sum, events) => sum + events.length, 0);
        expect(await site.store.usage()).toMatchObject({ eventsHeld: acked, eventsUnsent: acked });
      }),
      { numRuns: 60 },
    );
  });

  it("leaves a gap record for every event that it dropped, at the core and locally", async () => {
    await fc.assert(
      fc.asyncProperty(seeds, steps({ lengthMax: 60, drops: true }), async (seed, story) => {
        const site = new Site(seed);
        await site.open();
        await site.create(1);
        await site.create(3);
        for (const step of story) await take(site, step);
        for (const { id } of site.streams) {
          const first = (await site.snapshot(id))?.firstOrdinal ?? 0;
          const acked = (site.gateway.acked.get(id) ?? []).slice(first);
          for (const event of await site.readAll(id, first)) {
            const expected = acked[event.ordinal - first];
            if (event.gap) {
              expect(event.gap.reason).toBe("quota");
              expect(event).toMatchObject({ incarnation: expected?.incarnation, gap: { first: expected?.number } });
            } else expect(Buffer.from(event.data).toString()).toBe(expected?.text);
          }
        }
        await site.drain();
        site.checkCore({ withGaps: true });
        expect(await site.store.usage()).toMatchObject({ eventsHeld: 0, eventsUnsent: 0, recordsQuarantined: 0 });
      }),
      { numRuns: 150 },
    );
  });
});
