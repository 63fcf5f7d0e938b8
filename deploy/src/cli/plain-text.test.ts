import { expect, it } from "vitest";
import { plainText } from "./plain-text.ts";

it("flattens and aligns nested facts", () => {
  const facts = { side: "gateway", uplink: { state: "sending", counters: { sent: 7 } }, publishes: [1, 2, 0], trouble: "", none: {} };
  expect(plainText({ ...facts, containers: [{ id: 0, ok: true }, { id: 1 }] }).split("\n")).toEqual([
    "side                  gateway",
    "uplink.state          sending",
    "uplink.counters.sent  7",
    "publishes             1 2 0",
    "trouble               -",
    "containers.0.id       0",
    "containers.0.ok       true",
    "containers.1.id       1",
  ]);
});

it("is empty for nothing", () => {
  expect(plainText({})).toBe("");
});
