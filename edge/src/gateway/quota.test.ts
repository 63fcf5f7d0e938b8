import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decideQuota } from "./quota.ts";

const cap = 1_000_000;
const now = (diskBytes: number, more: Partial<Parameters<typeof decideQuota>[1]> = {}) => ({
  diskBytes,
  eventsHeld: 1,
  pendingBytes: 0,
  refusing: false,
  wantedBytes: 0,
  ...more,
});

describe("reject", () => {
  const policy = { diskBytesMax: cap, whenFull: "reject" } as const;
  test("refuses before the cap, and until there is room again", () => {
    expect(decideQuota(policy, now(940_000)).refuse).toBe(false);
    expect(decideQuota(policy, now(940_000)).allowanceBytes).toBe(10_000);
    expect(decideQuota(policy, now(950_000)).refuse).toBe(true);
    expect(decideQuota(policy, now(940_000, { pendingBytes: 20_000 })).refuse).toBe(true);
    expect(decideQuota(policy, now(940_000, { refusing: true })).refuse).toBe(true);
    expect(decideQuota(policy, now(890_000, { refusing: true })).refuse).toBe(false);
  });
  test("takes back what is free only once no event is held", () => {
    const state = fc.record({ diskBytes: fc.nat(2 * cap), pendingBytes: fc.nat(cap), refusing: fc.boolean(), wantedBytes: fc.nat(cap) });
    fc.assert(
      fc.property(state, fc.integer({ min: 1, max: 100 }), (state, eventsHeld) => {
        expect(decideQuota(policy, { ...state, eventsHeld }).shrinkToBytes).toBeUndefined();
      }),
    );
    expect(decideQuota(policy, now(950_000, { eventsHeld: 0 })).shrinkToBytes).toBe(850_000);
    expect(decideQuota(policy, now(940_000, { eventsHeld: 0 })).shrinkToBytes).toBeUndefined();
  });
  test("takes back what is free where events that were refused need it, unless they never fit", () => {
    const idle = (wantedBytes: number) => decideQuota(policy, now(940_000, { eventsHeld: 0, wantedBytes }));
    expect(idle(10_000).shrinkToBytes).toBeUndefined();
    expect(idle(10_001)).toMatchObject({ refuse: false, shrinkToBytes: 850_000 });
    expect(idle(600_000).shrinkToBytes).toBe(350_000);
    expect(idle(950_001).shrinkToBytes).toBeUndefined();
  });
});

describe("drop-oldest", () => {
  const policy = { diskBytesMax: cap, whenFull: "drop-oldest" } as const;
  test("drops near the cap and refuses only at it", () => {
    expect(decideQuota(policy, now(940_000))).toMatchObject({ refuse: false, shrinkToBytes: undefined });
    expect(decideQuota(policy, now(960_000))).toMatchObject({ refuse: false, shrinkToBytes: 850_000, allowanceBytes: 40_000 });
    expect(decideQuota(policy, now(1_000_000))).toMatchObject({ refuse: true, allowanceBytes: 0 });
  });
  test("makes room for what was refused", () => {
    expect(decideQuota(policy, now(500_000, { wantedBytes: 600_000 })).shrinkToBytes).toBe(400_000);
  });
});

test("what is allowed stays below the cap", () => {
  const policy = fc.record({
    diskBytesMax: fc.integer({ min: 1, max: 2 * cap }),
    whenFull: fc.constantFrom("reject" as const, "drop-oldest" as const),
  });
  const state = fc.record({
    diskBytes: fc.nat(cap),
    eventsHeld: fc.nat(9),
    pendingBytes: fc.nat(cap),
    refusing: fc.boolean(),
    wantedBytes: fc.nat(cap),
  });
  fc.assert(
    fc.property(policy, state, (policy, state) => {
      const { allowanceBytes, refuse } = decideQuota(policy, state);
      if (refuse) expect(allowanceBytes).toBe(0);
      else expect(state.diskBytes + allowanceBytes).toBeLessThanOrEqual(policy.diskBytesMax);
    }),
  );
});
