import type { Lane } from "@tributary/common/names";
import fc from "fast-check";
import type { Site } from "./site.ts";

export type Step =
  | { readonly type: "create"; readonly segments: number }
  | {
      readonly type: "commit";
      readonly picks: readonly { readonly stream: number; readonly key: number; readonly size: number }[];
      readonly lane: Lane;
      readonly renews: boolean;
      readonly map: { readonly stream: number; readonly otherId: boolean; readonly segments: number } | null;
    }
  | { readonly type: "send"; readonly bytesMax: number; readonly deliver: number; readonly free: boolean }
  | { readonly type: "drop"; readonly share: number }
  | { readonly type: "rewind" }
  | { readonly type: "restart" };

const segments: fc.Arbitrary<number> = fc.integer({ min: 1, max: 4 });
const create: fc.Arbitrary<Step> = fc.record({ type: fc.constant("create"), segments });
const commit: fc.Arbitrary<Step> = fc.record({
  type: fc.constant("commit"),
  picks: fc.array(fc.record({ stream: fc.nat(5), key: fc.nat(5), size: fc.oneof(fc.nat(40), fc.integer({ min: 0, max: 3_000 })) }), {
    minLength: 1,
    maxLength: 20,
  }),
  lane: fc.constantFrom<Lane>("live", "live", "backlog"),
  renews: fc.integer({ min: 0, max: 9 }).map((n) => n === 9),
  map: fc.option(fc.record({ stream: fc.nat(5), otherId: fc.boolean(), segments }), { nil: null }),
});
const send: fc.Arbitrary<Step> = fc.record({
  type: fc.constant("send"),
  bytesMax: fc.integer({ min: 1, max: 20_000 }),
  deliver: fc.nat(4),
  free: fc.boolean(),
});
const drop: fc.Arbitrary<Step> = fc.record({ type: fc.constant("drop"), share: fc.double({ min: 0, max: 1, noNaN: true }) });
const rewind: fc.Arbitrary<Step> = fc.constant({ type: "rewind" });
const restart: fc.Arbitrary<Step> = fc.constant({ type: "restart" });

/** What happens to a site. */
export function steps(options: { readonly lengthMax: number; readonly drops: boolean }): fc.Arbitrary<Step[]> {
  const step: fc.Arbitrary<Step> = fc.oneof(
    { weight: 2, arbitrary: create },
    { weight: 10, arbitrary: commit },
    { weight: 6, arbitrary: send },
    { weight: 2, arbitrary: rewind },
    { weight: 2, arbitrary: restart },
    { weight: options.drops ? 3 : 0, arbitrary: drop },
  );
  return fc.array(step, { minLength: 5, maxLength: options.lengthMax });
}

export async function take(site: Site, step: Step): Promise<void> {
  switch (step.type) {
    case "create":
      if (site.streams.length < 6) await site.create(step.segments);
      return;
    case "send":
      await site.send(step.bytesMax, step.deliver, step.free);
      return;
    case "rewind":
      return site.rewind();
    case "restart":
      return site.restart();
    case "drop":
      return site.drop(Math.floor(site.disk.bytes * step.share));
    case "commit": {
      const changes = step.map ? site.mapping(step.map.stream, step.map.otherId, step.map.segments) : [];
      // Lanes are ordered each for itself: one lane a stream, so that order within a key can be checked.
      const isLive = (stream: string) => Number.parseInt(stream.slice(0, 2), 16) % 2 === 0;
      const events = site.events(step.picks).filter(({ stream }) => isLive(stream) === (step.lane === "live"));
      await site.gateway.commit(site.store, events, changes, step.lane, step.renews);
    }
  }
}
