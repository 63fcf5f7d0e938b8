import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Site } from "./testing/site.ts";

const pick = fc.record({ stream: fc.nat(5), key: fc.nat(5), size: fc.oneof(fc.nat(40), fc.integer({ min: 0, max: 3_000 })) });
const step = fc.oneof(
  { weight: 2, arbitrary: fc.record({ type: fc.constant("create" as const), segments: fc.integer({ min: 1, max: 4 }) }) },
  {
    weight: 10,
    arbitrary: fc.record({
      type: fc.constant("commit" as const),
      picks: fc.array(pick, { minLength: 1, maxLength: 20 }),
      lane: fc.constantFrom("live" as const, "live" as const, "backlog" as const),
      map: fc.option(fc.record({ stream: fc.nat(5), otherId: fc.boolean(), segments: fc.integer({ min: 1, max: 4 }) })),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      type: fc.constant("send" as const),
      bytesMax: fc.integer({ min: 1, max: 20_000 }),
      deliver: fc.nat(4),
      free: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ type: fc.constant("rewind" as const) }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant("restart" as const) }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

async function take(site: Site, next: Step): Promise<void> {
  if (next.type === "create") return site.streams.length < 6 ? site.create(next.segments) : undefined;
  if (next.type === "send") return void (await site.send(next.bytesMax, next.deliver, next.free));
  if (next.type === "rewind") return site.rewind();
  if (next.type === "restart") return site.restart();
  const changes = next.map ? site.mapping(next.map.stream, next.map.otherId, next.map.segments) : [];
  // Lanes are ordered each for itself: one lane a stream, so that order within a key can be checked.
  const events = site
    .events(next.picks)
    .filter((event) => (Number.parseInt(event.stream.slice(0, 2), 16) % 2 === 0) === (next.lane === "live"));
  await site.gateway.commit(site.store, events, changes, next.lane);
}

describe("edge store", () => {
  it("brings every event to the core exactly once, whatever happens in between", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 1 << 30 }), fc.array(step, { minLength: 5, maxLength: 60 }), async (seed, steps) => {
        const site = new Site(seed);
        await site.open();
        await site.create(1);
        for (const next of steps) await take(site, next);
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
      fc.asyncProperty(fc.integer({ min: 1, max: 1 << 30 }), fc.array(step, { minLength: 5, maxLength: 40 }), async (seed, steps) => {
        const site = new Site(seed);
        await site.open();
        await site.create(2);
        for (const next of steps) if (next.type !== "send") await take(site, next);
        await site.checkLocal();
        await site.restart();
        await site.checkLocal();
        const acked = [...site.gateway.acked.values()].reduce((sum, events) => sum + events.length, 0);
        expect(await site.store.usage()).toMatchObject({ eventsHeld: acked, eventsUnsent: acked });
      }),
      { numRuns: 60 },
    );
  });
});
