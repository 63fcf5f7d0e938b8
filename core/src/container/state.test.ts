import { LIMITS } from "@tributary/common/limits";
import { describe, expect, it } from "vitest";
import { ContainerState, setProducer } from "./state.ts";
import { SEGMENT } from "./testing/gateway.ts";

describe("producers of a stream", () => {
  it("are forgotten in the order of their last use", () => {
    const stream = new ContainerState().register({
      streamId: "a".repeat(32),
      segments: [SEGMENT],
      contentType: "text/plain",
      closed: false,
    });
    const max = LIMITS.producersPerStreamMax;
    for (let i = 0; i < max; i++) setProducer(stream, `p${i}`, { epoch: 0, seq: 0 });
    setProducer(stream, "p0", { epoch: 0, seq: 1 });
    setProducer(stream, "new", { epoch: 0, seq: 0 });
    expect(stream.producers.size).toBe(max);
    expect(stream.producers.get("p0")?.seq).toBe(1);
    expect(stream.producers.has("p1")).toBe(false);
    expect(stream.producers.has("p2")).toBe(true);
  });
});
