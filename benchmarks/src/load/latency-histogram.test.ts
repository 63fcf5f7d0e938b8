import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LatencyHistogram } from "./latency-histogram.ts";

describe("LatencyHistogram", () => {
  it("gives quantiles within 1.6 % of the sorted values", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 2 ** 31 - 1 }), { minLength: 1, maxLength: 200 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (values, quantile) => {
          const histogram = new LatencyHistogram();
          for (const us of values) histogram.record(us / 1000);
          const sorted = values.toSorted((a, b) => a - b);
          const exact = (sorted[Math.max(1, Math.ceil(quantile * sorted.length)) - 1] as number) / 1000;
          const found = histogram.quantileMs(quantile);
          expect(found).toBeGreaterThanOrEqual(exact);
          expect(found).toBeLessThanOrEqual(exact * 1.016);
          expect(histogram.summary().max).toBe((sorted.at(-1) as number) / 1000);
          expect(histogram.count).toBe(values.length);
        },
      ),
    );
  });

  it("is all zero without records", () => {
    expect(new LatencyHistogram().summary()).toEqual({ p50: 0, p99: 0, p999: 0, max: 0, mean: 0 });
  });
});
