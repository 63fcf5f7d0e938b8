/**
 * The life of the uplink. Every state answers every event: what cannot happen, or does not matter, stays where it is.
 *
 *   offline ──connected──▶ waiting ──retry──▶ greeting ──greeted──▶ resolving ──resolved──▶ sending
 *                             ▲                  │                     │  ▲                   │
 *                             └──────failed──────┴─────────────────────┘  └──streams-changed──┤
 *                             └──────────────────────────failed───────────────────────────────┘
 *
 * Losing the connection leads to offline from everywhere; a new incarnation has to greet again; forked and stopped are final.
 */
export const LINK_STATES = ["offline", "waiting", "greeting", "resolving", "sending", "forked", "stopped"] as const;
export type LinkState = (typeof LINK_STATES)[number];

export const LINK_EVENTS = [
  "connected",
  "disconnected",
  /** The wait after a failure, or before a flood of gateways would reconnect at once, is over. */
  "retry",
  "greeted",
  "resolved",
  /** A stream has to be registered at the core, or looked up again. */
  "streams-changed",
  /** An answer was missing or told to try again. */
  "failed",
  /** The log was opened again, under a new incarnation. */
  "reopened",
  /** Another gateway writes under this identity (rule W2). */
  "forked",
  "stop",
] as const;
export type LinkEvent = (typeof LINK_EVENTS)[number];

type Row = Readonly<Record<LinkEvent, LinkState>>;

const stay = (state: LinkState, changes: Partial<Row>): Row => ({
  connected: state,
  disconnected: "offline",
  retry: state,
  greeted: state,
  resolved: state,
  "streams-changed": state,
  failed: state,
  reopened: state,
  forked: "forked",
  stop: "stopped",
  ...changes,
});

const TRANSITIONS: Readonly<Record<LinkState, Row>> = {
  offline: stay("offline", { connected: "waiting" }),
  waiting: stay("waiting", { retry: "greeting" }),
  greeting: stay("greeting", { greeted: "resolving", failed: "waiting", reopened: "waiting" }),
  resolving: stay("resolving", { resolved: "sending", failed: "waiting", reopened: "greeting" }),
  sending: stay("sending", { "streams-changed": "resolving", failed: "waiting", reopened: "greeting" }),
  forked: stay("forked", { disconnected: "forked" }),
  stopped: stay("stopped", { disconnected: "stopped", forked: "stopped" }),
};

export function nextLinkState(state: LinkState, event: LinkEvent): LinkState {
  return TRANSITIONS[state][event];
}
