import { expect, test } from "vitest";
import { LINK_EVENTS, LINK_STATES, type LinkEvent, type LinkState, nextLinkState } from "./link-state.ts";

test("every state answers every event with a state", () => {
  for (const state of LINK_STATES) {
    for (const event of LINK_EVENTS) expect(LINK_STATES).toContain(nextLinkState(state, event));
  }
});

test("the good way", () => {
  const way: LinkEvent[] = ["connected", "retry", "greeted", "resolved", "streams-changed", "resolved"];
  const states: LinkState[] = ["offline"];
  for (const event of way) states.push(nextLinkState(states.at(-1) ?? "offline", event));
  expect(states).toEqual(["offline", "waiting", "greeting", "resolving", "sending", "resolving", "sending"]);
});

test("a failure anywhere leads to a new greeting", () => {
  for (const state of ["greeting", "resolving", "sending"] as const) expect(nextLinkState(state, "failed")).toBe("waiting");
});

test("a new incarnation is greeted before anything of it is sent", () => {
  for (const state of ["resolving", "sending"] as const) expect(nextLinkState(state, "reopened")).toBe("greeting");
  // The greeting on its way is of the incarnation before.
  expect(nextLinkState("greeting", "reopened")).toBe("waiting");
});

test("forked and stopped are final", () => {
  for (const event of LINK_EVENTS) {
    expect(nextLinkState("stopped", event)).toBe("stopped");
    if (event !== "stop") expect(nextLinkState("forked", event)).toBe("forked");
  }
});
