import { describe, expect, it } from "vitest";
import { NodeWorld } from "./testing/node-world.ts";

describe("nodes of a cluster", () => {
  it("share the containers, and those of one that dies are served again within 3 s", async () => {
    const world = new NodeWorld();
    await world.start("one");
    expect(world.balanced(4)).toBe(true);
    const two = await world.start("two");
    await world.start("three");
    await world.until(() => world.balanced(4), 10_000);
    world.kill(two);
    expect(world.allServed(4)).toBe(false);
    const ms = await world.until(() => world.allServed(4), 10_000);
    expect(ms).toBeLessThanOrEqual(3_000);
  });
});
