import { ManualClock } from "@tributary/common/testing/manual-clock";
import { expect, test, vi } from "vitest";
import type { DropReport, EdgeUsage } from "../store/edge-store.ts";
import type { QuotaDecision, QuotaPolicy } from "./quota.ts";
import { QuotaKeeper } from "./quota-keeper.ts";

const CAP = 1_000_000;

/** A log that takes so much, of which `kept` was freed and is kept for recovery, and the keeper of its quota. */
function keeperOf(policy: QuotaPolicy, disk: { bytes: number; kept: number; eventsHeld: number }) {
  const clock = new ManualClock();
  const calls: string[] = [];
  const decisions: QuotaDecision[] = [];
  const usage = (): EdgeUsage => ({
    diskBytes: disk.bytes,
    eventsHeld: disk.eventsHeld,
    eventsUnsent: 0,
    eventsSkipped: 0,
    recordsQuarantined: 0,
  });
  const reclaim = (bytesTarget: number): DropReport => {
    const bytesFreed = disk.bytes > bytesTarget ? disk.kept : 0;
    disk.bytes -= bytesFreed;
    disk.kept -= bytesFreed;
    return { eventsDropped: 0, bytesFreed };
  };
  const keeper = new QuotaKeeper(
    {
      policy,
      store: {
        usage: async () => usage(),
        reclaim: async (bytesTarget) => {
          calls.push(`reclaim to ${bytesTarget}`);
          return reclaim(bytesTarget);
        },
        dropOldest: async (bytesTarget) => {
          calls.push(`drop to ${bytesTarget}`);
          return reclaim(bytesTarget);
        },
      },
      clock,
      pendingBytes: () => 0,
      apply: (decision) => decisions.push(decision),
      dropped: () => {},
      failed: (error) => {
        throw error;
      },
    },
    usage(),
  );
  const allowance = () => decisions.at(-1)?.allowanceBytes ?? 0;
  return { clock, calls, keeper, allowance, decisions };
}

test("reject takes back what is kept where it alone keeps an event out (simulation, seeds 359, 548, 599)", async () => {
  const { clock, calls, keeper, allowance } = keeperOf(
    { diskBytesMax: CAP, whenFull: "reject" },
    { bytes: 949_990, kept: 900_000, eventsHeld: 0 },
  );
  expect(keeper.refusing).toBe(false);
  expect(allowance()).toBe(10);
  keeper.overQuota(100);
  clock.advance(1);
  await vi.waitFor(() => expect(allowance()).toBeGreaterThanOrEqual(100));
  expect(calls).toEqual(["reclaim to 850000"]);
  keeper.close();
});

test("reject never drops events, and what does not fit anyway does not keep it busy", async () => {
  const { clock, calls, keeper, decisions } = keeperOf(
    { diskBytesMax: CAP, whenFull: "reject" },
    { bytes: 960_000, kept: 0, eventsHeld: 0 },
  );
  await vi.waitFor(() => expect(calls).toEqual(["reclaim to 850000"]));
  keeper.overQuota(2 * CAP);
  for (let i = 0; i < 3; i++) {
    const before = decisions.length;
    clock.advance(1_000);
    await vi.waitFor(() => expect(decisions.length).toBeGreaterThan(before));
  }
  expect(calls.some((call) => call.startsWith("drop"))).toBe(false);
  keeper.close();
});

test("drop-oldest drops", async () => {
  const { calls, keeper } = keeperOf({ diskBytesMax: CAP, whenFull: "drop-oldest" }, { bytes: 960_000, kept: 500_000, eventsHeld: 9 });
  await vi.waitFor(() => expect(calls).toEqual(["drop to 850000"]));
  keeper.close();
});
