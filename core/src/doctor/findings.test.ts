import { expect, test } from "vitest";
import { type ClusterFacts, findingsOf } from "./findings.ts";

const server = (name: string, changes: Partial<ClusterFacts["servers"][number]> = {}) => ({
  ...{ id: name, name, version: "2.15.1", jetstream: true, syncAlways: true, clusterSize: 3, maxPayloadBytes: 8_388_608 },
  ...{ nowMs: 1_000_000, askedAtMs: 1_000_100, storeBytes: 10, storeBytesMax: 100 },
  ...changes,
});
const peer = (name: string, changes: object = {}) => ({ name, current: true, offline: false, lag: 0, ...changes });
const stream = (changes: Partial<ClusterFacts["streams"][number]> = {}) => ({
  ...{ name: "tributary-local-wal-0", replicas: 3, leader: "a", peers: [peer("b"), peer("c")], differences: [] },
  ...changes,
});
const healthy: ClusterFacts = {
  connectedId: "a",
  connectedVersion: "2.15.1",
  servers: [server("a"), server("b"), server("c")],
  streams: [stream()],
  replicasWanted: 3,
  frameBytesMin: 4_259_840,
  lake: { path: "/lake", exists: true, writable: true, bytesFree: 60, bytes: 100, foreign: "" },
};

test("a healthy cluster has nothing to change", () => {
  const findings = findingsOf(healthy);
  expect(findings.filter(({ level }) => level !== "ok")).toEqual([]);
  expect(findings.length).toBeGreaterThan(4);
});

const cases: [name: string, changes: Partial<ClusterFacts>, level: "warning" | "bad", text: string][] = [
  ["a server that does not sync", { servers: [server("a"), server("b", { syncAlways: false }), server("c")] }, "bad", "sync_interval"],
  ["a server that was not seen", { servers: [server("a"), server("b")] }, "bad", "only 2 of the 3"],
  ["a small max_payload", { servers: healthy.servers.map((each) => ({ ...each, maxPayloadBytes: 1_048_576 })) }, "bad", "max_payload"],
  ["a clock", { servers: healthy.servers.map((each) => ({ ...each, nowMs: each.askedAtMs + 3_600_000 })) }, "warning", "3600.0 s"],
  ["a disk that fills up", { servers: healthy.servers.map((each) => ({ ...each, storeBytes: 85 })) }, "warning", "85 % full"],
  ["a full disk", { servers: healthy.servers.map((each) => ({ ...each, storeBytes: 96 })) }, "bad", "96 % full"],
  ["one copy", { streams: [stream({ replicas: 1, peers: [] })], replicasWanted: 1 }, "warning", "1 of 3 copies"],
  ["a setting that is not what the streams have", { replicasWanted: 5 }, "bad", "nats.replicas is 5, and tributary-local-wal-0 has 3"],
  ["a copy whose server was removed", { streams: [stream({ peers: [peer("b")] })] }, "warning", "2 of its 3 copies"],
  ["no leader", { streams: [stream({ leader: "" })] }, "bad", "no leader"],
  ["a copy that is away", { streams: [stream({ peers: [peer("b", { offline: true }), peer("c")] })] }, "warning", "offline"],
  [
    "a copy that is behind",
    { streams: [stream({ peers: [peer("b", { current: false, lag: 7 }), peer("c")] })] },
    "warning",
    "7 operations",
  ],
  ["a stream that was changed", { streams: [stream({ differences: ["max_age is 5, it must be 0"] })] }, "bad", "max_age"],
  ["nothing there yet", { streams: [] }, "warning", "no streams"],
  ["a lake that is another's", { lake: { ...healthy.lake, foreign: "it belongs to 'other'" } }, "bad", "other"],
  ["a lake that is not mounted", { lake: { ...healthy.lake, exists: false, writable: false } }, "warning", "is not there"],
  ["a lake that cannot be written", { lake: { ...healthy.lake, writable: false } }, "bad", "cannot be written"],
  ["a full lake", { lake: { ...healthy.lake, bytesFree: 1 } }, "bad", "99 % full"],
];

test.each(cases)("%s is found, with what to do", (_, changes, level, text) => {
  const found = findingsOf({ ...healthy, ...changes }).filter((finding) => finding.level !== "ok");
  expect(found.some((finding) => finding.level === level && finding.what.includes(text))).toBe(true);
  for (const { advice } of found) expect(advice).not.toBe("");
});
