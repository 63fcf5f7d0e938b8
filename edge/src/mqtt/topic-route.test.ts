import { LIMITS } from "@tributary/common/limits";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FakeIngest } from "./testing/fake-ingest.ts";
import { isTopicOf, mapTopic, TopicRoutes } from "./topic-route.ts";

describe("mapTopic", () => {
  it.each([
    ["plant/temperature", "plant", "temperature", undefined],
    ["temperature", "default", "temperature", undefined],
    ["plant/temperature/line-1", "plant", "temperature", "line-1"],
    ["plant/temperature/line-1/oven 2/°C", "plant", "temperature", "line-1/oven 2/°C"],
    ["p.1_a-B/7/$x", "p.1_a-B", "7", "$x"],
  ])("%s", (topic, scope, stream, key) => {
    expect(mapTopic(topic)).toEqual({ name: { scope, stream }, key });
  });

  it.each([
    ["plant/+/x", "topic-wildcard"],
    ["plant/#", "topic-wildcard"],
    ["#", "topic-wildcard"],
    ["plant/s/a+b", "topic-wildcard"],
    ["/plant/s", "topic-level-empty"],
    ["plant//s", "topic-level-empty"],
    ["plant/s/", "topic-level-empty"],
    ["plant/s/a//b", "topic-level-empty"],
    ["", "topic-level-empty"],
    ["$SYS/broker", "topic-name-invalid"],
    ["plant/$s", "topic-name-invalid"],
    ["plant/tempé", "topic-name-invalid"],
    ["pl ant/s", "topic-name-invalid"],
    ["-plant/s", "topic-name-invalid"],
    [`${"a".repeat(LIMITS.nameCharsMax + 1)}/s`, "topic-name-invalid"],
    [`plant/s/${"ä".repeat(LIMITS.routingKeyBytesMax / 2 + 1)}`, "topic-key-too-long"],
  ])("%s maps to no stream", (topic, refused) => {
    expect(mapTopic(topic)).toEqual({ refused });
  });

  it("takes keys and names at their limits", () => {
    const name = "a".repeat(LIMITS.nameCharsMax);
    const key = "ä".repeat(LIMITS.routingKeyBytesMax / 2);
    expect(mapTopic(`${name}/${name}/${key}`)).toEqual({ name: { scope: name, stream: name }, key });
  });
});

describe("TopicRoutes", () => {
  const bytesOf = (topic: string | Uint8Array) => Buffer.concat([Buffer.from("##"), Buffer.from(topic), Buffer.from("##")]);
  const find = (routes: TopicRoutes, topic: string | Uint8Array) => {
    const bytes = bytesOf(topic);
    return routes.find(bytes, 2, bytes.length - 2);
  };

  it("creates a stream once and finds the same route again", () => {
    const ingest = new FakeIngest();
    const routes = new TopicRoutes(ingest);
    const first = find(routes, "plant/temperature/7");
    expect(find(routes, "plant/temperature/7")).toBe(first);
    expect(find(routes, "plant/temperature/8")).toMatchObject({ key: "8", handle: (first as { handle: unknown }).handle });
    expect(ingest.stream({ scope: "plant", stream: "temperature" })).toMatchObject({ contentType: "application/octet-stream" });
  });

  it("tells topics apart by every byte", () => {
    const routes = new TopicRoutes(new FakeIngest());
    fc.assert(
      fc.property(fc.array(fc.constantFrom("s/a/x", "s/a/y", "s/b/x", "s/a", "s", "s/a/é", "s/a/xx"), { minLength: 2 }), (topics) => {
        for (const topic of topics) {
          const bytes = bytesOf(topic);
          const route = routes.find(bytes, 2, bytes.length - 2);
          if (typeof route === "string") throw new Error(route);
          expect(Buffer.from(route.topic).toString()).toBe(topic);
          for (const other of topics) {
            const otherBytes = bytesOf(other);
            expect(isTopicOf(route, otherBytes, 2, otherBytes.length - 2)).toBe(other === topic);
          }
        }
      }),
    );
  });

  it("refuses what is not text, and remembers nothing of it", () => {
    const routes = new TopicRoutes(new FakeIngest());
    expect(find(routes, Uint8Array.of(0x73, 0xff))).toBe("topic-text");
    expect(find(routes, "s/a\0b")).toBe("topic-text");
  });
});
